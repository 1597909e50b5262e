"""The client for threads."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, cast, overload

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
)
from mesh.client.context import current
from mesh.client.desk import Desk
from mesh.client.engine import Engine, Ticket
from mesh.client.workers import Handler
from mesh.core.records import Kind
from mesh.errors import AgentUnavailable, Rejected, SessionClosed
from mesh.types import MessageId

__all__ = ["Client", "connect"]


def connect(
    app: str = "app",
    *,
    namespace: str = "",
    fleet: str = "",
    socket: str | os.PathLike[str] | None = None,
    token_file: str | os.PathLike[str] | None = None,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    wait_for_room: bool = True,
) -> "Client":
    """Connect to the agent of this machine; raises AgentUnavailable, which names the sockets that were tried.

    ``app`` is the name that others see, ``namespace`` scopes all topics, ``fleet`` must be the agent's unless empty.
    ``socket`` is the agent's; without it ``MESH_SOCKET``, the user's runtime directory and ``/run`` are tried.
    ``token_file``, else ``MESH_TOKEN_FILE``, holds what names this app where the kernel cannot, as in a container.
    Where this app has as much outstanding as its agent allows, a request waits for its own earlier ones within its time
    and only then raises Overloaded; with ``wait_for_room=False`` it raises at once.
    """
    check_name("name of an app", app)
    check_name("namespace", namespace)
    paths, token = socketpath.candidates(socket), credential.named_file(token_file)
    client = Client(
        lambda: Desk(
            new_session(app, namespace, fleet, " or ".join(paths), token),
            lambda session, dispatch: Engine(session, paths, dispatch),
            wait_for_room=wait_for_room,
        )
    )
    client.await_welcome(connect_timeout_s)
    return client


class Client:
    """An app's connection to its agent, for any number of threads; made by `connect`.

    It reconnects for ever, and what is outstanding goes on. In the child of a fork it becomes another app, with a
    session of its own that serves nothing; the parent notices nothing.
    """

    def __init__(self, make: Callable[[], Desk]) -> None:
        self._make = make
        self._desks: dict[int, Desk] = {}
        self._closing = threading.Lock()
        self._desk = self._begin(os.getpid())

    def _begin(self, pid: int) -> Desk:
        made = self._make()
        desk = self._desks.setdefault(pid, made)  # atomic: of several threads one wins
        if desk is made:
            self._closing = threading.Lock()
            desk.engine.start()
        self._desk = desk
        return desk

    def _here(self) -> Desk:
        """Return the desk of this process."""
        desk = self._desk
        pid = os.getpid()
        if desk.engine.pid != pid:
            desk = self._begin(pid)
        if desk.engine.is_stopped:
            raise SessionClosed("this client is closed")
        return desk

    def await_welcome(self, timeout_s: float) -> None:
        """Return when an agent has let this app in; raises why none did, after which the client is closed."""
        desk = self._desk
        try:
            desk.engine.wait_until(
                lambda: desk.session.connection.is_up or desk.told.is_refused,
                desk.engine.now() + timeout_s,
            )
            if desk.session.connection.is_up:
                return
            if desk.told.is_refused and desk.told.refused is not None:
                raise refusal_of(desk.told.refused.reason, desk.told.refused.text)
            raise no_welcome(desk.session.away(), desk.told.refused, timeout_s)
        except BaseException:
            desk.stop()
            raise

    @property
    def node(self) -> str:
        """The node whose agent this is."""
        return self._here().session.limits.node

    @property
    def session(self) -> int:
        """The identity of this app's session, as it stands in message ids."""
        return self._here().session.id

    # Calling

    def call(
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
        """Ask one instance of ``topic`` (or ``topic@server``) and return its reply; raises an OutcomeError.

        It runs at most once, unless it is ``idempotent``: then it may be retried elsewhere when an end is lost. When
        nobody serves the topic, ``wait`` waits for somebody instead of raising Unroutable; when the queues of all who
        do are full, ``wait_for_room`` waits for room instead of raising Overloaded. Both wait within ``timeout_s``.
        With ``monitor_s`` it is given up (Indeterminate, or retried elsewhere) when the serving app shows no sign of
        life for so long: it died or was stopped, however long ``timeout_s`` still is.
        """
        desk = self._here()
        ticket = Ticket()
        flags = flags_of(idempotent=idempotent, wait=wait, wait_for_room=wait_for_room)
        seq, deadline = desk.submit(Kind.CALL, topic, body, timeout_s, headers, flags, ticket, monitor_s=monitor_s)
        return desk.outcome(ticket, seq, deadline)  # type: ignore[no-any-return]

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
    ) -> Future[Reply]:
        """Begin a `call` and return the future of its reply; cancelling that cancels the call."""
        desk = self._here()
        flags = flags_of(idempotent=idempotent, wait=wait, wait_for_room=wait_for_room)
        return desk.future(
            lambda future: desk.submit(Kind.CALL, topic, body, timeout_s, headers, flags, future, monitor_s=monitor_s),
            pipelined=False,
        )

    def trace(
        self,
        topic: str,
        body: bytes = b"",
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        headers: Mapping[str, str] | None = None,
        run: bool = False,
    ) -> Reply:
        """Make a `call` that tells where its time goes, in its reply's ``legs``; raises an OutcomeError.

        It goes the way of every call, and is placed, allowed, queued and counted like one, but no handler runs: the
        serving app answers with an empty body as soon as a worker could begin. With ``run`` the handler does.
        """
        desk = self._here()
        ticket = Ticket()
        flags = flags_of(probe=not run)
        seq, deadline = desk.submit(Kind.CALL, topic, body, timeout_s, headers, flags, ticket, traced=True)
        return desk.outcome(ticket, seq, deadline)  # type: ignore[no-any-return]

    def cast(
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
        """Send to one instance; return when the agent holds it, or with ``confirm`` when a handler has ended it.

        It is delivered at least once within ``ttl_s``; ``once``: never again after it may have started; ``durable``:
        it is on disk before it is accepted. ``timeout_s`` bounds the waiting here (10 s; with ``confirm`` the ttl).
        """
        desk = self._here()
        ticket = Ticket()
        flags = flags_of(confirm=confirm, once=once, durable=durable, wait=wait)
        seq, deadline = desk.submit(Kind.CAST, topic, body, ttl_s, headers, flags, ticket, until_held=not confirm)
        desk.outcome(ticket, seq, until_of(deadline, timeout_s, desk.engine.now(), confirm=confirm))
        return MessageId(desk.session.limits.node, desk.session.id, seq)

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
    ) -> Future[None]:
        """Begin a `cast` and return the future of its acceptance, or of its end; many are written together."""
        desk = self._here()
        flags = flags_of(confirm=confirm, once=once, durable=durable, wait=wait)
        return desk.future(
            lambda future: desk.submit(Kind.CAST, topic, body, ttl_s, headers, flags, future, until_held=not confirm),
            pipelined=True,
        )

    def flush(self, timeout_s: float = HELD_TIMEOUT_S) -> None:
        """Return when the agent holds every cast that was begun before; raises TimeoutError."""
        desk = self._here()
        calling = desk.session.calling
        desk.engine.pump()
        with desk.engine.lock:
            below = calling.next_seq
        if not desk.engine.wait_until(lambda: calling.first_unheld() >= below, desk.engine.now() + timeout_s):
            raise TimeoutError(f"casts were not accepted within {timeout_s} s: {desk.session.away() or 'no answer'}")

    def fanout(
        self,
        topic: str,
        body: bytes = b"",
        *,
        ttl_s: float = CAST_TTL_S,
        headers: Mapping[str, str] | None = None,
        confirm: bool = False,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Send to every instance that is known; return once the agent holds it, with how many were asked.

        With ``confirm`` the receipt is returned when all have ended it, or ``ttl_s`` is over, and counts how.
        """
        desk = self._here()
        ticket = Ticket()
        flags = flags_of(confirm=confirm)
        seq, deadline = desk.submit(Kind.FANOUT, topic, body, ttl_s, headers, flags, ticket, until_held=not confirm)
        until = until_of(deadline, timeout_s, desk.engine.now(), confirm=confirm)
        return desk.outcome(ticket, seq, until)  # type: ignore[no-any-return]

    def query(self, what: str, *, timeout_s: float = CALL_TIMEOUT_S, **arguments: str) -> Any:
        """Ask the agent about itself (``status``, ``links``, ``topics`` …); return what its JSON holds."""
        desk = self._here()
        until = desk.engine.now() + timeout_s
        with desk.engine.lock:
            number = desk.session.query(what, arguments, desk.engine.now())
        try:
            desk.engine.pump()
            came = desk.engine.wait_until(lambda: number in desk.told.reports, until)
        finally:
            with desk.engine.lock:
                desk.session.forget_query(number)
        if not came:
            raise AgentUnavailable(desk.session.away() or f"no answer to {what!r} within {timeout_s} s")
        report = desk.told.reports.pop(number)
        if not report.ok:
            raise Rejected(report.body.decode(errors="replace"), where=desk.session.limits.node)
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
    ) -> Callable[[Handler], Handler]: ...

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
    ) -> Handler: ...

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
    ) -> Handler | Callable[[Handler], Handler]:
        """Have ``handler`` handle the messages of a topic, in up to ``workers`` threads; also a decorator.

        ``server`` names this instance in ``topic@server`` (by default its node and session). ``prefetch`` bounds the
        repeatable work that waits here. Returns when the agent has agreed; raises Rejected when it does not.
        """
        if handler is None:

            def decorate(function: Handler) -> Handler:
                return self.serve(
                    topic,
                    function,
                    server=server,
                    workers=workers,
                    prefetch=prefetch,
                    expose_tracebacks=expose_tracebacks,
                    timeout_s=timeout_s,
                )

            return decorate
        check_handler(handler, awaited=False)
        desk = self._here()
        session = desk.session
        check_name("topic", topic)
        name = check_name("server", server or default_server(session.limits.node, session.id))
        if topic in desk.pools:
            raise Rejected(f"this client serves {topic!r} already")
        desk.pools.add(desk.engine.workers(topic, handler, max(1, workers), expose_tracebacks=expose_tracebacks))
        desk.told.topics.pop(topic, None)
        with desk.engine.lock:
            session.serve(topic, name, max(1, workers), max(1, prefetch))
        desk.engine.pump()
        came = desk.engine.wait_until(lambda: topic in desk.told.topics, desk.engine.now() + timeout_s)
        if came and desk.told.topics[topic].ok:
            desk.engine.ring()
            return handler
        self._unserve(topic)
        if not came:
            raise AgentUnavailable(session.away() or f"the agent did not answer within {timeout_s} s")
        desk.pools.remove(topic)
        raise Rejected(desk.told.topics[topic].text, rule=desk.told.topics[topic].rule, where=session.limits.node)

    def unserve(self, topic: str, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Serve a topic no more: return when what the agent had handed out is finished, or after ``timeout_s``."""
        desk = self._here()
        self._unserve(topic)
        services = desk.session.serving.services
        desk.engine.wait_until(
            lambda: topic not in services or not desk.session.connection.is_up, desk.engine.now() + timeout_s
        )

    def _unserve(self, topic: str) -> None:
        desk = self._desk
        with desk.engine.lock:
            desk.session.unserve(topic)
        desk.engine.pump()

    def run(self) -> None:
        """Serve until the client is closed, or until Ctrl-C or SIGTERM, which close it."""
        desk = self._here()
        with _sigterm_interrupts():
            try:
                desk.engine.wait_until(lambda: desk.engine.is_stopped, float("inf"))
            except KeyboardInterrupt:
                self.close()

    # The end

    def drain(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Serve nothing more and finish what is in hand; return whether that was done within ``timeout_s``.

        Raises RuntimeError in a handler, for which it would wait.
        """
        desk = self._here()
        _check_outside(desk)
        session, until = desk.session, desk.engine.now() + timeout_s
        for topic in list(session.serving.services):
            self._unserve(topic)
        return desk.engine.wait_until(
            lambda: (
                not session.serving.in_hand
                and not session.serving.settling
                and not (session.serving.services and session.connection.is_up)
            ),
            until,
        )

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Drain, wait until what was asked for has ended or is on disk, say goodbye; after ``timeout_s`` give up.

        Raises RuntimeError in a handler, for which it would wait.
        """
        desk = self._desk
        if desk.engine.pid != os.getpid() or desk.engine.is_stopped:
            return
        _check_outside(desk)
        with self._closing:
            if desk.engine.is_stopped:
                return
            until = desk.engine.now() + timeout_s
            try:
                desk.engine.pump()
                self.drain(timeout_s)
                desk.engine.wait_until(lambda: not desk.session.calling.hangs_on_us, until)
                with desk.engine.lock:
                    desk.session.leave()
                    is_up = desk.session.connection.is_up
                desk.engine.pump()
                if is_up:
                    desk.engine.wait_until(
                        lambda: desk.told.parted or not desk.session.connection.is_up, desk.engine.now() + FAREWELL_S
                    )
            finally:
                desk.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_outside(desk: Desk) -> None:
    if desk.pools.is_running(current()):
        raise RuntimeError(IN_HANDLER)


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Have SIGTERM raise KeyboardInterrupt, where this thread may say so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, cast(Any, before))
