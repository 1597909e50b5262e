"""All links of one reactor: what came in, and the dials, under one kind of number; nothing that decides."""

import socket
from collections.abc import Callable

import zmq

from mesh.agent.dials import Dials
from mesh.agent.inbound import Inbounds
from mesh.agent.zap import Zap
from mesh.agent.zeromq import Context, LinkEvents, LinksOptions
from mesh.types import Endpoint

__all__ = ["LinkEvents", "Links", "LinksOptions"]

SOCKETS_PER_LINK = 4
"""While it is dialled a link has a socket and the two of its monitor; one that was closed may linger beside it."""


class Links:
    """One ZeroMQ context with everything in it. Each method is that of `Inbounds` or of `Dials`."""

    def __init__(
        self,
        listeners: tuple[socket.socket, ...],
        events: LinkEvents,
        options: LinksOptions,
        clock: Callable[[], float],
    ) -> None:
        self.context: Context = zmq.Context()
        sockets_max = SOCKETS_PER_LINK * options.links_max + 64
        self.context.set(zmq.MAX_SOCKETS, min(sockets_max, self.context.get(zmq.SOCKET_LIMIT)))
        self.zap = Zap(self.context, events.evicted) if options.keys is not None else None
        self.inbounds = Inbounds(self.context, listeners, events, options, clock)
        self.dials = Dials(self.context, events, options)

    def address_of(self, conn: int) -> str:
        """Return where the other end of a connection is, as the kernel sees it; empty if that is over."""
        return self.inbounds.address_of(conn) or self.dials.address_of(conn)

    def open(self, conn: int, endpoint: Endpoint) -> None:
        """Dial; tells ``connected`` or ``lost``."""
        self.dials.open(conn, endpoint)

    def send(self, conn: int, data: bytes) -> None:
        """Give a batch to a connection; one that is gone is told of as lost, and takes nothing."""
        if not self.inbounds.send(conn, data):
            self.dials.send(conn, data)

    def settle(self) -> None:
        """After the sends of a turn: read what came in meanwhile, for no descriptor will stir for it again."""
        self.inbounds.settle()
        self.dials.settle()

    def close(self, conn: int, linger_s: float) -> None:
        """End a connection once what was sent on it has left, or after ``linger_s``. One that is gone is no error."""
        self.inbounds.close(conn, linger_s)
        self.dials.close(conn, linger_s)

    def tick(self) -> None:
        """Look at every socket again, and end what has said nothing in time."""
        self.inbounds.tick()
        self.dials.tick()

    def close_all(self, linger_s: float) -> None:
        """End everything; what was sent has ``linger_s`` to leave."""
        self.dials.close_all(linger_s)
        self.inbounds.close_all(linger_s)
        if self.zap is not None:
            self.zap.close()
        self.context.destroy(int(linger_s * 1000))
