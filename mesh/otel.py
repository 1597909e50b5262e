"""OpenTelemetry: a span for each call, cast and fan-out that this process asks for, and one for each that it handles.

``mesh.otel.instrument()`` switches it on for all clients of the process, of threads and of asyncio. It needs the extra
``otel``, which is the API alone: the app brings an SDK and says where spans go. Whoever asks puts the context of its
span into the message's headers (``traceparent`` with the usual propagators) and whoever handles goes on from there.

Names and attributes are those of the semantic conventions for messaging, v1.27: a span is called ``send TOPIC`` or
``process TOPIC``. Asking for a call is of kind CLIENT and handling it SERVER, for the caller waits; of casts and
fan-outs they are PRODUCER and CONSUMER. A span of who asks ends with the value or error that the app is given, so that
of a cast when the agent holds it, or with ``confirm`` when a handler has ended it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import propagate
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    TracerProvider,
    get_tracer,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from mesh.client.api import KIND_NAMES, Message
from mesh.client.tracing import Asked, follow
from mesh.core.records import Kind, Request
from mesh.types import MessageId

__all__ = ["instrument", "uninstrument"]

SYSTEM = "heartmesh"


def instrument(tracer_provider: TracerProvider | None = None) -> None:
    """From now on make spans, with this provider or the process's own. Said again it takes the place of the first."""
    follow(_Spans(get_tracer("heartmesh", tracer_provider=tracer_provider)))


def uninstrument() -> None:
    """Make no more spans."""
    follow(None)


class _Spans:
    """Makes a span of what it is told."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def asks(self, request: Request, node: str, session: int) -> Asked:
        kind = KIND_NAMES[request.kind]
        span = self._tracer.start_span(
            f"send {request.topic}",
            kind=SpanKind.CLIENT if request.kind == Kind.CALL else SpanKind.PRODUCER,
            attributes=_attributes("send", kind, request.topic, request.server, len(request.body)),
        )
        headers = dict(request.headers or {})
        propagate.inject(headers, context=set_span_in_context(span))
        request.headers = headers or None

        def asked(error: BaseException | None) -> None:
            span.set_attribute("messaging.message.id", str(MessageId(node, session, request.seq)))
            if error is not None:
                _fail(span, error)
            span.end()

        return asked

    @contextmanager
    def handles(self, message: Message) -> Iterator[None]:
        with self._tracer.start_as_current_span(
            f"process {message.topic}",
            context=propagate.extract(message.headers),
            kind=SpanKind.SERVER if message.kind == "call" else SpanKind.CONSUMER,
            attributes={
                **_attributes("process", message.kind, message.topic, message.server, len(message.body)),
                "messaging.message.id": str(message.id),
            },
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                span.record_exception(error)
                _fail(span, error)
                raise


def _attributes(operation: str, kind: str, topic: str, server: str, size: int) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        "messaging.system": SYSTEM,
        "messaging.operation.type": operation,
        "messaging.operation.name": kind,
        "messaging.destination.name": topic,
        "messaging.message.body.size": size,
    }
    if server:
        attributes["messaging.destination.partition.id"] = server
    return attributes


def _fail(span: Span, error: BaseException) -> None:
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(Status(StatusCode.ERROR, str(error)))
