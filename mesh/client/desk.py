"""What the threads of one process wait for from one session, and who is told when it comes.

A `Desk` is made anew in the child of a fork; the `Client` above it stays the same object.
"""

import functools
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Protocol

from mesh.client.api import aimed_receipt, error_of, request_of, value_of
from mesh.client.calling import GRACE_S
from mesh.client.connection import Phase
from mesh.client.context import inherited_headers, inherited_timeout_s
from mesh.client.engine import Ticket
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
from mesh.client.told import Told
from mesh.client.tracing import follower, tell_asked
from mesh.client.unheard import Unheard
from mesh.client.workers import Handler, Pools, Workers
from mesh.core.records import Failure, Kind, Request
from mesh.errors import AgentUnavailable, Indeterminate, OutcomeError, SessionClosed
from mesh.types import MessageId

__all__ = ["Carrier", "Desk"]

PIPELINED_MAX = 32
"""Requests of futures that may be queued to be written together: casts until earlier ones are accepted, calls until
the thread that makes them lets another run."""

logger = logging.getLogger("mesh")


class Carrier(Protocol):
    """What carries a session's bytes, has handlers run and knows the time: `Engine` with a socket and threads."""

    pid: int
    session: Session
    unattended: Callable[[], bool]
    hurried: Callable[[], bool]

    @property
    def lock(self) -> AbstractContextManager[Any]: ...
    @property
    def is_stopped(self) -> bool: ...
    @property
    def is_reader(self) -> bool: ...
    def now(self) -> float: ...
    def start(self) -> None: ...
    def wait(self, ticket: Ticket, until: float) -> None: ...
    def wait_until(self, predicate: Callable[[], bool], until: float) -> bool: ...
    def notice(self) -> None: ...
    def finish(self, ticket: Ticket, outcome: object = None) -> None: ...
    def pump(self, *, patiently: bool = False) -> None: ...
    def nudge(self) -> None: ...
    def ring(self) -> None: ...
    def future(self) -> Future[Any]: ...
    def workers(self, topic: str, handler: Handler, workers: int, *, expose_tracebacks: bool) -> Workers: ...
    def stop(self) -> None: ...


class Desk:
    """The calls, casts and services of one process. ``ends`` and ``holds``: who waits, by seq, for which of the two."""

    def __init__(
        self,
        session: Session,
        carrier: Callable[[Session, Callable[[list[Event]], None]], Carrier],
        *,
        wait_for_room: bool,
    ) -> None:
        self.session = session
        self.engine = carrier(session, self._dispatch)
        self.engine.unattended = self._is_unattended
        self.pools = Pools()
        self.engine.hurried = self.pools.hurry
        self.told = Told()
        self._wait_for_room = wait_for_room
        self._ends: dict[int, Ticket | Future[Any]] = {}
        self._holds: dict[int, Ticket | Future[Any]] = {}
        self._futures = 0
        self._unheard = Unheard()

    def _is_unattended(self) -> bool:
        """Whether there is work for a reader though no thread may be waiting for anything."""
        session = self.session
        return bool(self._futures or len(self.pools) or session.calling.queue or not session.connection.is_up)

    # Requests

    def submit(
        self,
        kind: Kind,
        topic: str,
        body: bytes,
        timeout_s: float,
        headers: Mapping[str, str] | None,
        flags: int,
        target: Ticket | Future[Any],
        *,
        until_held: bool = False,
        monitor_s: float = 0.0,
        traced: bool = False,
    ) -> tuple[int, float]:
        """Queue a request, and have ``target`` told of it; return its seq and its deadline."""
        if kind == Kind.CALL:
            timeout_s = inherited_timeout_s(timeout_s)
        limits, headers = self.session.limits, inherited_headers(headers)
        request = request_of(kind, topic, body, timeout_s, headers, flags, limits, monitor_s, traced=traced)
        waits = self._holds if until_held else self._ends
        following = follower()
        if following is None:
            return self._queue(request, timeout_s, waits, target)
        asked = following.asks(request, limits.node, self.session.id)
        try:
            begun = self._queue(request, timeout_s, waits, target)
        except BaseException as error:
            asked(error)
            raise
        if isinstance(target, Ticket):
            target.asked = asked
        else:
            target.add_done_callback(functools.partial(tell_asked, asked))
        return begun

    def _queue(
        self, request: Request, timeout_s: float, waits: dict[int, Ticket | Future[Any]], target: Ticket | Future[Any]
    ) -> tuple[int, float]:
        engine = self.engine
        now = engine.now()
        deadline = now + timeout_s
        with engine.lock:
            if self.session.calling.full(request, self.session.limits) is None or not self._wait_for_room:
                seq = self.session.submit(request, timeout_s, now)
                waits[seq] = target
                return seq, deadline
        return self._submit_later(request, deadline, waits, target), deadline

    def _submit_later(
        self, request: Request, deadline: float, waits: dict[int, Ticket | Future[Any]], target: Ticket | Future[Any]
    ) -> int:
        """Wait for room within the request's own time; raises Overloaded if there was none."""
        session = self.session
        while True:
            self.engine.wait_until(lambda: session.calling.full(request, session.limits) is None, deadline)
            now = self.engine.now()
            with self.engine.lock:
                if now >= deadline or session.calling.full(request, session.limits) is None:
                    seq = session.submit(request, deadline - now, now)
                    waits[seq] = target
                    return seq

    def outcome(self, ticket: Ticket, seq: int, until: float) -> Any:
        """Write, wait, and return the value; raises what it ended with otherwise. A request that nobody waits for any
        more is given up."""
        error: BaseException | None = None
        try:
            return value_of(self._outcome(ticket, seq, until))
        except BaseException as raised:
            error = raised
            raise
        finally:
            if ticket.asked is not None:
                ticket.asked(error)

    def _outcome(self, ticket: Ticket, seq: int, until: float) -> Any:
        engine = self.engine
        try:
            engine.pump(patiently=True)
            engine.wait(ticket, until + GRACE_S)
            if not ticket.done:
                engine.wait_until(lambda: ticket.done, until + 2 * GRACE_S)
        except BaseException:
            self.give_up(seq)
            raise
        if ticket.done:
            if isinstance(ticket.outcome, BaseException):
                raise ticket.outcome
            return ticket.outcome
        raise self.give_up(seq)

    def give_up(self, seq: int) -> OutcomeError | SessionClosed:
        """Cancel a request; return what to raise for it."""
        self._ends.pop(seq, None)
        self._holds.pop(seq, None)
        with self.engine.lock:
            away = self.session.away()
            is_written = self.session.cancel(seq)
        self.engine.pump()
        self.engine.notice()
        if self.engine.is_stopped:
            return SessionClosed("the client was closed")
        id = MessageId(self.session.limits.node, self.session.id, seq)
        if is_written:
            return Indeterminate("the agent did not say in time that it has it", message_id=id)
        return AgentUnavailable(away or "it was not written in time", message_id=id)

    def future(self, submit: Callable[[Future[Any]], tuple[int, float]], *, pipelined: bool) -> Future[Any]:
        """Return a future for what ``submit`` begins; cancelling it cancels that."""
        future = self.engine.future()
        seq, _ = submit(future)
        with self.engine.lock:
            self._futures += 1
            is_burst = self._futures > 1 and len(self.session.calling.queue) < PIPELINED_MAX
            is_held_back = pipelined and is_burst and self.session.calling.unheld > 0
        future.add_done_callback(functools.partial(self._future_done, seq))
        if is_burst and not is_held_back:
            self.engine.nudge()
        elif not is_burst and not self.engine.is_reader:
            self.engine.pump()
        self.engine.ring()
        return future

    def _future_done(self, seq: int, future: Future[Any]) -> None:
        with self.engine.lock:
            self._futures -= 1
        if future.cancelled():
            self.give_up(seq)

    # What comes back

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            kind = type(event)
            if kind is Ended:
                self._ended(event)  # type: ignore[arg-type]
            elif kind is Delivered:
                self.pools.deliver(event)  # type: ignore[arg-type]
            elif kind is Held:
                for seq in event.seqs:  # type: ignore[union-attr]
                    target = self._holds.pop(seq, None)
                    if target is not None:
                        self._finish(target, None)
            else:
                self._told(event)

    def _ended(self, event: Ended) -> None:
        target = self._ends.pop(event.seq, None) or self._holds.pop(event.seq, None)
        if target is not None:
            self._finish(target, event.outcome)
        elif isinstance(event.outcome, Failure):
            self._unheard.note(event.outcome, self.engine.now())

    def _finish(self, target: Ticket | Future[Any], outcome: Outcome) -> None:
        if isinstance(target, Ticket):
            self.engine.finish(target, outcome)
        elif target.set_running_or_notify_cancel():
            if isinstance(outcome, Failure):
                target.set_exception(error_of(outcome))
            else:
                target.set_result(value_of(outcome))

    def _told(self, event: Event) -> None:
        """The rare events."""
        if isinstance(event, Aimed):
            target = self._holds.pop(event.seq, None)
            if target is not None:
                self._finish(target, aimed_receipt(self.session, event))
        elif isinstance(event, CancelAsked):
            self.pools.cancel(event.id)
        elif isinstance(event, Lost):
            logger.info("the connection to the agent is lost: %s", event.reason)
        else:
            self.told.take(event)
            if isinstance(event, ServingTold) and event.topic not in self.session.serving.services:
                self.pools.remove(event.topic)

    # The end

    def stop(self) -> None:
        """End everything at once: whoever still waits gets SessionClosed."""
        self.engine.stop()
        self.pools.stop()
        closed = SessionClosed("the client was closed")
        for waits in (self._ends, self._holds):
            for seq in list(waits):
                target = waits.pop(seq, None)
                if isinstance(target, Ticket):
                    self.engine.finish(target, closed)
                elif target is not None and target.set_running_or_notify_cancel():
                    target.set_exception(closed)

    @property
    def is_open(self) -> bool:
        """Whether there is an agent that takes requests."""
        return self.session.phase is Phase.OPEN
