"""The group of all commands, and what an error looks like: one line that says what, where, and what to do."""

import os
import sys
from collections.abc import Sequence

import click

from mesh.cli import (
    bench,
    completion,
    config,
    dead,
    demo,
    doctor,
    draining,
    exits,
    fleet,
    inspecting,
    keys,
    messages,
    recorder,
    reload,
    run,
    serving,
    sim,
    trace,
    why,
)
from mesh.cli.agent import agent
from mesh.cli.exits import Exit
from mesh.errors import ConfigError, MeshError

__all__ = ["commands", "main", "run_command_line"]

NAMES = ("mesh", "heartmesh")

_EPILOG = f"\b\nExit statuses:\n{exits.table()}"


def _print_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            click.echo(f"mesh {version('heartmesh')}")
        except PackageNotFoundError:
            click.echo("mesh, not installed")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, epilog=_EPILOG)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Show the version."
)
def commands() -> None:
    """A broker-less message mesh: call, cast and fan-out between machines that heartbeat each other.

    Start an agent with `mesh agent`, or see three of them at work with `mesh demo`. Colours are left out where
    NO_COLOR is set.
    """


for command in (
    agent,
    run.run,
    demo.demo,
    messages.call,
    messages.cast,
    messages.fanout,
    messages.rpc,
    serving.serve,
    inspecting.status,
    inspecting.topics,
    inspecting.links,
    inspecting.ping,
    fleet.topology,
    fleet.top,
    draining.drain,
    dead.dead,
    bench.bench,
    keys.keys,
    reload.reload,
    recorder.recorder,
    trace.trace,
    why.why,
    sim.sim,
    config.config,
    doctor.doctor,
    completion.completion,
):
    commands.add_command(command)


def main() -> None:
    """Run the command line and exit with its status."""
    called = os.path.basename(sys.argv[0])
    sys.exit(run_command_line(sys.argv[1:], called if called in NAMES else NAMES[0]))


def run_command_line(arguments: Sequence[str], name: str = "mesh") -> int:
    """Run one command, called by one of the two names; return its exit status, see `exits`."""
    try:
        status = commands.main(list(arguments), prog_name=name, standalone_mode=False)
        sys.stdout.flush()
        return int(status or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except ConfigError as error:
        return _complain(str(error), Exit.FAILED)
    except MeshError as error:
        text = " ".join(str(error).split())
        advice = exits.advice_of(error)
        return _complain(f"{type(error).__name__}: {text}{'; ' if advice else ''}{advice}", exits.exit_of(error))
    except BrokenPipeError:
        # Whoever read our output has gone; nothing more may be written when this process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except OSError as error:
        return _complain(str(error), Exit.FAILED)


def _complain(text: str, status: Exit) -> int:
    click.echo(f"mesh: {text}", err=True)
    return status
