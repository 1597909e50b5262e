"""Handlers in threads: one pool for each topic that is served.

A finished answer goes into the session's queue at once; the question is only who writes it. A worker does, before it
begins the next handler, unless more work waits and handlers here are known to be very short: then many answers
leave in one write, when the backlog is done or, at the latest, at the reader's next look, 4 ms later.

Threads start when work waits and all are busy; with very short handlers one is enough until it gets stuck.
"""

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any, Protocol

from mesh.client.api import Message, Reply, answer_of, failure_of, message_of
from mesh.client.context import Handling
from mesh.client.events import Delivered, Id
from mesh.client.session import Session
from mesh.core.records import Failure
from mesh.core.records import Reply as WireReply
from mesh.core.vocabulary import CALL

__all__ = ["Handler", "Pool", "Pools", "Workers"]

Handler = Callable[[Message], bytes | bytearray | memoryview | Reply | None]
"""Takes a message and returns the body of its reply; what it raises is told to the caller."""

SHORT_S = 0.0001
"""Handlers that take less on average are not worth a write, or a thread, each."""

LOOK_S = 0.003
"""How often a pool with a backlog is looked at, at most."""

logger = logging.getLogger("mesh")


class Host(Protocol):
    """What workers need of an engine. ``session`` is touched only under ``lock``."""

    session: Session

    @property
    def lock(self) -> AbstractContextManager[Any]: ...
    def now(self) -> float: ...
    def pump(self) -> None: ...
    def notice(self) -> None: ...


class Workers(Protocol):
    """The workers of one topic, as those see them who hand them work."""

    topic: str

    def put(self, delivered: Delivered) -> None: ...
    def hurries(self) -> bool: ...
    def cancel(self, id: Id) -> None: ...
    def is_running(self, message: Message | None) -> bool: ...
    def stop(self) -> None: ...


class Pool:
    """The workers of one topic."""

    def __init__(self, engine: Host, topic: str, handler: Handler, workers: int, *, expose_tracebacks: bool) -> None:
        self.topic = topic
        self.handler = handler
        self._engine = engine
        self._workers = workers
        self._expose_tracebacks = expose_tracebacks
        self._backlog: queue.SimpleQueue[Delivered | None] = queue.SimpleQueue()
        self._running: dict[Id, Message] = {}
        self._idle: dict[object, None] = {}
        self._threads = 0
        self._average_s = 0.0
        self._begun = 0
        self._begun_before = 0
        self._looked_at = 0.0

    def put(self, delivered: Delivered) -> None:
        """Have a request handled; called by the reader only."""
        self._backlog.put(delivered)
        if not self._idle and (not self._threads or not self.is_short):
            self._grow()

    def _grow(self) -> None:
        if self._threads < self._workers:
            self._threads += 1
            name = f"mesh-{self.topic}-{self._threads}"
            threading.Thread(target=self._work, name=name, daemon=True).start()

    @property
    def is_short(self) -> bool:
        """Whether handlers have been very short."""
        return self._average_s < SHORT_S

    def hurries(self) -> bool:
        """Return whether the reader should look again soon; called by it, before it reads."""
        if self._backlog.empty():
            return False
        now = monotonic()
        if now - self._looked_at >= LOOK_S:
            if self._begun == self._begun_before:  # nothing was begun for that long: all are stuck
                self._grow()
            self._begun_before, self._looked_at = self._begun, now
        return self.is_short or self._threads < self._workers

    def cancel(self, id: Id) -> None:
        """Tell the handler of a request that its caller gave it up."""
        message = self._running.get(id)
        if message is not None:
            message.cancelled = True

    def is_running(self, message: Message | None) -> bool:
        """Return whether a handler here is at this message."""
        return message is not None and any(running is message for running in list(self._running.values()))

    def stop(self) -> None:
        """End the threads, each after what it does now."""
        for _ in range(self._threads):
            self._backlog.put(None)

    def _work(self) -> None:
        me = object()
        backlog = self._backlog
        while True:
            if backlog.empty():
                self._idle[me] = None
                delivered = backlog.get()
                self._idle.pop(me)
            else:
                delivered = backlog.get()
            if delivered is None:
                return
            self._begun += 1
            began = monotonic()
            self.run(delivered, began)
            self._average_s += (monotonic() - began - self._average_s) / 8
            if backlog.empty() or not self.is_short:
                self._engine.pump()
            self._engine.notice()

    def run(self, delivered: Delivered, now: float) -> None:
        """Handle one request, and queue its answer."""
        request = delivered.request
        id = (request.node, request.session, request.seq)
        engine = self._engine
        with engine.lock:
            if not engine.session.begin(id, now):
                return
        message = self._running[id] = message_of(request, delivered.deadline, engine.now)
        answer: WireReply | Failure | None = None
        failed = False
        try:
            with Handling(message):
                result = self.handler(message)
            if request.kind == CALL:
                answer = answer_of(result, id)
        except BaseException as error:
            failed = True
            if request.kind == CALL:
                answer = failure_of(error, id, expose_traceback=self._expose_tracebacks)
                logger.debug("the handler of %r raised", self.topic, exc_info=True)
            else:
                logger.warning(
                    "the handler of %r raised; %s %s has ended", self.topic, message.kind, message.id, exc_info=True
                )
        del self._running[id]
        with engine.lock:
            if answer is not None:
                engine.session.answer(answer, engine.now())
            else:
                engine.session.settle(id, failed=failed)


class Pools:
    """The pools of one client, by topic."""

    def __init__(self) -> None:
        self._pools: dict[str, Workers] = {}

    def __contains__(self, topic: str) -> bool:
        return topic in self._pools

    def __len__(self) -> int:
        return len(self._pools)

    def add(self, pool: Workers) -> None:
        """Add the pool of a topic."""
        self._pools[pool.topic] = pool

    def remove(self, topic: str) -> None:
        """End the pool of a topic."""
        pool = self._pools.pop(topic, None)
        if pool is not None:
            pool.stop()

    def deliver(self, delivered: Delivered) -> None:
        """Hand a request to its pool."""
        self._pools[delivered.request.topic].put(delivered)

    def cancel(self, id: Id) -> None:
        """Tell whoever handles a request that its caller gave it up."""
        for pool in list(self._pools.values()):
            pool.cancel(id)

    def is_running(self, message: Message | None) -> bool:
        """Return whether a handler of this client is at this message."""
        return any(pool.is_running(message) for pool in list(self._pools.values()))

    def hurry(self) -> bool:
        """Return whether the reader should look again soon."""
        pools = self._pools.values()
        return any([pool.hurries() for pool in pools]) if pools else False  # noqa: C419 - each is to be asked

    def stop(self) -> None:
        """End all of them."""
        for topic in list(self._pools):
            self.remove(topic)
