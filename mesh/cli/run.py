"""`run`: one program with an agent of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping

import click

__all__ = ["run", "run_child"]

_FORWARDED = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)


@click.command(short_help="Run a program with an agent of its own.", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: tuple[str, ...]) -> int:
    """Run COMMAND with a private agent, and exit with its status.

    The agent is on the local preset and in a temporary directory; COMMAND finds it by MESH_SOCKET. Signals are passed
    on; when COMMAND has ended, so does the agent. An example:

        mesh run -- python app.py
    """
    from mesh.cli.private import PrivateAgent, private_directory, unwinding

    if shutil.which(command[0]) is None:
        raise click.UsageError(f"{command[0]!r} is not a command that can be run: check its name and PATH")
    with unwinding(), private_directory() as directory, PrivateAgent(directory, "private") as agent:
        agent.wait_ready()
        return run_child(command, {**os.environ, "MESH_SOCKET": str(agent.socket)})


def run_child(command: tuple[str, ...], environment: Mapping[str, str]) -> int:
    """Run a command to its end and return its status as a shell does: 128 and more for a signal."""
    started: list[subprocess.Popen[bytes]] = []
    early: list[int] = []

    def forward(number: int, _: object) -> None:
        # What a terminal sends goes to all of its foreground processes: the command has it already.
        if number in _FROM_TERMINAL and _is_in_foreground():
            return
        if started:
            started[0].send_signal(number)
        else:
            early.append(number)  # it may run already, though its start has not returned here

    with _handling(forward):
        started.append(subprocess.Popen(command, env=environment))
        for number in early:
            started[0].send_signal(number)
        status = started[0].wait()
    return status if status >= 0 else 128 - status


@contextlib.contextmanager
def _handling(handler: Callable[[int, object], None]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number in _FORWARDED}
    try:
        yield
    finally:
        for number, was in before.items():
            signal.signal(number, was)


def _is_in_foreground() -> bool:
    """Return whether this process is in the foreground of a terminal."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
