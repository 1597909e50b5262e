"""The app socket: frames of a Unix stream, who is at the other end, and when its process dies.

A frame is its length (``u32``, little-endian) and a batch. What an app does not read waits here, within a limit.
"""

import contextlib
import os
import socket
import struct
from collections.abc import Callable
from typing import Any

from gevent import get_hub
from msgspec import Struct

from mesh.agent.unpatched import Socket
from mesh.core.codec import FRAME_BYTES_MAX
from mesh.core.session import Credentials

__all__ = ["AppEvents", "Apps", "AppsOptions"]

READ_BYTES = 256 << 10
"""Bytes read from one app before others have their turn."""

ACCEPTS_PER_TURN = 64
"""Connections accepted before others have their turn."""

_LENGTH = struct.Struct("<I")
_UCRED = struct.Struct("3i")


class AppsOptions(Struct, frozen=True):
    """Limits: connections at once, and bytes that may wait for one app that does not read."""

    connections_max: int = 10_000
    unread_bytes_max: int = 256 << 20


class AppEvents(Struct, frozen=True):
    """Whom to tell: of a connection (returns its number), a frame, bytes that are none, an end, a death."""

    connected: Callable[[Credentials], int]
    data: Callable[[int, Any], None]
    malformed: Callable[[int, str], None]
    closed: Callable[[int], int | None]
    died: Callable[[int], None]


class _Connection:
    """One app's socket, what was read of its next frame, and what it has not taken yet."""

    def __init__(self, conn: int, sock: socket.socket, pidfd: int) -> None:
        self.conn = conn
        self.sock = sock
        self.pidfd = pidfd
        self.partial = bytearray()
        self.unsent = bytearray()
        self.reader: Any = None
        self.writer: Any = None
        self.closing = False


class Apps:
    """All connections of local apps of one reactor."""

    def __init__(self, listener: socket.socket, events: AppEvents, options: AppsOptions) -> None:
        self.listener = listener
        self.events = events
        self.options = options
        self.loop = get_hub().loop
        self.connections: dict[int, _Connection] = {}
        self.mourned: dict[int, Any] = {}
        self.acceptor = self.loop.io(listener.fileno(), 1)
        self.acceptor.start(self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                fd, _ = self.listener._accept()  # type: ignore[attr-defined]
            except OSError:
                return
            sock = Socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=fd)
            if len(self.connections) >= self.options.connections_max:
                sock.close()
                continue
            sock.setblocking(False)
            self._begin(sock)

    def _begin(self, sock: socket.socket) -> None:
        pid, uid, _ = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        pidfd = -1
        if pid > 0:
            with contextlib.suppress(OSError):
                pidfd = os.pidfd_open(pid)
        conn = self.events.connected(Credentials(uid, pid))
        connection = self.connections[conn] = _Connection(conn, sock, pidfd)
        connection.reader = self.loop.io(sock.fileno(), 1)
        connection.reader.start(self._read, connection)

    # In

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(connection)
            return
        if connection.partial:
            connection.partial += data
            view = memoryview(connection.partial)
        else:
            view = memoryview(data)
        start = self._frames(connection, view)
        rest = b"" if start < 0 else bytes(view[start:])
        view.release()
        connection.partial = bytearray(rest)

    def _frames(self, connection: _Connection, view: memoryview) -> int:
        """Give out the whole frames; return where the rest begins, or -1 if the connection is over."""
        start, end = 0, len(view)
        while end - start >= 4:
            (length,) = _LENGTH.unpack_from(view, start)
            if length > FRAME_BYTES_MAX:
                self.events.malformed(connection.conn, f"a frame of {length} bytes is over {FRAME_BYTES_MAX}")
                return -1
            if end - start - 4 < length:
                break
            self.events.data(connection.conn, view[start + 4 : start + 4 + length])
            if connection.closing:
                return -1
            start += 4 + length
        return start

    def _end(self, connection: _Connection) -> None:
        """The app is gone from this connection; if its process lives, its death will be told."""
        self._close(connection)
        session = self.events.closed(connection.conn)
        if session is None or connection.pidfd < 0:
            self._forget_pid(connection)
            return
        mourner = self.loop.io(connection.pidfd, 1)
        self.mourned[connection.pidfd] = mourner
        mourner.start(self._died, connection, session)

    def _died(self, connection: _Connection, session: int) -> None:
        self.events.died(session)
        mourner = self.mourned.pop(connection.pidfd)
        mourner.stop()
        mourner.close()
        self._forget_pid(connection)

    def _forget_pid(self, connection: _Connection) -> None:
        if connection.pidfd >= 0:
            os.close(connection.pidfd)
            connection.pidfd = -1

    # Out

    def send(self, conn: int, data: bytes) -> None:
        """Give a frame to an app; what its socket does not take waits."""
        connection = self.connections.get(conn)
        if connection is None:
            return
        frame = _LENGTH.pack(len(data)) + data
        if not connection.unsent:
            try:
                sent = connection.sock.send(frame)
            except BlockingIOError:
                sent = 0
            except OSError:
                return
            if sent == len(frame):
                return
            frame = frame[sent:]
        connection.unsent += frame
        if len(connection.unsent) > self.options.unread_bytes_max:
            self.events.malformed(conn, f"it has left {len(connection.unsent)} bytes unread")
        elif connection.writer is None:
            connection.writer = self.loop.io(connection.sock.fileno(), 2)
            connection.writer.start(self._write, connection)

    def _write(self, connection: _Connection) -> None:
        try:
            sent = connection.sock.send(memoryview(connection.unsent)[:READ_BYTES])
        except BlockingIOError:
            return
        except OSError:
            sent = len(connection.unsent)
        del connection.unsent[:sent]
        if connection.unsent:
            return
        connection.writer.stop()
        connection.writer.close()
        connection.writer = None
        if connection.closing:
            self._finish(connection)

    def close(self, conn: int) -> None:
        """End a connection after what was given to it has left; the caller knows already."""
        connection = self.connections.get(conn)
        if connection is None:
            return
        connection.closing = True
        if connection.unsent:
            connection.reader.stop()
        else:
            self._finish(connection)

    def _finish(self, connection: _Connection) -> None:
        self._close(connection)
        self.events.closed(connection.conn)
        self._forget_pid(connection)

    def _close(self, connection: _Connection) -> None:
        connection.closing = True
        if self.connections.pop(connection.conn, None) is None:
            return
        for watcher in (connection.reader, connection.writer):
            if watcher is not None:
                watcher.stop()
                watcher.close()
        connection.sock.close()

    def close_all(self) -> None:
        """End every connection and accept no more; the listener stays open, it is not ours."""
        self.acceptor.stop()
        self.acceptor.close()
        for connection in list(self.connections.values()):
            self._close(connection)
