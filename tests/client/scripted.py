"""An agent that does what a test says, record by record, on a real socket."""

import socket
import time
from pathlib import Path
from typing import Any

from mesh.client.wire import FrameReader, frames
from mesh.core.codec import decode, encode
from mesh.core.records import AppHello, AppWelcome, Ping, Pong, Record

__all__ = ["Conn", "ScriptedAgent"]

WITHIN_S = 20.0


class Conn:
    """One connection of an app. Pings are answered unless ``is_mute``."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.is_mute = False
        self._cut = FrameReader()
        self._came: list[Record] = []
        self._counter = 0

    def say(self, *records: Record) -> None:
        self.sock.sendall(frames([encode(self._counter, records)]))
        self._counter += 1

    def hear(self, kind: type[Record] | None = None) -> Any:
        """Return the next record, or the next of this kind; others are dropped."""
        until = time.monotonic() + WITHIN_S
        while True:
            while self._came:
                record = self._came.pop(0)
                if isinstance(record, Ping):
                    if not self.is_mute:
                        self.say(Pong(record.stamp))
                elif kind is None or isinstance(record, kind):
                    return record
            self.sock.settimeout(max(0.01, until - time.monotonic()))
            data = self.sock.recv(1 << 18)
            assert data, "the app closed the connection"
            for frame in self._cut.feed(data):
                self._came += decode(frame).records

    def is_closed(self) -> bool:
        """Wait for the app to close; what it says before is dropped."""
        self.sock.settimeout(WITHIN_S)
        try:
            while self.sock.recv(1 << 18):
                pass
        except ConnectionError:
            pass
        return True

    def close(self) -> None:
        self.sock.close()


class ScriptedAgent:
    """Listens where an agent would."""

    def __init__(self, path: Path, backlog: int = 16) -> None:
        self.path = path
        self.conns: list[Conn] = []
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen(backlog)
        self.listener.settimeout(WITHIN_S)

    def accept(self) -> Conn:
        sock, _ = self.listener.accept()
        conn = Conn(sock)
        self.conns.append(conn)
        return conn

    def welcome(self, incarnation: int = 1, **changes: Any) -> tuple[Conn, AppHello]:
        """Accept the next connection and welcome it."""
        conn = self.accept()
        hello = conn.hear(AppHello)
        fields: dict[str, Any] = {
            "protocol": 0,
            "fleet": "default",
            "node": "scripted",
            "incarnation": incarnation,
            "heartbeat_ms": 1_000,
            "body_bytes_max": 1 << 20,
            "chunk_bytes": 64 << 10,
            "chunks_in_flight": 2,
            "outstanding_records": 1_000,
            "outstanding_bytes": 1 << 24,
            "session_window": 65_536,
            "call_timeout_ms_max": 3_600_000,
            "resume_grace_ms": 5_000,
        }
        conn.say(AppWelcome(**{**fields, **changes}))
        return conn, hello

    def close(self) -> None:
        for conn in self.conns:
            conn.close()
        self.listener.close()
        self.path.unlink(missing_ok=True)
