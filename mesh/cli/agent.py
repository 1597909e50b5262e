"""`agent`: this process becomes the agent's supervisor."""

import os
import sys
from pathlib import Path

import click

from mesh.cli.options import config_option

__all__ = ["agent", "agent_command"]


@click.command(short_help="Run this machine's agent.")
@config_option
def agent(path: Path | None) -> None:
    """Run this machine's agent until SIGTERM or Ctrl-C, which drain it; a second one stops it at once.

    \b
    Exit statuses of its own:
       0  drained and done
      70  a failure inside
      75  something it needs is held by another, or not there yet
      78  cannot work as configured, or the node id is taken: do not restart it
    """
    command = agent_command(path)
    sys.stdout.flush()
    os.execv(command[0], command)


def agent_command(path: Path | None) -> list[str]:
    """Return what starts an agent; `-P`, so that nothing in the working directory is taken for a module."""
    return [sys.executable, "-P", "-m", "mesh.agent", *(["--config", str(path)] if path else [])]
