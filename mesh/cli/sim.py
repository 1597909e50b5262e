"""`sim`: the core without sockets, in virtual time: search for failures, or step through a recording."""

from pathlib import Path

import click

from mesh.cli.options import json_option

__all__ = ["sim"]

SEEDS = 200
"""Seeds that are played when nothing is said."""


def _read_seeds(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, int | None] | None:
    """Read ``A..B``, both included, or ``A..``, without end."""
    if text is None:
        return None
    first, dots, last = text.partition("..")
    if not dots or not first.isdecimal() or not (last.isdecimal() or not last):
        raise click.BadParameter(f"{text!r} is not A..B, as in 0..999")
    if last and int(last) < int(first):
        raise click.BadParameter(f"{text!r}: the last seed comes before the first")
    return int(first), int(last) if last else None


def _check_only(context: click.Context, parameter: click.Parameter, kinds: tuple[str, ...]) -> tuple[str, ...]:
    from mesh.sim.faults import KINDS

    for kind in kinds:
        if kind not in KINDS:
            raise click.BadParameter(f"{kind!r} is none of {', '.join(KINDS)}")
    return kinds


@click.command(short_help="Search for failures in simulated meshes, or step through a recording.")
@click.option("--seed", type=click.IntRange(min=0), help="Play this one seed.")
@click.option(
    "--seeds",
    callback=_read_seeds,
    metavar="A..B",
    help=f"Play these seeds, both included; {SEEDS} from 0 on without it.",
)
@click.option(
    "--minutes", type=click.FloatRange(min=0, min_open=True), help="Play seed after seed for so long, from A or 0 on."
)
@click.option("--only", multiple=True, callback=_check_only, metavar="FAULT", help="No faults but these; repeatable.")
@click.option("--processes", type=click.IntRange(min=1), help="Processes that play; all cores without it.")
@click.option("--shrink/--no-shrink", "shrunk", default=True, help="Whether to make a failing run small first.")
@click.option(
    "--replay",
    "recording",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Play nothing, step through a recording: one of `mesh recorder dump`, or that an agent wrote when it broke.",
)
@click.option(
    "--from", "from_s", type=float, default=0.0, metavar="SECONDS", help="Of a recording, show what came then or later."
)
@click.option(
    "--until", "until_s", type=float, default=float("inf"), metavar="SECONDS", help="Of a recording, nothing later."
)
@click.option(
    "--exhaustive",
    "scenario",
    metavar="NAME",
    help="Try every schedule of this small world; `list` names them, `all` takes each in turn.",
)
@click.option(
    "--faults", "left", type=click.IntRange(0, 4), help="With --exhaustive: so many faults, not the scenario's number."
)
@click.option("--trace", "traced", is_flag=True, help="Of one seed or a recording: show every record and decision.")
@json_option
def sim(
    seed: int | None,
    seeds: tuple[int, int | None] | None,
    minutes: float | None,
    only: tuple[str, ...],
    processes: int | None,
    shrunk: bool,
    recording: Path | None,
    from_s: float,
    until_s: float,
    scenario: str | None,
    left: int | None,
    traced: bool,
    as_json: bool,
) -> int:
    """Search for failures in simulated meshes, or step the core through a recording.

    One seed decides the nodes, their options, the apps, what they send and what goes wrong: agents and apps that are
    killed or stopped, connections that break, stall or go silent, a matchmaker that is stale, wiped or away. Real nodes
    and real client sessions run in virtual time, and every promise of the delivery table is checked. A run that breaks
    one is made small and printed; the exit status is 1.

    With --exhaustive it is not chance that decides: every order of messages and faults in a small world is tried.

    A recording is stepped through with --replay: what came in, what was decided, and whether the same state came of it.
    Use the version of the agent that wrote it.
    """
    from mesh.cli.exhaustive import run
    from mesh.cli.replay import show_replay
    from mesh.cli.search import play_many, play_one

    if left is not None and scenario is None:
        raise click.UsageError("--faults is for --exhaustive")
    if scenario is not None:
        if recording is not None or seed is not None or seeds is not None or minutes is not None or only or traced:
            raise click.UsageError("--exhaustive tries every schedule; leave out what is for seeds and recordings")
        return run(scenario, left, as_json)
    if recording is not None:
        if seed is not None or seeds is not None or minutes is not None or only:
            raise click.UsageError("--replay steps through a recording; leave out what is for seeds")
        return show_replay(recording, from_s, until_s, trace=traced, as_json=as_json)
    if seed is not None:
        if seeds is not None or minutes is not None:
            raise click.UsageError("--seed plays one seed; leave out --seeds and --minutes")
        return play_one(seed, only, traced, shrunk, as_json)
    if traced:
        raise click.UsageError("--trace is for one run: give it with --seed or --replay")
    first, last = seeds or (0, None if minutes else SEEDS - 1)
    if last is None and minutes is None:
        raise click.UsageError("without a last seed, say for how many --minutes to go on")
    return play_many(first, last, minutes, only, processes, shrunk, as_json)
