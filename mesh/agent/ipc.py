"""The app socket: frames of a Unix stream, who is at the other end, and when its process dies.

A frame is its length (``u32``, little-endian) and a batch. What an app does not read waits here, within a limit; at the
limit the app is cut off.

An app is dead when its process is, which a pidfd tells, even if a child of it keeps the socket open. What it had
written before is read first. A connection that merely ended leaves its process watched for ``mourn_s``.
"""

import os
import socket
import struct
from collections.abc import Callable
from typing import Any

import gevent
from gevent import get_hub
from msgspec import Struct

from mesh.agent.people import People, Person, peer_of
from mesh.agent.unpatched import Socket
from mesh.core.codec import FRAME_BYTES_MAX
from mesh.core.session import Credentials, Named

__all__ = ["AppEvents", "Apps", "AppsOptions"]

READ_BYTES = 256 << 10
"""Bytes read from one app before others have their turn."""

SLICE_S = 0.002
"""How long what was read from one app is worked at before others have their turn; a batch is always finished."""

ACCEPTS_PER_TURN = 64
"""Connections accepted before others have their turn."""

FAREWELL_S = 1.0
"""How long a connection that is being closed waits for its app to read what it was told."""

_LENGTH = struct.Struct("<I")


class AppsOptions(Struct, frozen=True):
    """Limits: connections at once, bytes that may wait for one app that does not read, seconds to await a death."""

    connections_max: int
    unread_bytes_max: int
    mourn_s: float


class AppEvents(Struct, frozen=True):
    """Whom to tell: of a connection (returns its number), a frame, bytes that are none, an end, a death.

    ``named``: whom the token in the frame that comes next names.
    ``closed`` returns the session that was there, if it may come back. ``took``: the socket has taken what it was given
    before it was asked to confirm this number. ``full``: why nobody is accepted for a while.
    """

    connected: Callable[[Credentials], int]
    named: Callable[[int, Named], None]
    data: Callable[[int, memoryview], None]
    malformed: Callable[[int, str], None]
    closed: Callable[[int], int | None]
    died: Callable[[int], None]
    took: Callable[[int, int], None]
    full: Callable[[str], None]


class _Connection:
    """One app's socket, what was read of its next frame (whole at ``due`` bytes), and what it has not taken yet."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.conn = 0
        self.pidfd = -1
        self.partial = bytearray()
        self.due = 0
        self.unsent = bytearray()
        self.unconfirmed = 0
        self.broken = False
        self.reader: Any = None
        self.writer: Any = None
        self.mourner: Any = None
        self.session: int | None = None
        self.ends_at = 0.0
        self.closing = False
        self.cut_off = False
        self.dead = False
        self.is_new = True
        self.turn: Any = None
        self.is_held = False


class Apps:
    """All connections of local apps of one reactor. ``unnamed``: those whose users' names are being looked up;
    ``mourned``: those that ended while their process lives."""

    def __init__(
        self,
        listener: socket.socket,
        people: People,
        events: AppEvents,
        options: AppsOptions,
        clock: Callable[[], float],
    ) -> None:
        self.listener = listener
        self.people = people
        self.events = events
        self.options = options
        self.clock = clock
        self.loop = get_hub().loop
        self.buffer = memoryview(bytearray(READ_BYTES))
        self.connections: dict[int, _Connection] = {}
        self.leaving: dict[_Connection, None] = {}
        self.unnamed: dict[_Connection, None] = {}
        self.mourned: dict[_Connection, None] = {}
        self.accepting = True
        self.acceptor = self.loop.io(listener.fileno(), 1)
        self.acceptor.start(self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if len(self.connections) + len(self.unnamed) >= self.options.connections_max:
                self._pause(f"app_connections_max: {self.options.connections_max} apps are connected")
                return
            try:
                fd, _ = self.listener._accept()  # type: ignore[attr-defined]
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(str(error))
                return
            self._begin(Socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=fd))

    def _pause(self, why: str) -> None:
        """Leave those who come in the listener's queue: asked again at once, it would spin."""
        self.acceptor.stop()
        self.accepting = False
        self.events.full(why)

    def _begin(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        connection, person = _Connection(sock), peer_of(sock)
        try:
            connection.pidfd = os.pidfd_open(person.pid) if person.pid > 0 else -1
        except ProcessLookupError:
            connection.dead = True
        except OSError:
            connection.pidfd = -1
        credentials = self.people.known(person)
        if credentials is not None:
            self._join(connection, credentials)
        else:
            self.unnamed[connection] = None
            gevent.spawn(self._name, connection, person)

    def _name(self, connection: _Connection, person: Person) -> None:
        """Let a connection in once it is known what its user is called."""
        credentials = self.people.known(person) or self.people.look_up(person)
        if connection in self.unnamed:
            del self.unnamed[connection]
            self._join(connection, credentials)

    def _join(self, connection: _Connection, credentials: Credentials) -> None:
        connection.conn = self.events.connected(credentials)
        self.connections[connection.conn] = connection
        connection.reader = self.loop.io(connection.sock.fileno(), 1)
        connection.reader.start(self._read, connection)
        if connection.pidfd >= 0:
            connection.mourner = self.loop.io(connection.pidfd, 1)
            connection.mourner.start(self._process_ended, connection)
        elif connection.dead:
            self.loop.run_callback(self._read, connection)

    # In

    def _read(self, connection: _Connection) -> None:
        if connection.conn not in self.connections or connection.is_held:
            return
        try:
            count = connection.sock.recv_into(self.buffer)
        except BlockingIOError:
            if connection.dead:
                self._end(connection)
            return
        except OSError:
            count = 0
        if not count:
            self._end(connection)
            return
        if connection.partial:
            connection.partial += self.buffer[:count]
            if len(connection.partial) >= connection.due:
                whole, connection.partial = connection.partial, bytearray()
                self._frames(connection, memoryview(whole))
        else:
            self._frames(connection, self.buffer[:count])
        if connection.dead:
            self.loop.run_callback(self._read, connection)

    def _frames(self, connection: _Connection, view: memoryview) -> None:
        """Give out the whole frames, and keep the rest: what is not whole, and what others must not wait for."""
        start, end = 0, len(view)
        until = self.clock() + SLICE_S
        while True:
            due = 4
            if end - start >= 4:
                (length,) = _LENGTH.unpack_from(view, start)
                if length > FRAME_BYTES_MAX:
                    connection.reader.stop()
                    self.events.malformed(connection.conn, f"a frame of {length} bytes is over {FRAME_BYTES_MAX}")
                    return
                due += length
            if end - start < due:
                break
            frame = view[start + 4 : start + due]
            if connection.is_new:
                frame = self._look(connection, frame)
            self.events.data(connection.conn, frame)
            start += due
            if start < end and self.clock() >= until:
                due = 4
                self._hold(connection)
                break
        connection.due = due
        connection.partial = bytearray(view[start:])

    def _hold(self, connection: _Connection) -> None:
        """Read no more of a connection until others have had their turn."""
        connection.is_held = True
        connection.reader.stop()
        if connection.turn is None:
            connection.turn = self.loop.timer(0.0)
        connection.turn.start(self._go_on, connection)

    def _go_on(self, connection: _Connection) -> None:
        """It is this connection's turn again."""
        connection.is_held = False
        if connection.closing:
            return
        connection.reader.start(self._read, connection)
        whole, connection.partial = connection.partial, bytearray()
        self._frames(connection, memoryview(whole))
        if connection.dead:
            self.loop.run_callback(self._read, connection)

    def _look(self, connection: _Connection, frame: memoryview) -> memoryview:
        """Tell whom the token in a first frame names, and return the frame without it: nobody else need know it."""
        connection.is_new = False
        found = self.people.look(connection.conn, frame)
        if found is None:
            return frame
        named, bare = found
        self.events.named(connection.conn, named)
        return memoryview(bare)

    def _process_ended(self, connection: _Connection) -> None:
        """An app's process is dead: read what it had written, then tell; or tell, if its connection is gone already."""
        self._forget_process(connection)
        connection.dead = True
        if connection.session is not None:
            self.events.died(connection.session)
        else:
            self._read(connection)

    def _end(self, connection: _Connection) -> None:
        """A connection is over; if its process lives, its death will be told."""
        self._close(connection)
        connection.session = self.events.closed(connection.conn)
        if connection.session is None:
            self._forget_process(connection)
        elif connection.dead:
            self.events.died(connection.session)
        elif connection.mourner is not None:
            connection.ends_at = self.clock() + self.options.mourn_s
            self.mourned[connection] = None
            if len(self.mourned) > self.options.connections_max:
                self._forget_process(next(iter(self.mourned)))

    def _forget_process(self, connection: _Connection) -> None:
        self.mourned.pop(connection, None)
        if connection.mourner is not None:
            connection.mourner.stop()
            connection.mourner.close()
            connection.mourner = None
            os.close(connection.pidfd)

    # Out

    def send(self, conn: int, data: bytes) -> None:
        """Give a frame to an app; what its socket does not take waits."""
        connection = self.connections.get(conn)
        if connection is None or connection.cut_off:
            return
        frame = _LENGTH.pack(len(data)) + data
        if not connection.unsent:
            try:
                sent = connection.sock.send(frame)
            except BlockingIOError:
                sent = 0
            except OSError:
                connection.broken = True
                return
            if sent == len(frame):
                return
            frame = frame[sent:]
        connection.unsent += frame
        unread = len(connection.unsent)
        if unread > self.options.unread_bytes_max:
            connection.cut_off = True
            connection.unsent.clear()
            self._stop_writing(connection)
            self.events.malformed(conn, f"app_unread_bytes_max: it left {unread} bytes unread")
        elif connection.writer is None:
            connection.writer = self.loop.io(connection.sock.fileno(), 2)
            connection.writer.start(self._write, connection)

    def _write(self, connection: _Connection) -> None:
        try:
            sent = connection.sock.send(memoryview(connection.unsent)[:READ_BYTES])
        except BlockingIOError:
            return
        except OSError:
            connection.broken = True
            sent = len(connection.unsent)
        del connection.unsent[:sent]
        if connection.unsent:
            return
        self._stop_writing(connection)
        if connection.unconfirmed:
            self.confirm(connection.conn, connection.unconfirmed)
        if connection.closing:
            self._end(connection)

    def confirm(self, conn: int, number: int) -> None:
        """Tell once an app's socket has taken all that it was given up to now; a broken one is not told of."""
        connection = self.connections.get(conn)
        if connection is None or connection.broken or connection.cut_off:
            return
        if connection.unsent:
            connection.unconfirmed = number
        else:
            connection.unconfirmed = 0
            self.events.took(conn, number)

    def _stop_writing(self, connection: _Connection) -> None:
        if connection.writer is not None:
            connection.writer.stop()
            connection.writer.close()
            connection.writer = None

    def close(self, conn: int) -> None:
        """End a connection once what was given to it has left, or after `FAREWELL_S`."""
        connection = self.connections.get(conn)
        if connection is None or connection.closing:
            return
        connection.closing = True
        if connection.unsent:
            connection.reader.stop()
            connection.ends_at = self.clock() + FAREWELL_S
            self.leaving[connection] = None
        else:
            self._end(connection)

    def _close(self, connection: _Connection) -> None:
        """Let go of a connection's socket."""
        del self.connections[connection.conn]
        self.people.left(connection.conn)
        self.leaving.pop(connection, None)
        self._stop_writing(connection)
        if connection.turn is not None:
            connection.turn.stop()
            connection.turn.close()
        connection.reader.stop()
        connection.reader.close()
        connection.sock.close()
        self._resume()

    def _resume(self) -> None:
        if not self.accepting:
            self.accepting = True
            self.acceptor.start(self._accept)

    def tick(self) -> None:
        """End what did not take its farewell in time, forget who has been mourned long enough, accept again."""
        now = self.clock()
        for connection in [connection for connection in self.leaving if connection.ends_at <= now]:
            self._end(connection)
        for connection in [connection for connection in self.mourned if connection.ends_at <= now]:
            self._forget_process(connection)
        self._resume()

    def close_all(self, linger_s: float) -> None:
        """End every connection and accept no more; what was sent has ``linger_s`` to leave. The listener stays open."""
        self.acceptor.stop()
        self.acceptor.close()
        self.accepting = True
        until = self.clock() + linger_s
        while any(connection.unsent for connection in self.connections.values()) and self.clock() < until:
            gevent.sleep(0.005)
        for connection in list(self.connections.values()):
            self._close(connection)
            self._forget_process(connection)
        for connection in list(self.mourned):
            self._forget_process(connection)
        for connection in list(self.unnamed):
            del self.unnamed[connection]
            connection.sock.close()
            if connection.pidfd >= 0:
                os.close(connection.pidfd)
