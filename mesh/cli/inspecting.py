"""Looking at the local agent: `status`, `topics`, `links`, `ping`."""

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from mesh.cli.exits import Exit, exit_of
from mesh.cli.options import (
    connected,
    json_option,
    namespace_option,
    socket_option,
    timeout_option,
    topic_argument,
    watch_option,
)
from mesh.errors import MeshError, OutcomeError, RemoteError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mesh.client.sync import Client

__all__ = ["links", "ping", "status", "topics"]

REDRAW_S = 1.0

_answer_timeout = timeout_option(2.0, "How long to wait for the agent.")


@click.command(short_help="Who the local agent is, how it is doing, its apps.")
@watch_option
@json_option
@_answer_timeout
@socket_option
def status(watch: bool, as_json: bool, timeout_s: float, socket: str | None) -> None:
    """Show who the local agent is, how it is doing, and its apps."""
    from mesh.cli.tables import status_view

    _show("status", status_view, watch, as_json, timeout_s, socket)


@click.command(short_help="Topics of interest here, and who serves them.")
@watch_option
@json_option
@_answer_timeout
@socket_option
def topics(watch: bool, as_json: bool, timeout_s: float, socket: str | None) -> None:
    """Show the topics that apps of this machine serve or call: their heat, and who serves them."""
    from mesh.cli.tables import topics_table

    _show("topics", topics_table, watch, as_json, timeout_s, socket)


@click.command(short_help="Links to other agents: kind, reason, traffic.")
@watch_option
@json_option
@_answer_timeout
@socket_option
def links(watch: bool, as_json: bool, timeout_s: float, socket: str | None) -> None:
    """Show the local agent's links to others: kind, reason, round trip, last sign of life, traffic.

    A link to a peer that serves a hot topic is persistent and heartbeated; any other is ephemeral and closes when idle.
    """
    from mesh.cli.tables import links_table

    _show("links", links_table, watch, as_json, timeout_s, socket)


def _show(
    what: str,
    draw: "Callable[[Any], RenderableType]",
    watch: bool,
    as_json: bool,
    timeout_s: float,
    socket: str | None,
) -> None:
    """Print a report once, or every second; as JSON one line each time."""
    with connected(socket, timeout_s=timeout_s) as client:
        report = client.query(what, timeout_s=timeout_s)
        if as_json:
            click.echo(json.dumps(report, indent=None if watch else 2))
            while watch:
                time.sleep(REDRAW_S)
                click.echo(json.dumps(client.query(what, timeout_s=timeout_s)))
            return
        from mesh.cli.tables import console

        out = console()
        if not watch:
            out.print(draw(report))
            return
        _watch(client, what, draw, timeout_s)


def _watch(client: "Client", what: str, draw: "Callable[[Any], RenderableType]", timeout_s: float) -> None:
    """Draw a report every second until Ctrl-C; an agent that is away is waited for."""
    from rich.console import Group
    from rich.live import Live
    from rich.markup import escape

    from mesh.cli.tables import console

    out = console()
    with Live(console=out, auto_refresh=False) as live:
        while True:
            try:
                report = draw(client.query(what, timeout_s=timeout_s))
            except OutcomeError as error:
                report = f"[yellow]{escape(error.text)}[/]"
            shown = Group(f"[dim]mesh {what} · {escape(client.node)} · {time.strftime('%H:%M:%S')}[/]", report)
            if out.is_terminal:
                live.update(shown, refresh=True)
            else:
                out.print(shown)
            time.sleep(REDRAW_S)


@click.command(short_help="Measure round trips.")
@topic_argument("targets", nargs=-1, metavar="[NODE|TOPIC]...")
@click.option("--count", type=click.IntRange(min=1), default=3, show_default=True, help="How often to ask.")
@timeout_option(2.0, "How long to wait for each answer.")
@json_option
@namespace_option
@socket_option
def ping(
    targets: tuple[str, ...], count: int, timeout_s: float, as_json: bool, namespace: str, socket: str | None
) -> int:
    """Measure round trips: to the local agent, to a NODE that it has a link to, or to whoever serves a TOPIC.

    Without a target the agent is asked for its status. A NODE's figure is that of its link's last heartbeat. A TOPIC is
    called with an empty body, so its handler runs; that it fails is an answer too.
    """
    with connected(socket, namespace=namespace, timeout_s=timeout_s) as client:
        peers = {link["peer"]: link for link in client.query("links", timeout_s=timeout_s)}
        results = [_ping(client, peers, target, count, timeout_s) for target in targets or (client.node,)]
    for result in results:
        if as_json:
            click.echo(json.dumps(result))
        elif "error" in result:
            click.echo(f"{result['target']}: {result['error']}", err=True)
        else:
            click.echo(f"{result['target']}: {' '.join(f'{ms:.2f}' for ms in result['rtt_ms'])} ms ({result['how']})")
    return max(int(result["status"]) for result in results)


def _ping(client: "Client", peers: dict[str, Any], target: str, count: int, timeout_s: float) -> dict[str, Any]:
    """Return one target's round trips in ms, or why there are none, and the exit status that says so."""
    if target in peers:
        rtt_ms = peers[target]["rtt_ms"]
        if rtt_ms is None:
            return {"target": target, "error": "no heartbeat on its link yet: ask again", "status": Exit.FAILED}
        return {"target": target, "rtt_ms": [rtt_ms], "how": "the link's last heartbeat", "status": Exit.OK}
    is_agent = target == client.node
    how = "the local agent's status" if is_agent else "a call"
    rtts_ms = []
    for _ in range(count):
        began = time.perf_counter()
        try:
            if is_agent:
                client.query("status", timeout_s=timeout_s)
            else:
                client.call(target, timeout_s=timeout_s, idempotent=True)
        except RemoteError as error:
            how = f"a call; its handler failed: {error.type}"
        except MeshError as error:
            return {"target": target, "error": str(error), "status": exit_of(error)}
        rtts_ms.append(round((time.perf_counter() - began) * 1000, 3))
    return {"target": target, "rtt_ms": rtts_ms, "how": how, "status": Exit.OK}
