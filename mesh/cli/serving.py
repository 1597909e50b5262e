"""`serve`: a command of the system handles the messages of a topic, one process for each."""

import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
from functools import partial
from typing import TYPE_CHECKING

import click

from mesh.cli.options import connected, namespace_option, socket_option, topic_argument

if TYPE_CHECKING:
    from mesh.client.api import Message

__all__ = ["CommandFailed", "run_command", "serve"]

STDERR_TAIL_CHARS = 2_000
"""How much of what a failed command wrote to standard error its caller is told."""


class CommandFailed(Exception):
    """The command did not exit with 0, could not be started, or took too long."""


@click.command(short_help="Serve a topic with a command of the system.")
@topic_argument()
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--server", default="", metavar="NAME", help="The name of this instance, as in TOPIC@NAME.")
@click.option(
    "--workers", type=click.IntRange(1, 1024), default=4, show_default=True, help="How many commands run at once."
)
@namespace_option
@socket_option
def serve(topic: str, command: tuple[str, ...], server: str, workers: int, namespace: str, socket: str | None) -> None:
    """Serve TOPIC by running COMMAND for each message, until Ctrl-C or SIGTERM.

    The body is the command's standard input, its standard output is the reply. If it does not exit with 0, its caller
    gets a remote error with the end of its standard error. A command that outlives its caller's patience is killed.

    The command finds in its environment MESH_TOPIC, MESH_KIND (call, cast or fanout), MESH_MESSAGE_ID,
    MESH_REMAINING_S and MESH_HEADERS (a JSON object). An example:

        mesh serve upper -- tr a-z A-Z
    """
    if shutil.which(command[0]) is None:
        raise click.UsageError(f"{command[0]!r} is not a command that can be run: check its name and PATH")
    _log_in_lines()
    with connected(socket, namespace=namespace, timeout_s=10.0) as client:
        handler = partial(run_command, command)
        client.serve(topic, handler, server=server, workers=workers, prefetch=workers)
        click.echo(f"serving {topic} on {client.node} with {command[0]}; Ctrl-C ends it", err=True)
        client.run()


def _log_in_lines() -> None:
    """Have the client's warnings written as a line each: of what a command did, a traceback tells nothing."""

    def shorten(record: logging.LogRecord) -> bool:
        if record.exc_info:
            record.msg, record.args = f"{record.getMessage()}: {record.exc_info[1]}", ()
            record.exc_info = record.exc_text = None
        return True

    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("mesh: %(message)s"))
    handler.addFilter(shorten)
    logging.getLogger("mesh").addHandler(handler)


def run_command(command: tuple[str, ...], message: "Message") -> bytes:
    """Return what the command makes of a message; raises CommandFailed."""
    told = {
        "MESH_TOPIC": message.topic,
        "MESH_KIND": message.kind,
        "MESH_MESSAGE_ID": str(message.id),
        "MESH_REMAINING_S": f"{message.remaining_s:.3f}",
        "MESH_HEADERS": json.dumps(dict(message.headers)),
    }
    # A session of its own: Ctrl-C is for us, who let it finish, and its children end with it.
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **told},
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise CommandFailed(f"{command[0]} could not be started: {error}") from None
    with process:
        try:
            stdout, stderr = process.communicate(message.body, timeout=max(0.0, message.remaining_s))
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise CommandFailed(f"{command[0]} was killed: its caller waits no longer") from None
            raise
    if process.returncode:
        tail = stderr.decode(errors="replace").strip()[-STDERR_TAIL_CHARS:]
        raise CommandFailed(f"{command[0]} exited with {process.returncode}{': ' if tail else ''}{tail}")
    return stdout
