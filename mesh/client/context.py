"""What a handler passes on to the calls that it makes: the time it has left, and its headers."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from mesh.client.api import Message
from mesh.client.tracing import follower
from mesh.errors import Expired

__all__ = ["current", "handling", "inherited_headers", "inherited_timeout_s"]

_current: ContextVar[Message | None] = ContextVar("mesh_message", default=None)

TRACE = "traceparent"


def current() -> Message | None:
    """Return the message that is being handled here, or None."""
    return _current.get()


@contextmanager
def handling(message: Message) -> Iterator[None]:
    """Have calls that are made inside inherit from this message, and whoever follows it know."""
    token = _current.set(message)
    following = follower()
    try:
        if following is None:
            yield
        else:
            with following.handles(message):
                yield
    finally:
        _current.reset(token)


def inherited_timeout_s(timeout_s: float) -> float:
    """Return the timeout, cut to what the message being handled has left; raises Expired if that is nothing."""
    message = _current.get()
    if message is None:
        return timeout_s
    left_s = message.remaining_s
    if left_s <= 0:
        raise Expired(f"the message that is being handled here ({message.topic}) has no time left for further calls")
    return min(timeout_s, left_s)


def inherited_headers(headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """Return the headers given, else those of the message being handled; its ``traceparent`` always goes along."""
    message = _current.get()
    if message is None or not message.headers:
        return headers
    if headers is None:
        return message.headers
    if TRACE in headers or TRACE not in message.headers:
        return headers
    return {**headers, TRACE: message.headers[TRACE]}
