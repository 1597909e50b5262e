"""What a handler passes on to the calls that it makes: the time it has left, and its headers."""

from collections.abc import Mapping
from contextvars import ContextVar
from types import TracebackType

from mesh.client.api import Message
from mesh.client.tracing import follower
from mesh.errors import Expired

__all__ = ["Handling", "current", "inherited_headers", "inherited_timeout_s"]

_current: ContextVar[Message | None] = ContextVar("mesh_message", default=None)

TRACE = "traceparent"


def current() -> Message | None:
    """Return the message that is being handled here, or None."""
    return _current.get()


class Handling:
    """Calls that are made inside inherit from this message, and whoever follows it knows. A class, for there is one for
    each message, and a generator takes more than twice as long."""

    __slots__ = ("_followed", "_message", "_token")

    def __init__(self, message: Message) -> None:
        self._message = message

    def __enter__(self) -> None:
        following = follower()
        self._followed = following.handles(self._message) if following is not None else None
        if self._followed is not None:
            self._followed.__enter__()
        self._token = _current.set(self._message)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        try:
            return self._followed.__exit__(kind, error, trace) if self._followed is not None else None
        finally:
            _current.reset(self._token)


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
