"""`sim`: the core without sockets, in virtual time."""

from pathlib import Path

import click

from mesh.cli.options import json_option

__all__ = ["sim"]


@click.command(short_help="Step the core through a recording.")
@click.option(
    "--replay",
    "recording",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="A recording of `mesh recorder dump`, or one that an agent wrote when it broke.",
)
@click.option(
    "--from", "from_s", type=float, default=0.0, metavar="SECONDS", help="Show what came then, or later, in it."
)
@click.option("--until", "until_s", type=float, default=float("inf"), metavar="SECONDS", help="Show nothing later.")
@click.option("--trace", is_flag=True, help="Show every input, and every field of each record.")
@json_option
def sim(recording: Path, from_s: float, until_s: float, trace: bool, as_json: bool) -> int:
    """Step the core through a recording: what came in, what was decided, and whether the same state came of it.

    Use the version of the agent that wrote it.
    """
    from mesh.cli.replay import show_replay

    return show_replay(recording, from_s, until_s, trace=trace, as_json=as_json)
