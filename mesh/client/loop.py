"""A session on an asyncio loop: who waits for what. A `Line` carries its bytes and knows the time."""

import asyncio
import functools
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from mesh.client.api import Message, aimed_receipt, error_of, request_of
from mesh.client.calling import GRACE_S
from mesh.client.connection import Phase
from mesh.client.context import inherited_headers, inherited_timeout_s
from mesh.client.events import (
    Aimed,
    CancelAsked,
    Delivered,
    Ended,
    Event,
    Held,
    Lost,
    Outcome,
    ServingTold,
)
from mesh.client.session import Session
from mesh.client.tasks import Pool
from mesh.client.told import Told
from mesh.client.tracing import follower, tell_asked
from mesh.client.unheard import Unheard
from mesh.core.records import Failure, Kind, Request
from mesh.errors import AgentUnavailable, Indeterminate, OutcomeError, SessionClosed
from mesh.types import MessageId

__all__ = ["Engine", "Line"]


class Line(Protocol):
    """What carries a session's bytes and knows the time: `Stream` with a socket."""

    def now(self) -> float: ...
    def open(self) -> None: ...
    def flush_soon(self) -> None: ...
    async def wait(self, future: asyncio.Future[Any], until: float) -> None: ...
    def lose(self, reason: str) -> None: ...
    def raised(self, message: Message, error: BaseException) -> None: ...
    def close(self) -> None: ...


class Engine:
    """Tells who waits what came: by seq, in ``ends`` for its end, in ``holds`` to be accepted. ``line`` makes a line
    that tells what came of the session."""

    def __init__(self, session: Session, line: Callable[[Session, Callable[[list[Event]], None]], Line]) -> None:
        self.session = session
        self.line = line(session, self._after)
        self.now = self.line.now
        self.flush_soon = self.line.flush_soon
        self.raised = self.line.raised
        self.loop = asyncio.get_running_loop()
        self.ends: dict[int, asyncio.Future[Outcome]] = {}
        self.holds: dict[int, asyncio.Future[Outcome]] = {}
        self.pools: dict[str, Pool] = {}
        self.told = Told()
        self._watches: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._unheard = Unheard()

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self.session.phase is Phase.CLOSED

    # What came of it

    def _after(self, events: list[Event]) -> None:
        """Hand out events; then look who waits for what they may have brought."""
        for event in events:
            if isinstance(event, Ended):
                self._ended(event)
            elif isinstance(event, Delivered):
                self.pools[event.request.topic].put(event)
            elif isinstance(event, Held):
                for seq in event.seqs:
                    _resolve(self.holds.pop(seq, None), None)
            else:
                self._told(event)
        self.notice()
        self.flush_soon()

    def notice(self) -> None:
        """Something happened that predicates may be about."""
        for predicate, future in self._watches:
            if not future.done() and predicate():
                future.set_result(None)

    def _ended(self, event: Ended) -> None:
        future = self.ends.pop(event.seq, None) or self.holds.pop(event.seq, None)
        if future is not None:
            _resolve(future, event.outcome)
        elif isinstance(event.outcome, Failure):
            self._unheard.note(event.outcome, self.now())

    def _told(self, event: Event) -> None:
        """The rare events."""
        if isinstance(event, Aimed):
            _resolve(self.holds.pop(event.seq, None), aimed_receipt(self.session, event))
        elif isinstance(event, CancelAsked):
            for pool in self.pools.values():
                pool.cancel(event.id)
        elif isinstance(event, Lost):
            self.line.lose(event.reason)
        else:
            self.told.take(event)
            if isinstance(event, ServingTold) and event.topic not in self.session.serving.services:
                self.pools.pop(event.topic, None)

    # Waiting

    async def wait_until(self, predicate: Callable[[], bool], until: float) -> bool:
        """Wait until the predicate, evaluated whenever something happened, is true; return whether."""
        if predicate():
            return True
        watch = (predicate, self.loop.create_future())
        self._watches.append(watch)
        try:
            await self.line.wait(watch[1], until)
        finally:
            self._watches.remove(watch)
        return predicate()

    def check_open(self) -> None:
        """Raise SessionClosed if `stop` was called."""
        if self.is_stopped:
            raise SessionClosed("this client is closed")

    def prepare(
        self,
        kind: Kind,
        topic: str,
        body: bytes,
        timeout_s: float,
        headers: Mapping[str, str] | None,
        flags: int,
        monitor_s: float = 0.0,
        *,
        traced: bool = False,
    ) -> tuple[Request, float]:
        """Check a request; return it with its deadline."""
        self.check_open()
        if kind == Kind.CALL:
            timeout_s = inherited_timeout_s(timeout_s)
        limits, headers = self.session.limits, inherited_headers(headers)
        request = request_of(kind, topic, body, timeout_s, headers, flags, limits, monitor_s, traced=traced)
        return request, self.now() + timeout_s

    def submit(
        self, request: Request, deadline: float, waits: dict[int, asyncio.Future[Outcome]]
    ) -> tuple[int, asyncio.Future[Outcome]]:
        """Queue a request; return its seq and the future of its outcome. Raises Overloaded."""
        now = self.now()
        following = follower()
        asked = following.asks(request, self.session.limits.node, self.session.id) if following is not None else None
        try:
            seq = self.session.submit(request, deadline - now, now)
        except BaseException as error:
            if asked is not None:
                asked(error)
            raise
        future: asyncio.Future[Outcome] = self.loop.create_future()
        if asked is not None:
            future.add_done_callback(functools.partial(tell_asked, asked))
        waits[seq] = future
        self.flush_soon()
        return seq, future

    async def room(self, request: Request, deadline: float) -> None:
        """Wait for room, at most until the deadline."""
        session = self.session
        await self.wait_until(lambda: session.calling.full(request, session.limits) is None, deadline)

    async def outcome(self, seq: int, future: asyncio.Future[Outcome], until: float | None) -> Outcome:
        """Return the outcome; a request that nobody waits for any more, at ``until`` or if cancelled, is given up."""
        try:
            if until is not None:
                await self.line.wait(future, until + GRACE_S)
                if not future.done():
                    raise self.give_up(seq)
            return await future
        except asyncio.CancelledError:
            self.give_up(seq)
            raise

    def give_up(self, seq: int) -> OutcomeError:
        """Cancel a request; return what to raise for it."""
        for waits in (self.ends, self.holds):
            future = waits.pop(seq, None)
            if future is not None:
                future.cancel()
        away = self.session.away()
        is_written = self.session.cancel(seq)
        self.flush_soon()
        self.notice()
        id = MessageId(self.session.limits.node, self.session.id, seq)
        if is_written:
            return Indeterminate("the agent did not say in time that it has it", message_id=id)
        return AgentUnavailable(away or "it was not written in time", message_id=id)

    def stop(self) -> None:
        """End everything at once: whoever still waits gets SessionClosed."""
        self.session.close()
        for pool in list(self.pools.values()):
            pool.stop()
        self.line.close()
        for waits in (self.ends, self.holds):
            for future in waits.values():
                if not future.done():
                    future.set_exception(SessionClosed("the client was closed"))
            waits.clear()
        self.notice()


def _resolve(future: asyncio.Future[Outcome] | None, outcome: Outcome) -> None:
    """Tell a future; it becomes an exception here, and nowhere below."""
    if future is None or future.done():
        return
    if isinstance(outcome, Failure):
        future.set_exception(error_of(outcome))
    else:
        future.set_result(outcome)
