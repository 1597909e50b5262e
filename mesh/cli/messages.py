"""Sending and serving: `call`, `cast`, `fanout`, `rpc`. The serving side is in `serving`."""

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from mesh.cli.exits import Exit
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
    from mesh.client.api import Receipt

__all__ = ["call", "cast", "fanout", "rpc"]

_DURABLE_TTL_S = 300.0
"""As in `Client.cast`."""

_WAITED = "How long to wait for the end; what has not begun by then never does."


@click.command(short_help="Ask one instance of a topic, print its reply.")
@topic_argument()
@body_argument
@timeout_option(10.0, "How long to wait for the reply.")
@header_option
@click.option("--wait", is_flag=True, help="When nobody serves the topic, wait for somebody.")
@click.option("--wait-for-room", is_flag=True, help="When all who serve the topic are full, wait for room.")
@click.option("--idempotent", is_flag=True, help="It may run twice: retry it elsewhere when an agent or app is lost.")
@click.option(
    "--monitor-s",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Give it up when the serving app shows no sign of life for so long; 0: wait for the timeout.",
)
@json_option
@namespace_option
@socket_option
def call(
    topic: str,
    body: str | None,
    timeout_s: float,
    headers: tuple[str, ...],
    wait: bool,
    wait_for_room: bool,
    idempotent: bool,
    monitor_s: float,
    as_json: bool,
    namespace: str,
    socket: str | None,
) -> None:
    """Call TOPIC (or TOPIC@SERVER) with BODY and write the reply's body to standard output, as it is.

    Without BODY, or with - for it, the body is read from standard input.
    """
    kept, data = headers_of(headers), read_body(body)
    with connected(socket, namespace=namespace, timeout_s=timeout_s) as client:
        began = time.perf_counter()
        reply = client.call(
            topic,
            data,
            timeout_s=timeout_s,
            headers=kept,
            wait=wait,
            wait_for_room=wait_for_room,
            idempotent=idempotent,
            monitor_s=monitor_s,
        )
        elapsed_ms = (time.perf_counter() - began) * 1000
    if not as_json:
        sys.stdout.buffer.write(reply.body)
        sys.stdout.buffer.flush()
        if sys.stdout.isatty() and not reply.body.endswith(b"\n"):
            click.echo()
        return
    report = {**_body_as_json(reply.body), "headers": dict(reply.headers)}
    click.echo(json.dumps({**report, "id": str(reply.id), "elapsed_ms": round(elapsed_ms, 3)}))


@click.command(short_help="Send to one instance of a topic.")
@topic_argument()
@body_argument
@timeout_option(10.0, _WAITED)
@header_option
@click.option("--wait", is_flag=True, help="When nobody serves the topic, wait for somebody.")
@click.option("--once", is_flag=True, help="Never send it again after it may have begun.")
@click.option("--durable", is_flag=True, help="Return when it is on this machine's disk: it survives app and agent.")
@click.option(
    "--ttl-s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help=f"How long it may be delivered; without it --timeout-s, and {_DURABLE_TTL_S:g} s with --durable.",
)
@json_option
@namespace_option
@socket_option
def cast(
    topic: str,
    body: str | None,
    timeout_s: float,
    headers: tuple[str, ...],
    wait: bool,
    once: bool,
    durable: bool,
    ttl_s: float | None,
    as_json: bool,
    namespace: str,
    socket: str | None,
) -> None:
    """Send BODY to one instance of TOPIC (or to TOPIC@SERVER), and return when its handler has ended.

    What an app has sent is kept only as long as the app lives, unless it is durable, so this command stays until then.
    Without BODY, or with - for it, the body is read from standard input.
    """
    kept, data = headers_of(headers), read_body(body)
    ttl_s = ttl_s or (_DURABLE_TTL_S if durable else timeout_s)
    with connected(socket, namespace=namespace, timeout_s=timeout_s) as client:
        id = client.cast(
            topic,
            data,
            ttl_s=ttl_s,
            headers=kept,
            confirm=not durable,
            wait=wait,
            once=once,
            durable=durable,
            timeout_s=timeout_s,
        )
    if as_json:
        click.echo(json.dumps({"id": str(id)}))


@click.command(short_help="Send to every instance of a topic.")
@topic_argument()
@body_argument
@timeout_option(10.0, _WAITED)
@header_option
@json_option
@namespace_option
@socket_option
def fanout(
    topic: str,
    body: str | None,
    timeout_s: float,
    headers: tuple[str, ...],
    as_json: bool,
    namespace: str,
    socket: str | None,
) -> int:
    """Send BODY to every instance of TOPIC and print the receipt, when all have ended or the time is over.

    Exits with 1 if a handler failed and with 6 if the end of one is not known. Without BODY, or with - for it, the body
    is read from standard input.
    """
    kept, data = headers_of(headers), read_body(body)
    with connected(socket, namespace=namespace, timeout_s=timeout_s) as client:
        receipt = client.fanout(topic, data, ttl_s=timeout_s, headers=kept, confirm=True)
    counts = {name: getattr(receipt, name) for name in ("asked", "finished", "failed", "unknown")}
    if as_json:
        click.echo(json.dumps({**counts, "id": str(receipt.id)}))
    else:
        click.echo(" · ".join(f"{name} {count}" for name, count in counts.items()))
    return _verdict(receipt)


def _verdict(receipt: "Receipt") -> Exit:
    if receipt.failed:
        return Exit.FAILED
    return Exit.INDETERMINATE if receipt.unknown else Exit.OK


@click.command(short_help="Call a typed method.")
@topic_argument()
@click.argument("method")
@click.argument("arguments", nargs=-1, metavar="[KEY=VALUE]...")
@timeout_option(10.0, "How long to wait for the result.")
@header_option
@namespace_option
@socket_option
def rpc(
    topic: str,
    method: str,
    arguments: tuple[str, ...],
    timeout_s: float,
    headers: tuple[str, ...],
    namespace: str,
    socket: str | None,
) -> None:
    """Call METHOD of what serves TOPIC by mesh.rpc, and print its result as JSON (bytes as base64).

    A VALUE that is JSON is passed as what it says (3, true, [1,2], "3"), any other as text.
    """
    import msgspec

    from mesh.client import rpc as typed

    named, kept = arguments_of(arguments), headers_of(headers)
    with connected(socket, namespace=namespace, timeout_s=timeout_s) as client:
        result = typed.call(client, topic, method, named, timeout_s=timeout_s, headers=kept)
    click.echo(msgspec.json.encode(result).decode())


def arguments_of(texts: tuple[str, ...]) -> dict[str, Any]:
    """Return the arguments of a method that were given as ``key=value``; raises UsageError."""
    arguments: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise click.UsageError(f"{text!r} is not KEY=VALUE with a parameter's name as KEY")
        try:
            arguments[key] = json.loads(value)
        except ValueError:
            arguments[key] = value
    return arguments


def _body_as_json(body: bytes) -> dict[str, str]:
    """Return a body as text, or as base64 where it is none."""
    try:
        return {"body": body.decode()}
    except UnicodeDecodeError:
        import base64

        return {"body_base64": base64.b64encode(body).decode()}
