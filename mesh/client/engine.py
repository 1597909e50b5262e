"""A session on a socket, shared by threads.

There is no thread that all must pass. Whoever has something to write writes it, together with what others have queued
meanwhile. Whoever waits for an answer and finds nobody reading becomes the *reader*: it reads and hands out everybody's
events until its own is among them, and then promotes another that waits. So a thread that calls one thing at a time
does everything itself. A background thread reads only while something is unattended (an app serves, or futures are
pending), and else has a look about once a second. Another writes what a thread queues that begins many things at once,
and so runs when that thread waits for the first of them.

Only blocking sockets with timeouts, locks and one event are used, each looked up when it is needed: this runs
unchanged under gevent's and eventlet's patching. The socket is duplicated, since the two directions have different
timeouts.
"""

import logging
import os
import queue
import socket
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from time import monotonic
from typing import Any

from mesh.client import credential
from mesh.client.connection import Phase
from mesh.client.events import Event, Lost
from mesh.client.session import Session
from mesh.client.socketpath import trust
from mesh.client.tracing import Asked
from mesh.client.wire import FrameReader, frames
from mesh.client.workers import Handler, Pool
from mesh.errors import ProtocolError

__all__ = ["Engine", "Ticket"]

READ_BYTES = 256 << 10

STEPS_S = (0.25, 0.064, 0.016, 0.004, 0.001)
"""How long one read may wait. A few fixed values, for changing a timeout costs a system call."""

HURRY_S = 0.004
"""How soon the reader looks again when workers may have gathered answers meanwhile."""

SEND_STEP_S = 0.25
IDLE_S = 1.0
REST_S_MAX = 60.0

logger = logging.getLogger("mesh")

_engines: "weakref.WeakSet[Engine]" = weakref.WeakSet()


class Ticket:
    """Something a thread waits for; ``asked``: who is told how it ended."""

    __slots__ = ("asked", "done", "outcome", "wake")

    def __init__(self) -> None:
        self.done = False
        self.outcome: object = None
        self.asked: Asked | None = None
        self.wake: threading.Lock | None = None


class Engine:
    """Moves one session's bytes. ``session`` is touched only under ``lock``; ``dispatch`` gets events without it."""

    def __init__(self, session: Session, paths: list[str], dispatch: Callable[[list[Event]], None]) -> None:
        self.pid = os.getpid()
        self.session = session
        self.lock = threading.Lock()
        self.unattended: Callable[[], bool] = lambda: False
        self.hurried: Callable[[], bool] = lambda: False
        self._paths = paths
        self._dispatch = dispatch
        self._sending = threading.Lock()
        self._role: dict[str, int] = {}
        self._parked: dict[Ticket, None] = {}
        self._asleep: dict[Ticket, None] = {}
        self._watches: list[tuple[Callable[[], bool], Ticket]] = []
        self._in: socket.socket | None = None
        self._out: socket.socket | None = None
        self._step_s = 0.0
        self._unsent = memoryview(b"")
        self._is_whole = True
        self._frames = FrameReader()
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._due = 0.0
        self._stopping = threading.Event()
        self._nudges: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._is_nudged = False
        self._writer: threading.Thread | None = None
        _engines.add(self)

    def start(self) -> None:
        """Begin to keep the session connected."""
        threading.Thread(target=self._attend, name="mesh-reader", daemon=True).start()

    now = staticmethod(monotonic)

    def future(self) -> Future[Any]:
        """Return a future that somebody may wait for."""
        return Future()

    def workers(self, topic: str, handler: Handler, workers: int, *, expose_tracebacks: bool) -> Pool:
        """Return threads for a topic that is served."""
        return Pool(self, topic, handler, workers, expose_tracebacks=expose_tracebacks)

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    @property
    def is_reader(self) -> bool:
        """Whether this thread is the reader, in a callback: what it queues is written after it."""
        return self._role.get("reader") == threading.get_ident()

    # Waiting

    def wait(self, ticket: Ticket, until: float) -> None:
        """Return when the ticket is done, or at ``until``; meanwhile read for everybody if nobody else does."""
        if self.is_reader:  # a callback of the reader waits: it must go on reading
            while not ticket.done and monotonic() < until:
                self._turn(until)
            return
        was_parked = False
        while not ticket.done and monotonic() < until and not self.is_stopped:
            if not self._lead(lambda: not ticket.done, until):
                was_parked = True
                self._park(ticket, until)
        if was_parked:
            self._promote()  # it may have been meant for us

    def wait_until(self, predicate: Callable[[], bool], until: float) -> bool:
        """Wait until the predicate, evaluated under the lock whenever something happened, is true; return whether."""
        ticket = Ticket()
        with self.lock:
            if predicate():
                return True
            watch = (predicate, ticket)
            self._watches.append(watch)
        try:
            self.wait(ticket, until)
        finally:
            with self.lock:
                self._watches.remove(watch)
                done = predicate()
        return done

    def notice(self) -> None:
        """Something happened that predicates may be about."""
        if self._watches:
            with self.lock:
                ready = [ticket for predicate, ticket in self._watches if predicate()]
            for ticket in ready:
                self.finish(ticket)

    def finish(self, ticket: Ticket, outcome: object = None) -> None:
        """What the ticket waits for is there."""
        ticket.outcome = outcome
        ticket.done = True
        self._wake(self._parked, ticket)

    @staticmethod
    def _wake(waiting: dict[Ticket, None], ticket: Ticket) -> None:
        """Wake a ticket's thread. Who takes the ticket out of the dict, and nobody else, releases its lock."""
        if waiting.pop(ticket, ticket) is None:
            assert ticket.wake is not None
            ticket.wake.release()

    @staticmethod
    def _rest(waiting: dict[Ticket, None], ticket: Ticket, rest_s: float) -> None:
        """Sleep until woken, at most ``rest_s``; the ticket is in the dict already."""
        assert ticket.wake is not None
        if rest_s > 0 and ticket.wake.acquire(timeout=min(rest_s, REST_S_MAX)):
            return
        if waiting.pop(ticket, ticket) is ticket:  # somebody is about to release it
            ticket.wake.acquire()

    def _park(self, ticket: Ticket, until: float) -> None:
        """Wait to be woken, by the outcome or to read."""
        if ticket.wake is None:
            ticket.wake = threading.Lock()
            ticket.wake.acquire()
        self._parked[ticket] = None
        if ticket.done or not self._role:  # it came, or the reader left, just before
            self._rest(self._parked, ticket, 0)
            return
        try:
            self._rest(self._parked, ticket, until - monotonic())
        except BaseException:
            if self._parked.pop(ticket, ticket) is ticket:
                self._promote()  # we were chosen, and go
            raise

    def _lead(self, goes_on: Callable[[], bool], until: float) -> bool:
        """Read for everybody, unless another thread does; return whether we did.

        Who has the role stands in a dict, taken by one atomic step: an interrupt that comes right after it finds us
        there, and gives the role up again.
        """
        me = threading.get_ident()
        try:
            if self._role.setdefault("reader", me) != me:
                return False
            while goes_on() and monotonic() < until and not self.is_stopped:
                self._turn(until)
            return True
        finally:
            if self._role.get("reader") == me:
                del self._role["reader"]
                self._promote()

    def _promote(self) -> None:
        """Have another that waits look whether it should read."""
        try:
            ticket, _ = self._parked.popitem()
        except KeyError:
            if self.unattended():
                self.ring()
            return
        assert ticket.wake is not None
        ticket.wake.release()

    def ring(self) -> None:
        """Wake the background thread if it sleeps: something is unattended."""
        for ticket in list(self._asleep):
            self._wake(self._asleep, ticket)

    def _attend(self) -> None:
        """The background thread."""
        ticket = Ticket()
        ticket.wake = threading.Lock()
        ticket.wake.acquire()
        while not self.is_stopped and self.pid == os.getpid():
            try:
                self._attend_once(ticket)
            except Exception:
                logger.exception("the reader failed, and goes on")
        if self.pid != os.getpid():
            threading.Event().wait()  # a greenlet that a fork took along; threading would complain of its end

    def _attend_once(self, ticket: Ticket) -> None:
        if self.unattended():
            if not self._lead(self.unattended, float("inf")):
                self._park(ticket, monotonic() + IDLE_S)
        else:
            self._asleep[ticket] = None
            self._rest(self._asleep, ticket, 0 if self.unattended() else IDLE_S)
            self._glance()

    def _glance(self) -> None:
        """Read what may have come while nobody waited for anything."""
        self._lead(iter((True, False)).__next__, monotonic() + HURRY_S)

    # Reading

    def _turn(self, until: float) -> None:
        """Read once, and do what that brings."""
        now = monotonic()
        if self._in is None and not self._dial(now):
            pause_s = min(until, self.session.connection.redial_at, max(self._due, now + 0.01)) - now
            self._stopping.wait(min(IDLE_S, max(0.001, pause_s)))
            data: memoryview | None = None
        else:
            data = self._read(min(until, self._due) - now)
        try:
            self._take_in(data)
        except BaseException:
            self._lose("reading was interrupted")
            raise
        self.pump()
        self.notice()

    def _read(self, wait_s: float) -> memoryview | None:
        """Return what came: None when nothing did, empty at the end."""
        sock = self._in
        if sock is None:  # it was stopped just now
            return None
        if self._unsent:
            wait_s = 0
        elif self.hurried():
            wait_s = min(wait_s, HURRY_S)
        step_s = next((step for step in STEPS_S if step <= wait_s), STEPS_S[-1])
        try:
            if step_s != self._step_s:
                sock.settimeout(step_s)
                self._step_s = step_s
            count = sock.recv_into(self._buffer)
        except (TimeoutError, BlockingIOError, InterruptedError):
            return None
        except OSError:
            return self._buffer[:0]
        return self._buffer[:count]

    def _take_in(self, data: memoryview | None) -> None:
        events: list[Event] = []
        session = self.session
        now = monotonic()
        with self.lock:
            if data:
                try:
                    for batch in self._frames.feed(data):
                        events += session.received(batch, now)
                except ProtocolError as error:
                    events.append(Lost(str(error)))
            due = session.deadline()
            if due is not None and due <= now:
                events += session.tick(now)
                due = session.deadline()
            self._due = now + IDLE_S if due is None else due
        if data is not None and not data:
            events.append(Lost("the agent closed the connection"))
        lost = next((event.reason for event in events if type(event) is Lost), None)
        if lost is not None:
            self._lose(lost)
        if events:
            self._dispatch(events)

    # The socket

    def _dial(self, now: float) -> bool:
        """Try to connect, if it is time to; a full backlog is EAGAIN at once, and tried again like any other."""
        if now < self.session.connection.redial_at or self.session.phase is not Phase.AWAY:
            return False
        reasons = []
        for path in self._paths:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.settimeout(0)
                trust(path)
                token = credential.read(self.session.token_file)
                sock.connect(path)
                out = sock.dup()
            except OSError as error:
                sock.close()
                reasons.append(error.strerror or str(error))
                continue
            out.settimeout(0)
            self._step_s = 0.0
            self._frames = FrameReader()
            with self._sending, self.lock:
                if self.session.phase is not Phase.AWAY:  # it was stopped meanwhile
                    sock.close()
                    out.close()
                    return False
                self._in, self._out, self._unsent = sock, out, memoryview(b"")
                self.session.token = token
                self.session.connected(now)
            self.pump()
            return True
        with self.lock:
            self.session.disconnected("; ".join(dict.fromkeys(reasons)), now)
        return False

    def _lose(self, reason: str) -> None:
        """The connection is over. A sender that is stuck in it is freed first."""
        sock = self._in
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            with self._sending:
                self._in = None
                sock.close()
                self._close_out()
        with self.lock:
            if self.session.phase is not Phase.AWAY:
                self.session.disconnected(reason, monotonic())

    def _close_out(self) -> None:
        out, self._out = self._out, None
        self._unsent = memoryview(b"")
        if out is not None:
            out.close()

    def pump(self, *, patiently: bool = False) -> None:
        """Write what is queued, unless another thread is at it: that one will see ours.

        When the socket is full, the rest is the reader's to write; a thread that waits anyhow helps ``patiently``.
        """
        while self._out is not None and (self._unsent or self.session.wants_write):
            if not self._sending.acquire(blocking=False):
                return
            try:
                goes_on = self._send(patiently)
            finally:
                self._sending.release()
            if not goes_on:
                return

    def nudge(self) -> None:
        """Have what is queued written by another thread: together with what this one queues until that one runs."""
        if self._is_nudged:
            return
        self._is_nudged = True
        self._nudges.put(True)
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="mesh-writer", daemon=True)
            self._writer.start()

    def _write(self) -> None:
        """The thread that is nudged."""
        while self._nudges.get():
            self._is_nudged = False
            try:
                self.pump()
            except Exception:
                logger.exception("the writer failed, and goes on")

    def _send(self, patiently: bool) -> bool:
        """Write once; False: the socket is full or gone."""
        out = self._out
        if out is None:
            return False
        if not self._unsent:
            with self.lock:
                batches = self.session.take(monotonic())
            if not batches:
                return True
            self._unsent = memoryview(frames(batches))
            self._is_whole = True
        try:
            sent = _send_some(out, self._unsent, patiently)
        except (TimeoutError, BlockingIOError, InterruptedError):
            return False
        except OSError:
            if self._is_whole:
                with self.lock:
                    self.session.unwritten()
            self._close_out()
            return False
        self._is_whole = False
        self._unsent = self._unsent[sent:]
        return True

    # The end

    def stop(self) -> None:
        """Close the socket and wake everybody."""
        self._stopping.set()
        self._nudges.put(False)
        self._lose("closed")
        with self.lock:
            self.session.close()
            tickets = [*self._parked, *(ticket for _, ticket in self._watches)]
        for ticket in tickets:
            self._wake(self._parked, ticket)
        self.ring()

    def orphan(self) -> None:
        """In the child of a fork: let go of the parent's socket without a word to the agent."""
        self._stopping = threading.Event()
        self._stopping.set()
        null = os.open(os.devnull, os.O_RDWR)
        for sock in (self._in, self._out):
            if sock is not None and sock.fileno() >= 0:
                os.dup2(null, sock.fileno(), inheritable=False)  # a number in use cannot be taken by another file
        os.close(null)


def _send_some(out: socket.socket, data: memoryview, patiently: bool) -> int:
    """Send what the socket takes; it has no timeout of its own, for that would cost another call each time."""
    try:
        return out.send(data)
    except BlockingIOError:
        if not patiently:
            raise
    out.settimeout(SEND_STEP_S)
    try:
        return out.send(data)
    finally:
        out.settimeout(0)


def _orphan_all() -> None:
    for engine in list(_engines):
        engine.orphan()


os.register_at_fork(after_in_child=_orphan_all)
