"""The client for asyncio: `connect`, and a `Client` whose verbs are those of `mesh.Client`."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar, overload

import msgspec

from mesh.client import credential, socketpath
from mesh.client.api import (
    CALL_TIMEOUT_S,
    CAST_TTL_S,
    CLOSE_TIMEOUT_S,
    CONNECT_TIMEOUT_S,
    FAREWELL_S,
    HELD_TIMEOUT_S,
    IN_HANDLER,
    PREFETCH,
    WORKERS,
    Receipt,
    Reply,
    check_handler,
    check_name,
    default_server,
    flags_of,
    new_session,
    no_welcome,
    refusal_of,
    until_of,
    value_of,
)
from mesh.client.events import Outcome
from mesh.client.loop import Engine
from mesh.client.stream import Stream
from mesh.client.tasks import Handler, Pool
from mesh.core.records import Kind, Request
from mesh.errors import AgentUnavailable, Rejected
from mesh.types import MessageId

__all__ = ["Client", "connect"]

H = TypeVar("H", bound=Handler)


async def connect(
    app: str = "app",
    *,
    namespace: str = "",
    fleet: str = "",
    socket: str | os.PathLike[str] | None = None,
    token_file: str | os.PathLike[str] | None = None,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    wait_for_room: bool = True,
) -> "Client":
    """Connect to the agent of this machine, as `mesh.connect` does; the client lives in this event loop."""
    check_name("name of an app", app)
    check_name("namespace", namespace)
    paths, token = socketpath.candidates(socket), credential.named_file(token_file)
    session = new_session(app, namespace, fleet, " or ".join(paths), token)
    client = Client(Engine(session, lambda session, after: Stream(session, paths, after)), wait_for_room=wait_for_room)
    await client.await_welcome(connect_timeout_s)
    return client


class Client:
    """An app's connection to its agent, for the tasks of one event loop; made by `connect`.

    It reconnects for ever, and what is outstanding goes on. A task that is cancelled cancels what it waits for.
    """

    def __init__(self, engine: Engine, *, wait_for_room: bool) -> None:
        self._engine = engine
        self._wait_for_room = wait_for_room
        self._closing = asyncio.Lock()
        self._beginning: list[asyncio.Task[None]] = []

    async def await_welcome(self, timeout_s: float) -> None:
        """Begin to dial; return when an agent has let this app in. Raises why none did, and closes the client then."""
        engine = self._engine
        engine.line.open()
        try:
            await engine.wait_until(
                lambda: engine.session.connection.is_up or engine.told.is_refused,
                engine.now() + timeout_s,
            )
            if engine.session.connection.is_up:
                return
            if engine.told.is_refused and engine.told.refused is not None:
                raise refusal_of(engine.told.refused.reason, engine.told.refused.text)
            raise no_welcome(engine.session.away(), engine.told.refused, timeout_s)
        except BaseException:
            engine.stop()
            raise

    @property
    def node(self) -> str:
        """The node whose agent this is."""
        return self._engine.session.limits.node

    @property
    def session(self) -> int:
        """The identity of this app's session, as it stands in message ids."""
        return self._engine.session.id

    def _id(self, seq: int) -> MessageId:
        return MessageId(self.node, self.session, seq)

    # Calling

    async def _ask(
        self, request: Request, deadline: float, *, until_held: bool, until: float | None
    ) -> tuple[int, Outcome]:
        """Queue a request, when there is room, and return its seq and its outcome."""
        engine = self._engine
        if self._wait_for_room:
            await engine.room(request, deadline)
        seq, future = engine.submit(request, deadline, engine.holds if until_held else engine.ends)
        return seq, await engine.outcome(seq, future, until)

    async def call(
        self,
        topic: str,
        body: bytes = b"",
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
        idempotent: bool = False,
        wait: bool = False,
        wait_for_room: bool = False,
        monitor_s: float = 0.0,
    ) -> Reply:
        """Ask one instance of ``topic`` and return its reply, as `mesh.Client.call` does."""
        flags = flags_of(idempotent=idempotent, wait=wait, wait_for_room=wait_for_room)
        request, deadline = self._engine.prepare(Kind.CALL, topic, body, timeout_s, headers, flags, monitor_s)
        _, outcome = await self._ask(request, deadline, until_held=False, until=None)
        return value_of(outcome)  # type: ignore[return-value]

    def call_async(
        self,
        topic: str,
        body: bytes = b"",
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
        idempotent: bool = False,
        wait: bool = False,
        wait_for_room: bool = False,
        monitor_s: float = 0.0,
    ) -> asyncio.Future[Reply]:
        """Begin a `call` and return the future of its reply. It cannot wait for room: it raises Overloaded."""
        flags = flags_of(idempotent=idempotent, wait=wait, wait_for_room=wait_for_room)
        request, deadline = self._engine.prepare(Kind.CALL, topic, body, timeout_s, headers, flags, monitor_s)
        return self._begin(request, deadline, until_held=False)

    async def trace(
        self,
        topic: str,
        body: bytes = b"",
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
        run: bool = False,
    ) -> Reply:
        """Make a `call` that tells where its time goes, as `mesh.Client.trace` does."""
        flags = flags_of(probe=not run)
        request, deadline = self._engine.prepare(Kind.CALL, topic, body, timeout_s, headers, flags, traced=True)
        _, outcome = await self._ask(request, deadline, until_held=False, until=None)
        return value_of(outcome)  # type: ignore[return-value]

    def _begin(self, request: Request, deadline: float, *, until_held: bool) -> asyncio.Future[Any]:
        engine = self._engine
        seq, source = engine.submit(request, deadline, engine.holds if until_held else engine.ends)
        target: asyncio.Future[Any] = engine.loop.create_future()

        def ended(source: asyncio.Future[Outcome]) -> None:
            if target.done() or source.cancelled():
                return
            error = source.exception()
            if error is not None:
                target.set_exception(error)
            else:
                target.set_result(value_of(source.result()))

        def cancelled(target: asyncio.Future[Any]) -> None:
            if target.cancelled():
                engine.give_up(seq)

        source.add_done_callback(ended)
        target.add_done_callback(cancelled)
        return target

    async def cast(
        self,
        topic: str,
        body: bytes = b"",
        *,
        ttl_s: float = CAST_TTL_S,
        headers: Mapping[str, str] | None = None,
        confirm: bool = False,
        once: bool = False,
        durable: bool = False,
        wait: bool = False,
        timeout_s: float | None = None,
    ) -> MessageId:
        """Send to one instance, as `mesh.Client.cast` does."""
        flags = flags_of(confirm=confirm, once=once, durable=durable, wait=wait)
        request, deadline = self._engine.prepare(Kind.CAST, topic, body, ttl_s, headers, flags)
        until = until_of(deadline, timeout_s, self._engine.now(), confirm=confirm)
        seq, _ = await self._ask(request, deadline, until_held=not confirm, until=until)
        return self._id(seq)

    def cast_async(
        self,
        topic: str,
        body: bytes = b"",
        *,
        ttl_s: float = CAST_TTL_S,
        headers: Mapping[str, str] | None = None,
        confirm: bool = False,
        once: bool = False,
        durable: bool = False,
        wait: bool = False,
    ) -> asyncio.Future[None]:
        """Begin a `cast` and return the future of its acceptance, or of its end. It may raise Overloaded."""
        flags = flags_of(confirm=confirm, once=once, durable=durable, wait=wait)
        request, deadline = self._engine.prepare(Kind.CAST, topic, body, ttl_s, headers, flags)
        return self._begin(request, deadline, until_held=not confirm)

    async def flush(self, timeout_s: float = HELD_TIMEOUT_S) -> None:
        """Return when the agent holds every cast that was begun before; raises TimeoutError."""
        calling = self._engine.session.calling
        below = calling.next_seq
        if not await self._engine.wait_until(lambda: calling.first_unheld() >= below, self._engine.now() + timeout_s):
            why = self._engine.session.away() or "no answer"
            raise TimeoutError(f"casts were not accepted within {timeout_s} s: {why}")

    async def fanout(
        self,
        topic: str,
        body: bytes = b"",
        *,
        ttl_s: float = CAST_TTL_S,
        headers: Mapping[str, str] | None = None,
        confirm: bool = False,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Send to every instance that is known, as `mesh.Client.fanout` does."""
        request, deadline = self._engine.prepare(Kind.FANOUT, topic, body, ttl_s, headers, flags_of(confirm=confirm))
        until = until_of(deadline, timeout_s, self._engine.now(), confirm=confirm)
        _, outcome = await self._ask(request, deadline, until_held=not confirm, until=until)
        return value_of(outcome)  # type: ignore[return-value]

    async def query(self, what: str, *, timeout_s: float = CALL_TIMEOUT_S, **arguments: str) -> Any:
        """Ask the agent about itself; return what its JSON holds."""
        engine = self._engine
        engine.check_open()
        number = engine.session.query(what, arguments, engine.now())
        engine.flush_soon()
        try:
            came = await engine.wait_until(lambda: number in engine.told.reports, engine.now() + timeout_s)
        finally:
            engine.session.forget_query(number)
        if not came:
            raise AgentUnavailable(engine.session.away() or f"no answer to {what!r} within {timeout_s} s")
        report = engine.told.reports.pop(number)
        if not report.ok:
            raise Rejected(report.body.decode(errors="replace"), where=self.node)
        return msgspec.json.decode(report.body)

    # Serving

    @overload
    def serve(
        self,
        topic: str,
        handler: None = None,
        *,
        server: str = "",
        workers: int = WORKERS,
        prefetch: int = PREFETCH,
        expose_tracebacks: bool = False,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Callable[[H], H]: ...

    @overload
    def serve(
        self,
        topic: str,
        handler: Handler,
        *,
        server: str = "",
        workers: int = WORKERS,
        prefetch: int = PREFETCH,
        expose_tracebacks: bool = False,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Awaitable[None]: ...

    def serve(
        self,
        topic: str,
        handler: Handler | None = None,
        *,
        server: str = "",
        workers: int = WORKERS,
        prefetch: int = PREFETCH,
        expose_tracebacks: bool = False,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> Awaitable[None] | Callable[[H], H]:
        """Have ``handler``, a coroutine function or a plain one, handle the messages of a topic.

        ``await client.serve(topic, handler)`` returns when the agent has agreed, and raises Rejected when it does
        not. As a decorator it only begins to serve; `served` and `run` wait for the agent's word. At most
        ``workers`` coroutines run at once. A plain function keeps the whole loop while it runs.
        """

        def begin(function: Handler) -> asyncio.Task[None]:
            check_handler(function, awaited=True)
            return self._engine.loop.create_task(
                self._serve(
                    Pool(self._engine, topic, function, workers, expose_tracebacks), server, prefetch, timeout_s
                )
            )

        if handler is not None:
            return begin(handler)

        def decorate(function: H) -> H:
            self._beginning.append(begin(function))
            return function

        return decorate

    async def _serve(self, pool: Pool, server: str, prefetch: int, timeout_s: float) -> None:
        engine, session, topic = self._engine, self._engine.session, pool.topic
        engine.check_open()
        check_name("topic", topic)
        name = check_name("server", server or default_server(self.node, self.session))
        if topic in engine.pools:
            raise Rejected(f"this client serves {topic!r} already")
        engine.pools[topic] = pool
        engine.told.topics.pop(topic, None)
        session.serve(topic, name, pool.workers, max(1, prefetch))
        engine.flush_soon()
        came = await engine.wait_until(lambda: topic in engine.told.topics, engine.now() + timeout_s)
        if came and engine.told.topics[topic].ok:
            return
        session.unserve(topic)
        engine.flush_soon()
        if not came:
            raise AgentUnavailable(session.away() or f"the agent did not answer within {timeout_s} s")
        engine.pools.pop(topic, None)
        raise Rejected(engine.told.topics[topic].text, rule=engine.told.topics[topic].rule, where=self.node)

    async def served(self) -> None:
        """Return when the agent has agreed to everything that was decorated; raises what it did not agree to."""
        while self._beginning:
            await self._beginning.pop()

    async def unserve(self, topic: str, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Serve a topic no more: return when what the agent had handed out is finished, or after ``timeout_s``."""
        session = self._engine.session
        session.unserve(topic)
        self._engine.flush_soon()
        await self._engine.wait_until(
            lambda: topic not in session.serving.services or not session.connection.is_up,
            self._engine.now() + timeout_s,
        )

    async def run(self) -> None:
        """Serve until the client is closed, or until SIGINT or SIGTERM, which close it."""
        await self.served()
        loop, ended = self._engine.loop, asyncio.Event()
        caught = []
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, ended.set)
                caught.append(number)
            except (RuntimeError, ValueError):  # not the main thread: signals are another's to catch
                pass
        signalled = loop.create_task(ended.wait())
        closed = loop.create_task(self._engine.wait_until(lambda: self._engine.is_stopped, float("inf")))
        try:
            await asyncio.wait((signalled, closed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            signalled.cancel()
            closed.cancel()
            for number in caught:
                loop.remove_signal_handler(number)
        await self.close()

    # The end

    async def drain(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Serve nothing more and finish what is in hand; return whether that was done within ``timeout_s``.

        Raises RuntimeError in a handler, for which it would wait.
        """
        session = self._engine.session
        self._check_outside()
        for topic in list(session.serving.services):
            session.unserve(topic)
        self._engine.flush_soon()
        return await self._engine.wait_until(
            lambda: not session.serving.in_hand and not (session.serving.services and session.connection.is_up),
            self._engine.now() + timeout_s,
        )

    async def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Drain, wait until what was asked for has ended or is on disk, say goodbye; after ``timeout_s`` give up.

        Raises RuntimeError in a handler, for which it would wait.
        """
        engine, session = self._engine, self._engine.session
        self._check_outside()
        async with self._closing:
            if engine.is_stopped:
                return
            until = engine.now() + timeout_s
            try:
                await self.drain(timeout_s)
                await engine.wait_until(lambda: not session.calling.hangs_on_us, until)
                session.leave()
                engine.flush_soon()
                if session.connection.is_up:
                    await engine.wait_until(
                        lambda: engine.told.parted or not session.connection.is_up, engine.now() + FAREWELL_S
                    )
            finally:
                engine.stop()

    def _check_outside(self) -> None:
        task = asyncio.current_task()
        if any(pool.is_running(task) for pool in self._engine.pools.values()):
            raise RuntimeError(IN_HANDLER)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
