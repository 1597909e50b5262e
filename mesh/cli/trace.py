"""`trace`: one call, and where its time went."""

import json
from typing import TYPE_CHECKING, Any

import click

from mesh.cli.options import (
    body_argument,
    connected,
    header_option,
    headers_of,
    json_option,
    namespace_option,
    read_body,
    socket_option,
    timeout_option,
    topic_argument,
)

if TYPE_CHECKING:
    from mesh.client.api import Reply

__all__ = ["trace"]

BAR_WIDTH = 30
"""Columns of the longest leg's bar."""


@click.command(short_help="Follow one call, and tell where its time goes.")
@topic_argument()
@body_argument
@click.option("--run", is_flag=True, help="Have the handler run; else the serving app answers in its stead.")
@timeout_option(10.0, "How long to wait for the answer.")
@header_option
@json_option
@namespace_option
@socket_option
def trace(
    topic: str,
    body: str | None,
    run: bool,
    timeout_s: float,
    headers: tuple[str, ...],
    as_json: bool,
    namespace: str,
    socket: str | None,
) -> None:
    """Call TOPIC (or TOPIC@SERVER) and tell how long each place held the request, and each way between two took.

    It goes the way of every call: it is allowed, placed, queued and counted like one. No handler runs, unless --run
    says so: the serving app answers as soon as a handler could have begun. BODY is as with `mesh call`; without it, and
    without --run, it is empty. No clocks are compared: each place measures its own times.
    """
    kept = headers_of(headers)
    data = read_body(body) if run or body is not None else b""
    with connected(socket, namespace=namespace, timeout_s=timeout_s) as client:
        reply = client.trace(topic, data, timeout_s=timeout_s, headers=kept, run=run)
    if as_json:
        click.echo(json.dumps(_as_json(topic, reply, run)))
    else:
        _show(topic, reply, run)


def _took_s(reply: "Reply") -> float:
    return sum(leg.took_s for leg in reply.legs)


def _as_json(topic: str, reply: "Reply", run: bool) -> dict[str, Any]:
    return {
        "topic": topic,
        "id": str(reply.id),
        "ran": run,
        "took_ms": _ms(_took_s(reply)),
        "legs": [{"where": leg.where, "what": leg.what, "took_ms": _ms(leg.took_s)} for leg in reply.legs],
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _show(topic: str, reply: "Reply", run: bool) -> None:
    from rich.markup import escape

    from mesh.cli.tables import console, rows_table

    what = "the handler ran" if run else "a probe, no handler ran"
    click.echo(f"{topic}: {_ms(_took_s(reply)):.3f} ms, {what} [{reply.id}]")
    longest = max(leg.took_s for leg in reply.legs)
    rows = [
        (f"{_ms(leg.took_s):.3f} ms", escape(leg.where), leg.what, "█" * round(BAR_WIDTH * leg.took_s / longest))
        for leg in reply.legs
    ]
    console().print(rows_table(("TOOK", "WHERE", "", ""), rows, right=("TOOK",)))
