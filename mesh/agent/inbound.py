"""The link port: a ROUTER, and what the kernel knows of the connections that came in.

ZeroMQ tells little of them, and has no call to end one. So each is known by its descriptor:

* The ROUTER's monitor tells, in order, which descriptors were accepted and which are gone.
* The first message of a connection brings its descriptor (``SRCFD``), which ties it to a routing id. Numbers are used
  again, so the monitor is read up to now before it is asked whose a number is. What came by one that is gone is
  dropped; where two claim one, it is ended.
* A connection is ended by ``shutdown`` on a duplicate of its descriptor, if the address at the other end is still the
  one that was accepted. One that ends without a goodbye is reset: where packets to a peer are lost and those from it
  arrive, TCP would send the end after all that the peer never acknowledges, which is never; a reset goes at once.

Whoever has not been answered by the node is unproven: few of those may be there at once, and not for long. ZeroMQ's
thread accepts without asking, so that bound is kept at each look. The node never knows of more; the process may hold
more until the loop's next turn, but never more than its limit of open files, which is `Config.descriptors_needed`.
"""

import os
import socket
import struct
from collections.abc import Callable
from math import inf
from typing import Any

import zmq
from gevent import get_hub

from mesh.agent.unpatched import Socket
from mesh.agent.zeromq import (
    NOBLOCK,
    POLLIN,
    READS_PER_TURN,
    Context,
    LinkEvents,
    LinksOptions,
    events_of,
    make_monitor,
    make_socket,
    next_event,
    watch,
)
from mesh.security.zap import DOMAIN
from mesh.types import Endpoint

__all__ = ["Inbounds"]

MONITOR_READS_PER_TURN = 4096
"""Events read at once: more than a listener's queue can bring."""

_RESET = struct.pack("ii", 1, 0)
"""A linger of no time: what is closed so is reset."""

_SEND_MORE = NOBLOCK | int(zmq.SNDMORE)
_ACCEPTED = int(zmq.Event.ACCEPTED)
_DISCONNECTED = int(zmq.Event.DISCONNECTED)
_MISFIT = "its handshake failed: it has no key, or a revoked one, or it means another key than this agent's"
_STRANGER = "its handshake failed: it does not speak ZeroMQ, or speaks CURVE, which is off here"
_FAILED = int(
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL | zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_AUTH
)


class _Inbound:
    """One connection: its descriptor, the address at its other end, and until when it may stay.

    ``conn`` and ``routing_id`` come with its first message; ``answered`` once the node has said something to it.
    """

    def __init__(self, fd: int, peer: Any, ends_at: float) -> None:
        self.fd = fd
        self.peer = peer
        self.ends_at = ends_at
        self.conn: int | None = None
        self.routing_id = b""
        self.answered = False

    @property
    def proven(self) -> bool:
        return self.answered and self.ends_at == inf

    def __str__(self) -> str:
        return str(Endpoint(*self.peer[:2])) if self.peer else "?"


class Inbounds:
    """All connections that came in: ``by_fd`` each that is there, ``by_conn`` and ``conns`` those the node knows."""

    def __init__(
        self,
        context: Context,
        listeners: tuple[socket.socket, ...],
        events: LinkEvents,
        options: LinksOptions,
        clock: Callable[[], float],
    ) -> None:
        self.events = events
        self.options = options
        self.clock = clock
        self.loop = get_hub().loop
        self.router = make_socket(context, zmq.ROUTER, options)
        self.router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if options.keys is not None:
            self.router.setsockopt(zmq.CURVE_SERVER, 1)
            self.router.setsockopt_string(zmq.CURVE_SECRETKEY, options.keys.secret_key)
            self.router.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
            self.router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        self.monitor = make_monitor(context, self.router, _ACCEPTED | _DISCONNECTED | _FAILED)
        self.by_fd: dict[int, _Inbound] = {}
        self.by_conn: dict[int, _Inbound] = {}
        self.conns: dict[bytes, int] = {}
        self.departing: dict[_Inbound, str] = {}
        self.handshake_failed = ""
        self.sent = False
        self.twin = _Twin()
        self.watchers = [watch(self.router, self._read), watch(self.monitor, self._read_monitor)]
        for listener in listeners:
            self._bind(listener)

    def _bind(self, listener: socket.socket) -> None:
        """Accept on a duplicate of a listener that outlives the ROUTER."""
        host, port = listener.getsockname()[:2]
        self.router.setsockopt(zmq.USE_FD, os.dup(listener.fileno()))
        self.router.bind(f"tcp://{Endpoint(host, port)}")
        self.router.setsockopt(zmq.USE_FD, -1)

    def send(self, conn: int, data: bytes) -> bool:
        """Give a batch to a connection, and return whether there is one; if it is gone it is told of as lost."""
        inbound = self.by_conn.get(conn)
        if inbound is None:
            return False
        inbound.answered = self.sent = True
        try:
            self.router.send(inbound.routing_id, _SEND_MORE)
            self.router.send(data, NOBLOCK)
        except zmq.ZMQError as error:
            self._departs(inbound, f"connection lost ({error})")
        return True

    def address_of(self, conn: int) -> str:
        """Return where a connection comes from, or an empty string."""
        inbound = self.by_conn.get(conn)
        return str(inbound) if inbound is not None else ""

    def settle(self) -> None:
        """After sends: read what came in meanwhile, for no descriptor will stir for it again."""
        if self.sent:
            self.sent = False
            if events_of(self.router) & POLLIN:
                self.loop.run_callback(self._read)

    def close(self, conn: int, linger_s: float) -> None:
        """End a connection, ``linger_s`` from now, so that what was sent may leave. One that is gone is no error."""
        inbound = self.by_conn.get(conn)
        if inbound is None:
            return
        if linger_s > 0:
            self._forget(inbound)
            inbound.ends_at = self.clock() + linger_s
        else:
            self._end(inbound)

    def close_all(self, linger_s: float) -> None:
        """Accept no more, and end what is there; what was sent has ``linger_s`` to leave."""
        for watcher in self.watchers:
            watcher.stop()
            watcher.close()
        self.router.monitor(None, 0)
        self.monitor.close(0)
        self.router.close(int(linger_s * 1000))
        self.twin.close()

    def tick(self) -> None:
        """Look at every socket again; end what has said nothing in time, and what has lingered long enough."""
        now = self.clock()
        for inbound in [inbound for inbound in self.by_fd.values() if inbound.ends_at <= now]:
            if inbound.conn is None:
                self._evict(inbound, "hello_timeout_s")
            else:
                self._end(inbound, orderly=True)
        self._read_monitor()
        if not self.twin.is_room():
            self._bound_unproven(0, "no descriptor is left, and ZeroMQ spins until one is")
        self._read()

    # What they say

    def _read(self) -> None:
        router, conns = self.router, self.conns
        for _ in range(READS_PER_TURN):
            if not events_of(router) & POLLIN:
                self._take_leave()
                return
            routing_id = router.recv(NOBLOCK)
            conn = conns.get(routing_id)
            if conn is None:
                frame = router.recv(NOBLOCK, copy=False)
                conn = self._introduce(routing_id, frame)
                data = frame.bytes
            else:
                data = router.recv(NOBLOCK)
            if router.getsockopt(zmq.RCVMORE):
                self._swallow_rest(conn)
            elif conn is not None:
                self.events.data(conn, data)
        self.loop.run_callback(self._read)

    def _swallow_rest(self, conn: int | None) -> None:
        """A message of several frames is none of ours: drop it, and the connection with it."""
        while self.router.getsockopt(zmq.RCVMORE):
            self.router.recv(NOBLOCK)
        if conn is not None:
            self._evict(self.by_conn[conn], "it sent a message of several frames")

    def _introduce(self, routing_id: bytes, frame: zmq.Frame) -> int | None:
        """Number a connection by its first message, and tie it to its descriptor. None: it is over already."""
        self._read_monitor()
        inbound = self.by_fd.get(_source(frame))
        if inbound is None:
            return None
        if inbound.conn is not None:
            if inbound.conn in self.by_conn:
                self._evict(inbound, "its descriptor was taken for another's")
            return None
        conn = inbound.conn = self.events.accepted(_user(frame) if self.options.keys is not None else "")
        inbound.routing_id = routing_id
        inbound.ends_at = inf
        self.conns[routing_id] = conn
        self.by_conn[conn] = inbound
        return conn

    # Whether they are there

    def _read_monitor(self) -> None:
        for _ in range(MONITOR_READS_PER_TURN):
            told = next_event(self.monitor)
            if told is None:
                break
            event, fd = told
            if event == _ACCEPTED:
                self.by_fd[fd] = _Inbound(fd, self.twin.peer_of(fd), self.clock() + self.options.hello_timeout_s)
            elif event == _DISCONNECTED:
                self._left(fd)
                self.handshake_failed = ""
            else:  # it is told just before the connection's end
                self.handshake_failed = _MISFIT if self.options.keys is not None else _STRANGER
        self._bound_unproven(self.options.inbound_unproven_max, "inbound_unproven_max")

    @property
    def unproven(self) -> int:
        """How many have not shown who they are."""
        return sum(not inbound.proven for inbound in self.by_fd.values())

    def _bound_unproven(self, most: int, why: str) -> None:
        """End the oldest of the unproven, down to so many."""
        unproven = [inbound for inbound in self.by_fd.values() if not inbound.proven]
        for inbound in unproven[: max(0, len(unproven) - most)]:
            self._evict(inbound, why)

    def _left(self, fd: int) -> None:
        """A connection is gone."""
        inbound = self.by_fd.pop(fd, None)
        if inbound is None:
            return
        if inbound.conn is None:
            self.events.evicted(self.handshake_failed or "it left before it said anything", str(inbound))
        elif inbound.conn in self.by_conn:
            self._departs(inbound, "connection lost")

    def _departs(self, inbound: _Inbound, reason: str) -> None:
        """A connection that the node knows is gone: that is told after its last words, which may be unread yet."""
        self.departing[inbound] = reason
        self.loop.run_callback(self._read)

    def _take_leave(self) -> None:
        departing, self.departing = self.departing, {}
        for inbound, reason in departing.items():
            self._lose(inbound, reason)

    def _lose(self, inbound: _Inbound, reason: str) -> None:
        """End a connection; if the node knows it, tell it."""
        conn = inbound.conn if inbound.conn in self.by_conn else None
        self._end(inbound)
        if conn is not None:
            self.events.lost(conn, reason)

    def _evict(self, inbound: _Inbound, why: str) -> None:
        """End a connection for something that it did, or did not do."""
        self.events.evicted(why, str(inbound))
        self._lose(inbound, why)

    def _end(self, inbound: _Inbound, *, orderly: bool = False) -> None:
        """Shut a connection down, unless it is down; what is still read of it is dropped. Unless that is ``orderly``,
        what has not left is dropped too, and the other end learns at once."""
        self._forget(inbound)
        if self.by_fd.get(inbound.fd) is inbound:
            del self.by_fd[inbound.fd]
            self.twin.shut(inbound.fd, inbound.peer, reset=not orderly)

    def _forget(self, inbound: _Inbound) -> None:
        """The node knows this connection no more."""
        if inbound.conn is not None and self.by_conn.pop(inbound.conn, None) is not None:
            del self.conns[inbound.routing_id]


def _source(frame: zmq.Frame) -> int:
    """Return the descriptor that a message came by; -1 if it came by an old protocol, which does not tell."""
    try:
        return int(frame.get(zmq.SRCFD))
    except zmq.ZMQError:
        return -1


def _user(frame: zmq.Frame) -> str:
    """Return the key that ZAP's verdict named."""
    return str(frame.get("User-Id"))


class _Twin:
    """A descriptor of our own that becomes a duplicate of one of ZeroMQ's, so that neither can be closed meanwhile.

    It is there before it is needed, for at the limit of open files there would be none.
    """

    def __init__(self) -> None:
        self.blank = Socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.twin = Socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def peer_of(self, fd: int) -> Any:
        """Return the address at the other end of a descriptor, or None if it has none."""
        try:
            os.dup2(fd, self.twin.fileno(), inheritable=False)
            return self.twin.getpeername()
        except OSError:
            return None
        finally:
            os.dup2(self.blank.fileno(), self.twin.fileno(), inheritable=False)

    def shut(self, fd: int, peer: Any, *, reset: bool = False) -> None:
        """Shut a descriptor down, if that peer is still at its other end; ``reset``: ZeroMQ's close then resets it."""
        try:
            os.dup2(fd, self.twin.fileno(), inheritable=False)
            if peer is not None and self.twin.getpeername() == peer:
                if reset:
                    self.twin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self.twin.shutdown(socket.SHUT_RDWR)
        except OSError:
            return
        finally:
            os.dup2(self.blank.fileno(), self.twin.fileno(), inheritable=False)

    def is_room(self) -> bool:
        """Return whether another descriptor could be opened."""
        try:
            os.close(os.dup(self.blank.fileno()))
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.twin.close()
        self.blank.close()
