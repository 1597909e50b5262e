"""Handlers in an asyncio loop: coroutines up to a number at a time, plain functions one after the other.

Every step that a handler takes is timed: one that keeps the loop from everything else is named in a warning.
"""

import asyncio
import collections
import contextlib
import inspect
import logging
import types
from collections.abc import Awaitable, Callable, Generator
from time import monotonic
from typing import Any, Protocol

from mesh.client.api import Message, Reply, answer_of, failure_of, message_of
from mesh.client.context import Handling
from mesh.client.events import Delivered, Id
from mesh.client.session import Session
from mesh.core.records import Failure
from mesh.core.records import Reply as WireReply

__all__ = ["Handler", "Pool"]

Result = bytes | bytearray | memoryview | Reply | None
Handler = Callable[[Message], Result | Awaitable[Result]]
"""Takes a message and returns, or awaits, the body of its reply; what it raises is told to the caller."""

BLOCKED_S = 0.1
"""A step that takes longer is worth a warning."""

logger = logging.getLogger("mesh")


class Host(Protocol):
    """What a pool needs of its engine."""

    session: Session

    @property
    def now(self) -> Callable[[], float]: ...
    @property
    def flush_soon(self) -> Callable[[], None]: ...
    @property
    def raised(self) -> Callable[[Message, BaseException], None]: ...
    def notice(self) -> None: ...


class Pool:
    """The handler of one topic, at most ``workers`` times at once."""

    def __init__(self, host: Host, topic: str, handler: Handler, workers: int, expose_tracebacks: bool) -> None:
        self.topic = topic
        self.workers = max(1, workers)
        self._host = host
        self._session = host.session
        self._handler = handler
        # A call of a coroutine function runs nothing of it yet.
        self._calling = contextlib.nullcontext if inspect.iscoroutinefunction(handler) else Handling
        self._expose_tracebacks = expose_tracebacks
        self._backlog: collections.deque[Delivered] = collections.deque()
        self._running: dict[Id, tuple[Message, asyncio.Task[None] | None]] = {}

    def put(self, delivered: Delivered) -> None:
        """Have a request handled."""
        self._backlog.append(delivered)
        self._advance()

    def cancel(self, id: Id) -> None:
        """The caller gave a request up: its handler's task is cancelled."""
        message, task = self._running.get(id, (None, None))
        if message is not None:
            message.cancelled = True
        if task is not None:
            task.cancel()

    def is_running(self, task: asyncio.Task[object] | None) -> bool:
        """Return whether this task is that of a handler here."""
        return task is not None and any(running is task for _, running in self._running.values())

    def awaiting(self) -> list[Message]:
        """Return the messages whose handlers have begun and wait for something."""
        return [message for message, task in self._running.values() if task is not None]

    def stop(self) -> None:
        """Cancel what runs, and begin nothing more."""
        self._backlog.clear()
        for id in list(self._running):
            self.cancel(id)

    def _advance(self) -> None:
        """Begin what may begin."""
        while self._backlog and len(self._running) < self.workers:
            delivered = self._backlog.popleft()
            request = delivered.request
            id = (request.node, request.session, request.seq)
            if self._session.begin(id, self._host.now()):
                self._begin(id, message_of(request, delivered.deadline, self._host.now))
            self._host.flush_soon()

    def _begin(self, id: Id, message: Message) -> None:
        """Call the handler; if it wants to be awaited, in a task of its own."""
        self._running[id] = (message, None)
        began = monotonic()
        try:
            with self._calling(message):
                result = self._handler(message)
        except Exception as error:  # noqa: BLE001 - whatever it is, its caller is told
            self._end(id, message, None, error)
            return
        finally:
            self._check(monotonic() - began)
        if inspect.isawaitable(result):
            task = asyncio.get_running_loop().create_task(self._await(id, message, result))
            self._running[id] = (message, task)
            task.add_done_callback(lambda task: self._unbegun(id, message, result))
        else:
            self._end(id, message, result, None)

    def _unbegun(self, id: Id, message: Message, result: Awaitable[Result]) -> None:
        """A task has ended. One that was cancelled before its first step has ended nothing: its handler never ran."""
        if self._running.get(id, (None,))[0] is message:
            if inspect.iscoroutine(result):
                result.close()
            self._end(id, message, None, asyncio.CancelledError("its caller gave it up before it began"))
            self._advance()

    async def _await(self, id: Id, message: Message, result: Awaitable[Result]) -> None:
        value: Result = None
        error: BaseException | None = None
        try:
            with Handling(message):
                value = await self._timed(result)
        except BaseException as raised:  # noqa: BLE001 - a cancelled one has to be answered, too
            error = raised
        self._end(id, message, value, error)
        self._advance()

    @types.coroutine
    def _timed(self, awaitable: Awaitable[Result]) -> Generator[Any, Any, Result]:
        """Await, and time each step."""
        steps = awaitable.__await__()
        step: Callable[[], Any] = lambda: next(steps)  # noqa: E731
        while True:
            began = monotonic()
            try:
                awaited = step()
            except StopIteration as stop:
                return stop.value  # type: ignore[no-any-return]
            finally:
                self._check(monotonic() - began)
            try:
                value = yield awaited
                step = lambda value=value: steps.send(value)  # type: ignore[misc] # noqa: E731
            except BaseException as error:  # noqa: BLE001 - handed on to the handler
                step = lambda error=error: steps.throw(error)  # type: ignore[misc] # noqa: E731

    def _check(self, took_s: float) -> None:
        if took_s > BLOCKED_S:
            name = getattr(self._handler, "__qualname__", repr(self._handler))
            logger.warning("the handler %s of %r blocked the event loop for %.2f s", name, self.topic, took_s)

    def _end(self, id: Id, message: Message, result: Result, error: BaseException | None) -> None:
        """Queue the answer."""
        del self._running[id]
        answer: WireReply | Failure | None = None
        if error is not None:
            self._host.raised(message, error)
        if message.kind == "call":
            if error is None:
                try:
                    answer = answer_of(result, id)
                except Exception as raised:  # noqa: BLE001 - a result that is no body
                    error = raised
            if answer is None:
                assert error is not None
                answer = failure_of(error, id, expose_traceback=self._expose_tracebacks)
            self._session.answer(answer, self._host.now())
        else:
            self._session.settle(id, failed=error is not None)
        if error is not None:
            level = logging.DEBUG if answer is not None else logging.WARNING
            logger.log(level, "the handler of %r raised, which ends %s", self.topic, message.id, exc_info=error)
        self._host.flush_soon()
        self._host.notice()
