"""A session on an asyncio loop: its connection, its timer, and who waits for what.

What is queued in one iteration of the loop is written at its end, at once.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from time import monotonic

from mesh.client.api import aimed_receipt, error_of, request_of
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
    Leaving,
    Lost,
    Opened,
    Outcome,
    Parted,
    Refused,
    Reported,
    ServingTold,
)
from mesh.client.session import Session
from mesh.client.socketpath import trust
from mesh.client.tasks import Pool
from mesh.client.unheard import Unheard
from mesh.client.wire import FrameReader, frames
from mesh.core.records import Failure, Kind, Request
from mesh.errors import AgentUnavailable, Indeterminate, OutcomeError, ProtocolError, SessionClosed
from mesh.types import MessageId

__all__ = ["Engine"]

READ_BYTES = 256 << 10

logger = logging.getLogger("mesh")


class _Wire(asyncio.Protocol):
    """One connection. ``rest`` is its socket once more, to read to the end what asyncio drops when a write fails."""

    def __init__(self, engine: "Engine", rest: socket.socket) -> None:
        self._engine = engine
        self._rest = rest
        self._frames = FrameReader()
        self.transport: asyncio.Transport | None = None
        self.is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._engine.connected(self)

    def data_received(self, data: bytes) -> None:
        self._engine.received(self, self._frames, data)

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        self._engine.flush_soon()

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            try:
                while data := self._rest.recv(READ_BYTES):
                    self._engine.received(self, self._frames, data)
            except OSError:
                pass
        self._rest.close()
        self._engine.lost(self, f"the connection was lost ({error})" if error else "the agent closed the connection")


class Engine:
    """Moves one session's bytes, and tells who waits: by seq, in ``ends`` for its end, in ``holds`` to be accepted."""

    def __init__(self, session: Session, paths: list[str]) -> None:
        self.session = session
        self.loop = asyncio.get_running_loop()
        self.ends: dict[int, asyncio.Future[Outcome]] = {}
        self.holds: dict[int, asyncio.Future[Outcome]] = {}
        self.pools: dict[str, Pool] = {}
        self.reports: dict[int, Reported] = {}
        self.told: dict[str, ServingTold] = {}
        self.refused: Refused | None = None
        self.parted = False
        self._paths = paths
        self._wire: _Wire | None = None
        self._watches: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._is_flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._unheard = Unheard()

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self.session.phase is Phase.CLOSED

    # The connection

    def dial(self) -> None:
        """Begin to keep the session connected."""
        self._dialling = self.loop.create_task(self._dial())

    async def _dial(self) -> None:
        session = self.session
        while session.phase is Phase.AWAY:
            await asyncio.sleep(max(0.0, session.connection.redial_at - monotonic()))
            reasons = []
            for path in self._paths:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.setblocking(False)
                try:
                    trust(path)
                    sock.connect(path)  # at once or never: a full backlog is EAGAIN, which asyncio takes for success
                    wire = _Wire(self, sock.dup())
                    await self.loop.create_unix_connection(lambda made=wire: made, sock=sock)  # type: ignore[misc]
                    return
                except OSError as error:
                    sock.close()
                    reasons.append(error.strerror or str(error))
            session.disconnected("; ".join(dict.fromkeys(reasons)), monotonic())
            self._after([])

    def connected(self, wire: _Wire) -> None:
        """A socket was opened."""
        if self.is_stopped:
            assert wire.transport is not None
            wire.transport.abort()
            return
        self._wire = wire
        self.session.connected(monotonic())
        self.flush_soon()

    def received(self, wire: _Wire, cut: FrameReader, data: bytes) -> None:
        """Bytes came."""
        if wire is not self._wire:
            return
        events: list[Event] = []
        now = monotonic()
        try:
            for batch in cut.feed(data):
                events += self.session.received(batch, now)
        except ProtocolError as error:
            events.append(Lost(str(error)))
        self._after(events)

    def lost(self, wire: _Wire, reason: str) -> None:
        """The connection is over."""
        if wire is not self._wire:
            return
        self._wire = None
        if wire.transport is not None:
            wire.transport.abort()
        if not self.is_stopped:
            self.session.disconnected(reason, monotonic())
            logger.info("the connection to the agent is lost: %s", reason)
            self._after([])
            self.dial()

    def flush_soon(self) -> None:
        """Write what is queued at the end of this iteration."""
        if not self._is_flushing:
            self._is_flushing = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        wire = self._wire
        while wire is not None and not wire.is_paused and self.session.wants_write:
            transport = wire.transport
            if transport is None or transport.is_closing():
                break
            transport.write(frames(self.session.take(monotonic())))
        self._rearm()

    def _rearm(self) -> None:
        """Have `_tick` called in time; a timer that is earlier than need be stays."""
        due = None if self.is_stopped else self.session.deadline()
        if due is None or (self._timer is not None and self._timer.when() <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(max(0.0, due - monotonic()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self.is_stopped:
            self._after(self.session.tick(monotonic()))

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
            self._unheard.note(event.outcome, monotonic())

    def _told(self, event: Event) -> None:
        """The rare events."""
        if isinstance(event, Aimed):
            _resolve(self.holds.pop(event.seq, None), aimed_receipt(self.session, event))
        elif isinstance(event, CancelAsked):
            for pool in self.pools.values():
                pool.cancel(event.id)
        elif isinstance(event, ServingTold):
            self.told[event.topic] = event
            if event.topic not in self.session.serving.services:
                self.pools.pop(event.topic, None)
        elif isinstance(event, Reported):
            self.reports[event.number] = event
        elif isinstance(event, Opened):
            logger.info("connected to the agent of %s (incarnation %d)", event.welcome.node, event.welcome.incarnation)
        elif isinstance(event, Refused):
            self.refused = event
            logger.warning("the agent refused this app: %s", event.text)
        elif isinstance(event, Leaving):
            logger.info("the agent drains: %s", event.reason or "no reason given")
        elif isinstance(event, Parted):
            self.parted = True
        elif isinstance(event, Lost) and self._wire is not None:
            self.lost(self._wire, event.reason)

    # Waiting

    async def wait_until(self, predicate: Callable[[], bool], until: float) -> bool:
        """Wait until the predicate, evaluated whenever something happened, is true; return whether."""
        if predicate():
            return True
        watch = (predicate, self.loop.create_future())
        self._watches.append(watch)
        try:
            async with asyncio.timeout(max(0.0, until - monotonic()) if until < float("inf") else None):
                await watch[1]
        except TimeoutError:
            pass
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
    ) -> tuple[Request, float]:
        """Check a request; return it with its deadline."""
        self.check_open()
        if kind == Kind.CALL:
            timeout_s = inherited_timeout_s(timeout_s)
        request = request_of(
            kind, topic, body, timeout_s, inherited_headers(headers), flags, self.session.limits, monitor_s
        )
        return request, monotonic() + timeout_s

    def submit(
        self, request: Request, deadline: float, waits: dict[int, asyncio.Future[Outcome]]
    ) -> tuple[int, asyncio.Future[Outcome]]:
        """Queue a request; return its seq and the future of its outcome. Raises Overloaded."""
        now = monotonic()
        seq = self.session.submit(request, deadline - now, now)
        future: asyncio.Future[Outcome] = self.loop.create_future()
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
                await asyncio.wait((future,), timeout=until + GRACE_S - monotonic())
                if not future.done():
                    raise self.give_up(seq)
            return await future
        except asyncio.CancelledError:
            self.give_up(seq)
            raise

    def give_up(self, seq: int) -> OutcomeError:
        """Cancel a request; return what to raise for it."""
        self.ends.pop(seq, None)
        self.holds.pop(seq, None)
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
        for handle in (self._timer, self._dialling):
            if handle is not None:
                handle.cancel()
        if self._wire is not None:
            self.lost(self._wire, "closed")
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
