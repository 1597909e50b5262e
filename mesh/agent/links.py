"""The link port and the dials: ZeroMQ sockets on gevent's loop, and nothing that decides.

One ROUTER accepts; each dial has a DEALER of its own. Plain sockets are read when their descriptor stirs, until they
have no more or a turn's share is taken. The descriptor is edge-triggered, so ``EVENTS`` is asked after every read and
every send (``settle``), and again at each tick.

ZeroMQ tells too little of connections, so the kernel is asked as well:

* A dial carries a monitor until the handshake is done, because a refusal shows nowhere else. From then on a DEALER
  that has lost its connection has lost ``POLLOUT`` (its high-water mark is off, so nothing else takes that).
* The ROUTER's monitor tells of accepted descriptors. A message's ``SRCFD`` ties one to a routing id. What says nothing
  within its time, or is too much, is ended by ``shutdown`` on a duplicate of the descriptor, after comparing the
  address at its other end, since numbers are used again.
* On any disconnect every accepted link is probed: ``ROUTER_MANDATORY`` refuses what is for a connection that is gone.

Reconnecting is off: libzmq would lose a batch and deliver the next. High-water marks are off too: credit bounds what
is sent, by count and by bytes, and a full mark would only hide a lost connection.
"""

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any

import zmq
from gevent import get_hub
from msgspec import Struct
from zmq.utils.monitor import recv_monitor_message

from mesh.core.codec import FRAME_BYTES_MAX
from mesh.types import Endpoint

__all__ = ["LinkEvents", "Links", "LinksOptions"]

READS_PER_TURN = 256
"""Messages read from one socket before others have their turn."""

_POLLIN = int(zmq.POLLIN)
_POLLOUT = int(zmq.POLLOUT)
_NOBLOCK = int(zmq.NOBLOCK)
_SNDMORE = int(zmq.SNDMORE)
_SEND_MORE = _NOBLOCK | _SNDMORE
_EVENTS = int(zmq.EVENTS)
_FAILED_DIAL = (
    zmq.Event.CLOSED
    | zmq.Event.CONNECT_RETRIED
    | zmq.Event.DISCONNECTED
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_AUTH
)


class LinksOptions(Struct, frozen=True):
    """What the sockets need to know; times in seconds."""

    links_max: int
    hello_timeout_s: float
    inbound_unproven_max: int
    reap_after_s: float


class LinkEvents(Struct, frozen=True):
    """Whom to tell: of a new connection (returns its number), of data, of a dial that stands, of a loss."""

    accepted: Callable[[], int]
    data: Callable[[int, Any], None]
    connected: Callable[[int], None]
    lost: Callable[[int, str], None]
    silenced: Callable[[str, int], None]


class _Dial:
    """One DEALER and, until it is connected, its monitor."""

    def __init__(self, conn: int, dealer: "zmq.Socket[bytes]", monitor: "zmq.Socket[bytes] | None") -> None:
        self.conn = conn
        self.dealer = dealer
        self.monitor = monitor
        self.watchers: list[Any] = []


class _Inbound(Struct):
    """An accepted descriptor: whose address is at its other end, since when, and whether a message came by it."""

    peer: Any
    since: float
    conn: int | None = None


class Links:
    """All link sockets of one reactor."""

    def __init__(
        self,
        listeners: tuple[socket.socket, ...],
        events: LinkEvents,
        options: LinksOptions,
        clock: Callable[[], float],
    ) -> None:
        self.events = events
        self.options = options
        self.clock = clock
        self.loop = get_hub().loop
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.context.set(zmq.MAX_SOCKETS, 4 * options.links_max + 64)
        self.router = self._socket(zmq.ROUTER)
        self.router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.monitor = self.router.get_monitor_socket(
            int(zmq.Event.ACCEPTED | zmq.Event.DISCONNECTED | zmq.Event.CLOSED | zmq.Event.ACCEPT_FAILED)
        )
        self.conns: dict[bytes, int] = {}
        self.ids: dict[int, bytes] = {}
        self.fds: dict[int, int] = {}
        self.inbound: dict[int, _Inbound] = {}
        self.dials: dict[int, _Dial] = {}
        self.watchers = [
            self._watch(self.router, self._read_router),
            self._watch(self.monitor, self._read_monitor),
        ]
        for listener in listeners:
            self._bind(listener)

    def _socket(self, kind: int) -> "zmq.Socket[bytes]":
        """Make a socket on the terms of the module's text."""
        sock = self.context.socket(kind)
        reap_ms = int(self.options.reap_after_s * 1000)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.SNDHWM, 0),
            (zmq.RCVHWM, 0),
            (zmq.IPV6, 1),
            (zmq.MAXMSGSIZE, FRAME_BYTES_MAX + 4096),
            (zmq.HANDSHAKE_IVL, int(self.options.hello_timeout_s * 1000)),
            (zmq.HEARTBEAT_IVL, reap_ms),
            (zmq.HEARTBEAT_TIMEOUT, reap_ms),
        ):
            sock.setsockopt(option, value)
        return sock

    def _bind(self, listener: socket.socket) -> None:
        """Have the ROUTER accept on a duplicate of a listener that outlives it."""
        host, port = listener.getsockname()[:2]
        self.router.setsockopt(zmq.USE_FD, os.dup(listener.fileno()))
        self.router.bind(f"tcp://{Endpoint(host, port)}")
        self.router.setsockopt(zmq.USE_FD, -1)

    def _watch(self, sock: "zmq.Socket[bytes]", read: Callable[[], None]) -> Any:
        watcher = self.loop.io(sock.getsockopt(zmq.FD), 1)
        watcher.start(read)
        self.loop.run_callback(read)
        return watcher

    # Out

    def open(self, conn: int, endpoint: Endpoint) -> None:
        """Dial; ``connected`` or ``lost`` tells how it went."""
        dealer = self._socket(zmq.DEALER)
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        dealer.setsockopt(zmq.RECONNECT_IVL, -1)
        dealer.setsockopt(zmq.CONNECT_TIMEOUT, int(self.options.hello_timeout_s * 1000))
        monitor = dealer.get_monitor_socket()
        dial = self.dials[conn] = _Dial(conn, dealer, monitor)
        dial.watchers = [self._watch(monitor, lambda: self._read_dial(dial))]
        try:
            dealer.connect(f"tcp://{endpoint}")
        except zmq.ZMQError as error:
            text = f"cannot dial {endpoint}: {error}"
            self.loop.run_callback(lambda: self._dial_lost(dial, text))

    def send(self, conn: int, data: bytes) -> None:
        """Give a batch to a connection; one that is gone is told of as lost, and takes nothing."""
        try:
            routing_id = self.ids.get(conn)
            if routing_id is not None:
                self.router.send(routing_id, _SEND_MORE)
                self.router.send(data, _NOBLOCK)
                return
            dial = self.dials.get(conn)
            if dial is not None:
                dial.dealer.send(data, _NOBLOCK)
        except zmq.ZMQError as error:
            reason = f"connection lost ({error})"
            self.loop.run_callback(lambda: self._gone(conn, reason))

    def settle(self) -> None:
        """After sends: read what came in meanwhile, for no descriptor will stir for it again."""
        if _events(self.router) & _POLLIN:
            self.loop.run_callback(self._read_router)
        for dial in self.dials.values():
            if dial.monitor is None and self._stirs(dial):
                self.loop.run_callback(self._read_dealer, dial)

    def _stirs(self, dial: _Dial) -> bool:
        events = _events(dial.dealer)
        return bool(events & _POLLIN) or not events & _POLLOUT

    def close(self, conn: int, linger_s: float) -> None:
        """End a connection once what was sent on it has left, or after ``linger_s``. One that is gone is no error."""
        dial = self.dials.pop(conn, None)
        if dial is not None:
            self._release(dial, linger_s)
            return
        if conn not in self.ids:
            return
        if linger_s > 0:
            timer = self.loop.timer(linger_s)
            timer.start(self._end_inbound_by, timer, conn)
        else:
            self._end_inbound(conn)

    def _end_inbound_by(self, timer: Any, conn: int) -> None:
        timer.close()
        self._end_inbound(conn)

    def _end_inbound(self, conn: int) -> None:
        fd = self.fds.pop(conn, None)
        routing_id = self.ids.pop(conn, None)
        if routing_id is not None:
            self.conns.pop(routing_id, None)
        if fd is not None and fd in self.inbound:
            self._shut(fd, self.inbound.pop(fd))

    def _release(self, dial: _Dial, linger_s: float) -> None:
        for watcher in dial.watchers:
            watcher.stop()
            watcher.close()
        if dial.monitor is not None:
            dial.dealer.disable_monitor()
            dial.monitor.close(0)
            dial.monitor = None
        dial.dealer.close(int(linger_s * 1000))

    def close_all(self, linger_s: float) -> None:
        """End everything; what was sent has ``linger_s`` to leave."""
        for dial in list(self.dials.values()):
            self._release(dial, linger_s)
        self.dials.clear()
        for watcher in self.watchers:
            watcher.stop()
            watcher.close()
        self.router.disable_monitor()
        self.monitor.close(0)
        self.router.close(int(linger_s * 1000))
        self.context.term()

    # In

    def _read_router(self) -> None:
        router, conns = self.router, self.conns
        for _ in range(READS_PER_TURN):
            if not _events(router) & _POLLIN:
                return
            try:
                routing_id = router.recv(_NOBLOCK)
                conn = conns.get(routing_id)
                if conn is None:
                    frame = router.recv(_NOBLOCK, copy=False)
                    conn = self._introduce(routing_id, frame)
                    data = frame.bytes
                else:
                    data = router.recv(_NOBLOCK)
                if router.getsockopt(zmq.RCVMORE):
                    self._swallow_rest(conn)
                    continue
            except zmq.ZMQError:
                return
            self.events.data(conn, data)
        self.loop.run_callback(self._read_router)

    def _swallow_rest(self, conn: int) -> None:
        """A message of several frames is none of ours: drop it, and the connection with it."""
        while self.router.getsockopt(zmq.RCVMORE):
            self.router.recv(_NOBLOCK)
        self._gone(conn, "a message of several frames")
        self._end_inbound(conn)

    def _introduce(self, routing_id: bytes, frame: zmq.Frame) -> int:
        """A connection's first message: number it, and tie it to its descriptor."""
        conn = self.events.accepted()
        self.conns[routing_id] = conn
        self.ids[conn] = routing_id
        with contextlib.suppress(zmq.ZMQError, ValueError):
            fd = int(frame.get(zmq.SRCFD))
            entry = self.inbound.get(fd)
            if entry is None:
                entry = self._arrive(fd)
            if entry is not None:
                entry.conn = conn
                self.fds[conn] = fd
        return conn

    def _read_dealer(self, dial: _Dial) -> None:
        if dial.dealer.closed:
            return
        for _ in range(READS_PER_TURN):
            events = _events(dial.dealer)
            if not events & _POLLIN:
                if not events & _POLLOUT:
                    self._dial_lost(dial, "connection lost")
                return
            try:
                data = dial.dealer.recv(_NOBLOCK)
                many = dial.dealer.getsockopt(zmq.RCVMORE)
            except zmq.ZMQError:
                return
            if many:
                self._dial_lost(dial, "a message of several frames")
                return
            self.events.data(dial.conn, data)
            if dial.dealer.closed:
                return
        self.loop.run_callback(self._read_dealer, dial)

    def _read_dial(self, dial: _Dial) -> None:
        """Follow a dial until its handshake is done or it has failed."""
        while dial.monitor is not None and _events(dial.monitor) & _POLLIN:
            event = zmq.Event(recv_monitor_message(dial.monitor)["event"])
            if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                for watcher in dial.watchers:
                    watcher.stop()
                    watcher.close()
                dial.dealer.disable_monitor()
                dial.monitor.close(0)
                dial.monitor = None
                dial.watchers = [self._watch(dial.dealer, lambda: self._read_dealer(dial))]
                self.events.connected(dial.conn)
            elif event & _FAILED_DIAL:
                self._dial_lost(dial, f"dial failed ({str(event.name).lower()})")

    def _dial_lost(self, dial: _Dial, reason: str) -> None:
        if self.dials.pop(dial.conn, None) is not None:
            self._release(dial, 0)
            self.events.lost(dial.conn, reason)

    def _gone(self, conn: int, reason: str) -> None:
        dial = self.dials.get(conn)
        if dial is not None:
            self._dial_lost(dial, reason)
        elif conn in self.ids:
            routing_id = self.ids.pop(conn)
            self.conns.pop(routing_id, None)
            self.fds.pop(conn, None)
            self.events.lost(conn, reason)

    # Connections that come in

    def _read_monitor(self) -> None:
        disconnected = False
        while _events(self.monitor) & _POLLIN:
            event = recv_monitor_message(self.monitor)
            if event["event"] == zmq.Event.ACCEPTED:
                self._arrive(int(event["value"]))
            elif event["event"] == zmq.Event.DISCONNECTED:
                disconnected = True
                fd = int(event["value"])
                entry = self.inbound.get(fd)
                if entry is not None and entry.conn is None:
                    del self.inbound[fd]
        if disconnected:
            self._probe()
        self._bound_unproven()

    def _arrive(self, fd: int) -> _Inbound | None:
        """Remember an accepted descriptor, if it is still there, by the address at its other end."""
        peer = _peer_of(fd)
        if peer is None:
            return None
        old = self.inbound.get(fd)
        if old is not None and old.peer == peer:
            return old
        entry = self.inbound[fd] = _Inbound(peer, self.clock())
        return entry

    def _probe(self) -> None:
        """Find the accepted links whose connection is gone."""
        for fd, entry in list(self.inbound.items()):
            if entry.conn is not None and _peer_of(fd) != entry.peer:
                del self.inbound[fd]
                self._gone(entry.conn, "connection lost")

    def _bound_unproven(self) -> None:
        """End the oldest of the connections that have said nothing, when they are too many."""
        silent = [(entry.since, fd) for fd, entry in self.inbound.items() if entry.conn is None]
        excess = len(silent) - self.options.inbound_unproven_max
        for _, fd in sorted(silent)[: max(0, excess)]:
            self._silence(fd, "inbound_unproven_max")

    def tick(self) -> None:
        """Look at every socket again; end connections that have said nothing in time."""
        limit = self.clock() - self.options.hello_timeout_s
        for fd in [fd for fd, entry in self.inbound.items() if entry.conn is None and entry.since <= limit]:
            self._silence(fd, "hello_timeout_s")
        self._read_monitor()
        self._read_router()
        for dial in list(self.dials.values()):
            if dial.monitor is not None:
                self._read_dial(dial)
            else:
                self._read_dealer(dial)

    def _silence(self, fd: int, limit: str) -> None:
        entry = self.inbound.pop(fd)
        self.events.silenced(limit, len(self.inbound))
        self._shut(fd, entry)

    def _shut(self, fd: int, entry: _Inbound) -> None:
        """Shut a descriptor of ZeroMQ's down, if it is still the one that was meant."""
        with contextlib.suppress(OSError), _duplicate(fd) as twin:
            if twin.getpeername() == entry.peer:
                twin.shutdown(socket.SHUT_RDWR)


def _events(sock: "zmq.Socket[bytes]") -> int:
    return sock.getsockopt(_EVENTS)  # type: ignore[return-value]


def _duplicate(fd: int) -> socket.socket:
    return socket.socket(fileno=os.dup(fd))


def _peer_of(fd: int) -> Any:
    """Return the address at the other end of a descriptor, or None if it has none."""
    try:
        with _duplicate(fd) as twin:
            return twin.getpeername()
    except OSError:
        return None
