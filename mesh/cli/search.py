"""What `sim` does when it searches: many seeds or one, a failing one made small, and words for people."""

import json
import os
import time
from itertools import count
from typing import TYPE_CHECKING

import click
from msgspec import json as msgspec_json

from mesh.cli.exits import Exit

if TYPE_CHECKING:
    from mesh.sim.run import Result
    from mesh.sim.sweep import Sum

__all__ = ["play_many", "play_one"]

TRACE_LINES = 300
"""Lines of a failing run's trace that are printed, the last ones."""

SHOWN_MAX = 10
"""Failing seeds that are listed."""


def play_one(seed: int, only: tuple[str, ...], traced: bool, shrunk: bool, as_json: bool) -> int:
    """Play one seed, with its trace if asked for; return the exit status."""
    from mesh.sim.plan import draw
    from mesh.sim.run import play
    from mesh.sim.sweep import Sum

    result = play(draw(seed, only), trace=traced)
    if as_json:
        click.echo(msgspec_json.format(msgspec_json.encode(result)).decode())
        return Exit.FAILED if result.findings else Exit.OK
    for line in result.trace:
        click.echo(line)
    total = Sum()
    total.add(result)
    _print_sum(total, result.cpu_s)
    if result.findings:
        _explain(result, only, shrunk and not traced)
    return Exit.FAILED if result.findings else Exit.OK


def play_many(
    first: int,
    last: int | None,
    minutes: float | None,
    only: tuple[str, ...],
    processes: int | None,
    shrunk: bool,
    as_json: bool,
) -> int:
    """Play seeds from ``first`` on, to ``last`` or for so many minutes; return the exit status."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from mesh.sim.sweep import Sum, sweep

    began = time.monotonic()
    numbers = count(first) if last is None else range(first, last + 1)
    columns = (BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=as_json) as bar:
        task = bar.add_task("seeds", total=60 * minutes if minutes else len(range(first, (last or first) + 1)))

        def goes_on(total: Sum) -> bool:
            elapsed_s = time.monotonic() - began
            bar.update(
                task,
                completed=elapsed_s if minutes else total.seeds,
                description=f"{total.seeds} seeds, {total.deliveries:,} deliveries, {len(total.failed)} failed",
            )
            return not minutes or elapsed_s < 60 * minutes

        total = sweep(numbers, only, processes=processes or os.cpu_count() or 1, goes_on=goes_on)
    if as_json:
        click.echo(json.dumps({**_figures(total), "failed": {r.seed: r.findings for r in total.failed}}, indent=2))
        return Exit.FAILED if total.failed else Exit.OK
    _print_sum(total, time.monotonic() - began)
    for result in sorted(total.failed, key=lambda result: result.seed)[:SHOWN_MAX]:
        click.echo(f"seed {result.seed}: {result.findings[0]}")
    if total.failed:
        click.echo(f"{len(total.failed)} seeds failed. The first of them, made small:")
        _explain(min(total.failed, key=lambda result: result.seed), only, shrunk)
    return Exit.FAILED if total.failed else Exit.OK


def _figures(total: "Sum") -> dict[str, object]:
    return {
        "seeds": total.seeds,
        "messages": total.messages,
        "deliveries": total.deliveries,
        "deliveries_per_core_s": round(total.deliveries_per_s),
        "virtual_s": round(total.virtual_s, 1),
        "cpu_s": round(total.cpu_s, 2),
        "faults": dict(sorted(total.faults.items())),
        "outcomes": dict(sorted(total.outcomes.items())),
    }


def _print_sum(total: "Sum", wall_s: float) -> None:
    from mesh.cli.tables import console, rows_table

    faults = " · ".join(f"{kind} {number}" for kind, number in sorted(total.faults.items())) or "none"
    outcomes = " · ".join(f"{name} {number}" for name, number in sorted(total.outcomes.items()))
    rows = [
        ("seeds", f"{total.seeds:,} in {wall_s:.1f} s, {total.virtual_s / 3600:,.1f} h of virtual time"),
        ("messages", f"{total.messages:,}"),
        ("deliveries", f"{total.deliveries:,}, {total.deliveries_per_s:,.0f} in a second of one core"),
        ("faults", f"{sum(total.faults.values()):,}: {faults}"),
        ("outcomes", outcomes),
        ("failed", str(len(total.failed))),
    ]
    console().print(rows_table(("", ""), rows))


def _explain(result: "Result", only: tuple[str, ...], shrunk: bool) -> None:
    """Print a failing run as small as it can be made, its faults, the end of its trace, and how to play it again."""
    from mesh.sim.plan import draw
    from mesh.sim.run import play
    from mesh.sim.shrink import parts, shrink

    plan = draw(result.seed, only)
    if shrunk:
        plan = shrink(plan)
    again = play(plan, trace=True)
    click.echo(f"\nseed {result.seed}: {parts(plan)}")
    for line in again.trace[-TRACE_LINES:]:
        click.echo(line)
    for finding in again.findings:
        click.echo(f"FOUND {finding}")
    kinds = "".join(f" --only {kind}" for kind in only)
    click.echo(f"Play the whole run again with: mesh sim --seed {result.seed}{kinds} --trace")
