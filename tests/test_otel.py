"""Spans of what an app asks and handles, joined across processes by what travels in headers."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import mesh
from mesh import Message
from mesh.otel import instrument, uninstrument
from mesh.testing import Fleet
from mesh.testing.fixtures import fleet

__all__ = ["fleet"]

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    made = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(made))
    instrument(provider)
    yield made
    uninstrument()


def one(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    (span,) = [span for span in exporter.get_finished_spans() if span.name == name]
    return span


def are_joined(asked: ReadableSpan, handled: ReadableSpan) -> bool:
    return (
        handled.parent is not None
        and asked.context is not None
        and handled.context is not None
        and (handled.parent.span_id, handled.context.trace_id) == (asked.context.span_id, asked.context.trace_id)
    )


def test_a_call_and_its_handling_are_two_spans_of_one_trace(fleet: Fleet, exporter: InMemorySpanExporter) -> None:
    fleet.connect("shop").serve("orders", lambda message: message.body, server="till")
    reply = fleet.connect("web").call("orders@till", b"four")
    asked, handled = one(exporter, "send orders"), one(exporter, "process orders")
    assert are_joined(asked, handled)
    assert (SpanKind.CLIENT, SpanKind.SERVER) == (asked.kind, handled.kind)
    assert {
        "messaging.system": "heartmesh",
        "messaging.operation.type": "send",
        "messaging.operation.name": "call",
        "messaging.destination.name": "orders",
        "messaging.destination.partition.id": "till",
        "messaging.message.body.size": 4,
        "messaging.message.id": str(reply.id),
    } == dict(asked.attributes or {})
    assert str(reply.id) == (handled.attributes or {})["messaging.message.id"]
    assert [StatusCode.UNSET] * 2 == [asked.status.status_code, handled.status.status_code]


def test_what_a_handler_asks_in_turn_is_below_what_it_handles(fleet: Fleet, exporter: InMemorySpanExporter) -> None:
    shop = fleet.connect("shop")
    shop.serve("orders", lambda message: shop.call("stock").body)
    fleet.connect("store").serve("stock", lambda message: b"7")
    fleet.connect("web").call("orders")
    assert are_joined(one(exporter, "process orders"), one(exporter, "send stock"))
    assert are_joined(one(exporter, "send stock"), one(exporter, "process stock"))


@pytest.mark.parametrize("confirm", [False, True])
def test_casts_and_fan_outs_are_produced_and_consumed(
    fleet: Fleet, exporter: InMemorySpanExporter, confirm: bool
) -> None:
    fleet.connect("shop").serve("orders", lambda message: None)
    client = fleet.connect("web")
    client.cast("orders", confirm=confirm)
    client.fanout("orders", confirm=confirm)
    fleet.sleep(1.0)
    kinds = [(span.name, span.kind) for span in exporter.get_finished_spans()]
    assert (
        2 * [("process orders", SpanKind.CONSUMER), ("send orders", SpanKind.PRODUCER)]
        == sorted(kinds)[::2] + (sorted(kinds)[1::2])
    )


def test_how_it_ends_badly_is_in_both(fleet: Fleet, exporter: InMemorySpanExporter) -> None:
    def refuse(message: Message) -> bytes:
        raise ValueError("no more")

    fleet.connect("shop").serve("orders", refuse)
    with pytest.raises(mesh.RemoteError):
        fleet.connect("web").call("orders")
    asked, handled = one(exporter, "send orders"), one(exporter, "process orders")
    assert ["RemoteError", "ValueError"] == [(span.attributes or {})["error.type"] for span in (asked, handled)]
    assert [StatusCode.ERROR] * 2 == [asked.status.status_code, handled.status.status_code]
    assert ["exception"] == [event.name for event in handled.events]


def test_what_is_not_taken_ends_too(fleet: Fleet, exporter: InMemorySpanExporter) -> None:
    client = fleet.connect("web")
    with pytest.raises(mesh.Unroutable):
        client.call_async("nothing").result()
    client.close()
    with pytest.raises(mesh.SessionClosed):
        client.call("nothing")
    assert ["Unroutable"] == [(span.attributes or {})["error.type"] for span in exporter.get_finished_spans()]


def test_a_message_of_somebody_elses_trace_goes_on_in_it(fleet: Fleet, exporter: InMemorySpanExporter) -> None:
    seen: list[int] = []

    def handle(message: Message) -> None:
        seen.append(trace.get_current_span().get_span_context().trace_id)

    fleet.connect("shop").serve("orders", handle)
    uninstrument()
    client = fleet.connect("web")
    client.call("orders", headers={"traceparent": TRACEPARENT, "k": "v"})
    instrument(TracerProvider())
    client.call("orders", headers={"k": "v"})
    assert {"k", "traceparent"} == set(fleet.sent[-1].headers)
    assert 0 == seen[0] != seen[1]


def test_it_is_the_same_for_asyncio(exporter: InMemorySpanExporter) -> None:
    asyncio.run(call_in_turn())
    assert are_joined(one(exporter, "send orders"), one(exporter, "process orders"))
    stock = [span for span in exporter.get_finished_spans() if span.name == "send stock"]
    assert [None, "Indeterminate"] == [(span.attributes or {}).get("error.type") for span in stock]


async def call_in_turn() -> None:
    with Fleet() as fleet:
        shop = await fleet.connect_aio("shop")

        async def handle(message: Message) -> bytes:
            return (await shop.call("stock")).body

        await shop.serve("orders", handle)
        await shop.serve("stock", lambda message: b"7")
        web = await fleet.connect_aio("web")
        assert b"7" == (await web.call_async("orders")).body
        fleet.fault("the reply is late", "stock", for_s=9)
        with pytest.raises(mesh.Indeterminate):
            await web.call("stock", timeout_s=1)


@pytest.mark.system
def test_nothing_of_it_is_imported_unless_it_is_asked_for() -> None:
    code = "import mesh, mesh.testing, sys; mesh.aio; print([m for m in sys.modules if 'opentelemetry' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "[]" == done.stdout.strip()
