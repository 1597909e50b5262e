"""Looking at the whole fleet from the local agent: `topology` and `top`."""

import json
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from mesh.cli.exits import Exit
from mesh.cli.options import connected, json_option, socket_option, timeout_option
from mesh.errors import OutcomeError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mesh.client.sync import Client

__all__ = ["fleet_of", "top", "topology"]

LOOK_PAUSE_S = 0.25
"""How often the agent is asked again while it has not heard of all."""

_answer_timeout = timeout_option(2.0, "How long to wait for the agent.")


@click.command(short_help="The whole fleet: who runs what, who calls whom.")
@click.option("--dot", is_flag=True, help="Print a graph for Graphviz: mesh topology --dot | dot -Tsvg")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=0, max=600),
    default=5.0,
    show_default=True,
    help="Seconds to wait until every agent was heard of.",
)
@json_option
@_answer_timeout
@socket_option
def topology(dot: bool, wait_s: float, as_json: bool, timeout_s: float, socket: str | None) -> int:
    """Show every agent of the fleet as the local one sees it: its links, its apps, what they serve and whom they call.

    The local agent asks the others. Who has not answered within --wait is shown so, and the exit status is 1.
    """
    if dot and as_json:
        raise click.UsageError("--dot and --json exclude each other")
    with connected(socket, timeout_s=timeout_s) as client:
        seen = _whole(client, wait_s, timeout_s)
    if as_json:
        click.echo(json.dumps(seen, indent=2))
    elif dot:
        from mesh.cli.trees import dot_of

        click.echo(dot_of(seen))
    else:
        from mesh.cli.tables import console
        from mesh.cli.trees import tree_of

        console().print(tree_of(seen))
    return Exit.OK if all(node["view"] for node in seen["nodes"]) else Exit.FAILED


@click.command(short_help="The whole fleet, live.")
@click.option("--once", is_flag=True, help="Draw it once, after two looks, and end.")
@_answer_timeout
@socket_option
def top(once: bool, timeout_s: float, socket: str | None) -> None:
    """Show agents, links and topics of the whole fleet, busiest first, drawn anew until Ctrl-C."""
    from rich.live import Live

    from mesh.cli.tables import console
    from mesh.cli.trees import Rates, top_of

    out, rates = console(), Rates()
    with connected(socket, timeout_s=timeout_s) as client:
        seen = _whole(client, timeout_s if once else 0.0, timeout_s)
        rates.take(seen)
        if once or not out.is_terminal:
            time.sleep(seen["view_s"])
            seen = fleet_of(client, timeout_s)
            rates.take(seen)
            out.print(top_of(seen, rates))
            return
        with Live(console=out, auto_refresh=False, screen=True) as live:
            while True:
                live.update(_drawn(client, rates, timeout_s), refresh=True)
                time.sleep(seen["view_s"])


def _drawn(client: "Client", rates: Any, timeout_s: float) -> "RenderableType":
    """Return the fleet as it is now; an agent that is away is waited for."""
    from rich.markup import escape

    from mesh.cli.trees import top_of

    try:
        seen = fleet_of(client, timeout_s)
    except OutcomeError as error:
        return f"[yellow]{escape(error.text)}[/]"
    rates.take(seen)
    return top_of(seen, rates)


def fleet_of(client: "Client", timeout_s: float) -> dict[str, Any]:
    """Return what the local agent knows of the fleet, of all its pages."""
    seen: dict[str, Any] = client.query("fleet", timeout_s=timeout_s)
    after = seen["next"]
    while after:
        page = client.query("fleet", timeout_s=timeout_s, after=after)
        seen["nodes"] += page["nodes"]
        after = page["next"]
    return seen


def _whole(client: "Client", wait_s: float, timeout_s: float) -> dict[str, Any]:
    """Look until every agent was heard of, or for so long."""
    give_up_at = time.monotonic() + wait_s
    while True:
        seen = fleet_of(client, timeout_s)
        if _is_whole(seen["nodes"], seen["node"]) or time.monotonic() >= give_up_at:
            return seen
        time.sleep(LOOK_PAUSE_S)


def _is_whole(nodes: Iterable[dict[str, Any]], here: str) -> bool:
    """Return whether the matchmaker has said who there is, and all of them have said how they are."""
    rows = list(nodes)
    return all(row["view"] for row in rows) and any(row["listed"] for row in rows if row["node"] == here)
