"""Who follows what this process asks for and handles, if anybody does: `mesh.otel` can.

One follower for the whole process, as there is one provider of traces. Without one nothing here costs anything.
"""

from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from mesh.core.records import Request

if TYPE_CHECKING:
    from mesh.client.api import Message

__all__ = ["Asked", "Follower", "follow", "follower", "tell_asked"]

Asked = Callable[[BaseException | None], None]
"""Is told once how what was asked ended: None, well."""


class Follower(Protocol):
    """Is told of requests when they begin; may add headers to those that are made here."""

    def asks(self, request: Request, node: str, session: int) -> Asked: ...
    def handles(self, message: "Message") -> AbstractContextManager[object]: ...


_follower: Follower | None = None


def follow(one: Follower | None) -> None:
    """Have this one, and no other, be told from now on; None: nobody."""
    global _follower
    _follower = one


def tell_asked(asked: Asked, future: Any) -> None:
    """Tell how a future that is done ended, one of threads or of asyncio."""
    asked(CancelledError("given up") if future.cancelled() else future.exception())


def follower() -> Follower | None:
    """Return who is told, or None."""
    return _follower
