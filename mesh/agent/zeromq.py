"""What dials and accepted connections share: ZeroMQ sockets on gevent's loop, and whom they tell.

A plain socket is read when its descriptor stirs, until it has no more or a turn's share is taken. The descriptor is
edge-triggered and a send may take the edge, so ``EVENTS`` is asked after sends, and of every socket at each tick.

High-water marks are off: credit bounds what is sent, by count and by bytes, and a full mark would only hide a lost
connection.
"""

import struct
from collections.abc import Callable
from typing import Any

import zmq
from gevent import get_hub
from msgspec import Struct

from mesh.core.codec import FRAME_BYTES_MAX
from mesh.security.keys import NodeSecret

__all__ = [
    "NOBLOCK",
    "POLLIN",
    "POLLOUT",
    "READS_PER_TURN",
    "Context",
    "LinkEvents",
    "LinksOptions",
    "ZmqSocket",
    "events_of",
    "make_monitor",
    "make_socket",
    "next_event",
    "watch",
]

READS_PER_TURN = 256
"""Messages read from one socket before others have their turn."""

POLLIN = int(zmq.POLLIN)
POLLOUT = int(zmq.POLLOUT)
NOBLOCK = int(zmq.NOBLOCK)

_EVENTS = int(zmq.EVENTS)
_MONITOR_EVENT = struct.Struct("=hi")

ZmqSocket = zmq.Socket[bytes]
Context = zmq.Context[ZmqSocket]


class LinksOptions(Struct, frozen=True):
    """What the sockets need to know; times in seconds. ``reap_after_s``: ZeroMQ's own heartbeat, for dead machines.
    ``keys``: the pair by which all links are secured, if they are."""

    links_max: int
    hello_timeout_s: float
    inbound_unproven_max: int
    reap_after_s: float
    keys: NodeSecret | None = None


class LinkEvents(Struct, frozen=True):
    """Whom to tell: of a new connection and the public key of its handshake (returns its number), of data, of a dial
    that stands, of a loss and why.

    ``evicted``: why a connection that came in was ended here, or left before it said anything, and where it came from.
    """

    accepted: Callable[[str], int]
    data: Callable[[int, bytes], None]
    connected: Callable[[int], None]
    lost: Callable[[int, str], None]
    evicted: Callable[[str, str], None]


def make_socket(context: Context, kind: int, options: LinksOptions) -> ZmqSocket:
    """Return a socket for links."""
    sock = context.socket(kind)
    reap_ms = int(options.reap_after_s * 1000)
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.SNDHWM, 0),
        (zmq.RCVHWM, 0),
        (zmq.IPV6, 1),
        (zmq.MAXMSGSIZE, FRAME_BYTES_MAX),
        (zmq.HANDSHAKE_IVL, int(options.hello_timeout_s * 1000)),
        (zmq.HEARTBEAT_IVL, reap_ms),
        (zmq.HEARTBEAT_TIMEOUT, reap_ms),
    ):
        sock.setsockopt(option, value)
    return sock


def make_monitor(context: Context, sock: ZmqSocket, events: int) -> ZmqSocket:
    """Return a socket that tells of another's events; without a mark, at which ZeroMQ's thread would stand still."""
    address = f"inproc://monitor-{sock.fileno()}"
    sock.monitor(address, events)
    monitor = context.socket(zmq.PAIR)
    monitor.setsockopt(zmq.LINGER, 0)
    monitor.setsockopt(zmq.RCVHWM, 0)
    monitor.connect(address)
    return monitor


def next_event(monitor: ZmqSocket) -> tuple[int, int] | None:
    """Return the next event that a monitor has to tell, with its value, or None."""
    if not events_of(monitor) & POLLIN:
        return None
    event, value = _MONITOR_EVENT.unpack(monitor.recv(NOBLOCK))
    monitor.recv(NOBLOCK)
    return event, value


def events_of(sock: ZmqSocket) -> int:
    """Return what a socket is ready for, now."""
    return sock.getsockopt(_EVENTS)  # type: ignore[return-value]


def watch(sock: ZmqSocket, read: Callable[[], None]) -> Any:
    """Have a socket read when its descriptor stirs, and once now, for it may have stirred before."""
    loop = get_hub().loop
    watcher = loop.io(sock.fileno(), 1)
    watcher.start(read)
    loop.run_callback(read)
    return watcher
