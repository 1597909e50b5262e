"""`sim --exhaustive`: try every schedule of a small world."""

import json
from typing import TYPE_CHECKING

import click

from mesh.cli.exits import Exit

if TYPE_CHECKING:
    from mesh.sim.exhaustive import Scenario, Search

__all__ = ["ALL", "LIST", "run"]

ALL = "all"
LIST = "list"


def run(name: str, left: int | None, as_json: bool) -> int:
    """Search the scenario of this name, with ``left`` faults in place of its own number; or list them, or search all.

    Return the exit status. Raises BadParameter for a name that there is not.
    """
    from mesh.sim.smallworlds import SCENARIOS

    if name == LIST:
        return _list(list(SCENARIOS.values()), as_json)
    if name != ALL and name not in SCENARIOS:
        raise click.BadParameter(f"{name!r} is none of {', '.join(SCENARIOS)}; or {ALL}, or {LIST}")
    chosen = list(SCENARIOS.values()) if name == ALL else [SCENARIOS[name]]
    searches = {scenario.name: _search(scenario, left, as_json) for scenario in chosen}
    if as_json:
        click.echo(json.dumps({name: _figures(seen) for name, seen in searches.items()}, indent=2))
    return Exit.FAILED if any(seen.found for seen in searches.values()) else Exit.OK


def _list(scenarios: "list[Scenario]", as_json: bool) -> int:
    from mesh.cli.tables import console, rows_table

    if as_json:
        listed = [{"name": s.name, "text": s.text, "faults": s.faults, "left": s.left} for s in scenarios]
        click.echo(json.dumps(listed, indent=2))
    else:
        rows = [(s.name, s.text, str(s.left), ", ".join(s.faults)) for s in scenarios]
        console().print(rows_table(("scenario", "what happens", "faults", "of"), rows, right=("faults",)))
    return Exit.OK


def _search(scenario: "Scenario", left: int | None, as_json: bool) -> "Search":
    """Search one scenario, showing how far it is, and print what was seen."""
    from msgspec import structs
    from rich.console import Console

    from mesh.sim.exhaustive import search, told

    if left is not None:
        scenario = structs.replace(scenario, left=left)
    with Console(stderr=True, quiet=as_json).status(scenario.name) as status:

        def progress(seen: "Search") -> None:
            status.update(f"{scenario.name}: {seen.states:,} states, {seen.depth} moves deep, {seen.elapsed_s:.0f} s")

        seen = search(scenario, progress=progress)
    if not as_json:
        click.echo(f"{scenario.name}: {scenario.text}")
        for line in told(seen):
            click.echo(line)
    return seen


def _figures(seen: "Search") -> dict[str, object]:
    found = seen.found and {"why": seen.found.why, "moves": [str(move) for move in seen.found.moves]}
    return {
        "states": seen.states,
        "moves": seen.moves,
        "depth": seen.depth,
        "ended": seen.leaves,
        "cut_off": seen.cut_off,
        "elapsed_s": round(seen.elapsed_s, 3),
        "outcomes": dict(sorted(seen.ends.items())),
        "found": found or None,
    }
