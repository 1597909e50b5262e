"""The dials: a DEALER for each connection that this end began.

A dial carries a monitor until the handshake is done, because a refusal shows nowhere else. From then on a DEALER that
has lost its connection has lost ``POLLOUT``, which nothing else takes from it. Reconnecting is off: libzmq would lose a
batch and deliver the next.
"""

import ipaddress
from typing import Any

import zmq
from gevent import get_hub

from mesh.agent.zeromq import (
    NOBLOCK,
    POLLIN,
    POLLOUT,
    READS_PER_TURN,
    Context,
    LinkEvents,
    LinksOptions,
    ZmqSocket,
    events_of,
    make_monitor,
    make_socket,
    next_event,
    watch,
)
from mesh.types import Endpoint

__all__ = ["Dials"]

_CONNECTED = int(zmq.Event.HANDSHAKE_SUCCEEDED)
_FAILED = int(
    zmq.Event.CLOSED
    | zmq.Event.CONNECT_RETRIED
    | zmq.Event.DISCONNECTED
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_AUTH
)
_ABSENT = "nobody answers there, or nothing leads there"
_STRANGER = "what is there broke off before it had shown that it speaks ZeroMQ"
_OTHER_KEY = "its handshake failed: there is no agent with the key that the catalogue names, or its CURVE is off"
_KEPT_OUT = "it does not let this agent in: this agent's key was revoked, or its ZAP handler is gone"


class _Dial:
    """One DEALER and, until it is connected, its monitor."""

    def __init__(self, conn: int, endpoint: Endpoint, dealer: ZmqSocket) -> None:
        self.conn = conn
        self.endpoint = endpoint
        self.dealer = dealer
        self.monitor: ZmqSocket | None = None
        self.watcher: Any = None


class Dials:
    """All dials of one reactor, by the number of their connection."""

    def __init__(self, context: Context, events: LinkEvents, options: LinksOptions) -> None:
        self.context = context
        self.events = events
        self.options = options
        self.loop = get_hub().loop
        self.dials: dict[int, _Dial] = {}
        self.sent_on: dict[_Dial, None] = {}

    def open(self, conn: int, endpoint: Endpoint) -> None:
        """Dial an address, no name: looking one up would hold up all links. Tells ``connected`` or ``lost``."""
        try:
            ipaddress.ip_address(endpoint.host)
            if self.options.keys is not None and not endpoint.public_key:
                raise ValueError("its public key is not known: is CURVE off there?")
            dealer = make_socket(self.context, zmq.DEALER, self.options)
            dial = self.dials[conn] = _Dial(conn, endpoint, dealer)
            if self.options.keys is not None:
                dealer.setsockopt_string(zmq.CURVE_SERVERKEY, endpoint.public_key)
                dealer.setsockopt_string(zmq.CURVE_PUBLICKEY, self.options.keys.public_key)
                dealer.setsockopt_string(zmq.CURVE_SECRETKEY, self.options.keys.secret_key)
            dealer.setsockopt(zmq.IMMEDIATE, 1)
            dealer.setsockopt(zmq.RECONNECT_IVL, -1)
            dealer.setsockopt(zmq.CONNECT_TIMEOUT, int(self.options.hello_timeout_s * 1000))
            dial.monitor = make_monitor(self.context, dealer, _CONNECTED | _FAILED)
            dial.watcher = watch(dial.monitor, lambda: self._follow(dial))
            dealer.connect(f"tcp://{endpoint}")
        except (ValueError, zmq.ZMQError) as error:  # a key that is none is an error of ZeroMQ's
            self.loop.run_callback(self._lost, conn, f"cannot dial {endpoint}: {error}")

    def address_of(self, conn: int) -> str:
        """Return what was dialled, or an empty string."""
        dial = self.dials.get(conn)
        return str(dial.endpoint) if dial is not None else ""

    def send(self, conn: int, data: bytes) -> None:
        """Give a batch to a connection; one that is gone is told of as lost, and takes nothing."""
        dial = self.dials.get(conn)
        if dial is None:
            return
        self.sent_on[dial] = None
        try:
            dial.dealer.send(data, NOBLOCK)
        except zmq.ZMQError:  # it is gone, which is told after its last words
            self.loop.run_callback(self._read, dial)

    def settle(self) -> None:
        """After sends: read what came in meanwhile, for no descriptor will stir for it again."""
        for dial in self.sent_on:
            if dial.conn in self.dials and events_of(dial.dealer) & (POLLIN | POLLOUT) != POLLOUT:
                self.loop.run_callback(self._read, dial)
        self.sent_on.clear()

    def close(self, conn: int, linger_s: float) -> None:
        """End a connection once what was sent on it has left, or after ``linger_s``. One that is gone is no error."""
        dial = self.dials.pop(conn, None)
        if dial is not None:
            self._unwatch(dial)
            dial.dealer.close(int(linger_s * 1000))

    def close_all(self, linger_s: float) -> None:
        """End every connection likewise."""
        for conn in list(self.dials):
            self.close(conn, linger_s)

    def tick(self) -> None:
        """Look at every socket again."""
        for dial in list(self.dials.values()):
            if dial.monitor is not None:
                self._follow(dial)
            else:
                self._read(dial)

    def _follow(self, dial: _Dial) -> None:
        """Follow a dial until its handshake is done or it has failed."""
        while dial.monitor is not None and (told := next_event(dial.monitor)) is not None:
            event, _ = told
            if event == _CONNECTED:
                self._unwatch(dial)
                dial.watcher = watch(dial.dealer, lambda: self._read(dial))
                self.events.connected(dial.conn)
            else:
                self._lost(dial.conn, f"dial failed: {self._why(event)}")

    def _why(self, event: int) -> str:
        if event == zmq.Event.HANDSHAKE_FAILED_AUTH:
            return _KEPT_OUT
        if event in (zmq.Event.HANDSHAKE_FAILED_NO_DETAIL, zmq.Event.HANDSHAKE_FAILED_PROTOCOL):
            return _OTHER_KEY if self.options.keys is not None else _STRANGER
        return _ABSENT

    def _read(self, dial: _Dial) -> None:
        for _ in range(READS_PER_TURN):
            if dial.conn not in self.dials:
                return
            events = events_of(dial.dealer)
            if not events & POLLIN:
                if not events & POLLOUT:
                    self._lost(dial.conn, "connection lost")
                return
            data = dial.dealer.recv(NOBLOCK)
            if dial.dealer.getsockopt(zmq.RCVMORE):
                self._lost(dial.conn, "it sent a message of several frames")
                return
            self.events.data(dial.conn, data)
        self.loop.run_callback(self._read, dial)

    def _unwatch(self, dial: _Dial) -> None:
        """Follow a dial no more: its handshake is done, or it is over."""
        if dial.watcher is not None:
            dial.watcher.stop()
            dial.watcher.close()
            dial.watcher = None
        if dial.monitor is not None:
            dial.dealer.monitor(None, 0)
            dial.monitor.close(0)
            dial.monitor = None

    def _lost(self, conn: int, reason: str) -> None:
        self.close(conn, 0.0)
        self.events.lost(conn, reason)
