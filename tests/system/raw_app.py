"""An app without a client library: it speaks the app protocol record by record, and may misbehave."""

import json
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mesh.core.chunks import Chunker
from mesh.core.codec import decode, encode_split
from mesh.core.records import (
    AppHello,
    AppWelcome,
    Chunk,
    ChunkAck,
    Failure,
    Flag,
    Kind,
    Ping,
    Pong,
    Query,
    Record,
    Reply,
    Report,
    Request,
    Serve,
    Serving,
    Settled,
)

__all__ = ["Echo", "RawApp", "Traffic", "framed"]

WITHIN_S = 30.0

_Record = TypeVar("_Record")


def framed(data: bytes) -> bytes:
    """Return a batch as it goes over an app socket."""
    return struct.pack("<I", len(data)) + data


class RawApp:
    """One connection. Says HELLO and takes WELCOME unless ``greet`` is False. Large bodies travel in chunks."""

    def __init__(
        self,
        path: Path,
        name: str = "raw",
        *,
        greet: bool = True,
        session: int | None = None,
        connection: int = 1,
        within_s: float = WITHIN_S,
    ) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        try:
            self.socket.connect(str(path))  # blocking, for with a timeout a full queue is an error at once
        except OSError:
            self.socket.close()
            raise
        self.socket.settimeout(within_s)
        self.session = session or int.from_bytes(os.urandom(7), "little") + 1
        self.chunker = Chunker()
        self.counter = 0
        self.seq = 0
        self.floor = 1
        self.unread = bytearray()
        self.records: list[Record] = []
        if greet:
            self.send(AppHello(0, 0, self.session, connection, name))
            welcome = self.expect(AppWelcome)
            self.node, self.incarnation = welcome.node, welcome.incarnation
            self.chunker = Chunker(welcome.chunk_bytes, welcome.chunks_in_flight, welcome.body_bytes_max)

    def __enter__(self) -> "RawApp":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *records: Record) -> None:
        """Send records, in as few batches as fit."""
        split: list[Record] = []
        for record in records:
            if isinstance(record, Request | Reply) and len(record.body) > self.chunker.chunk_bytes:
                announcement, chunks = self.chunker.split(record)
                split += [announcement, *chunks]
            else:
                split.append(record)
        frames = encode_split(self.counter, split)
        self.counter += len(frames)
        self.socket.sendall(b"".join(map(framed, frames)))

    def readable(self, within_s: float) -> bool:
        """Return whether there is something to receive, or the end."""
        return bool(self.records or select.select([self.socket], [], [], within_s)[0])

    def receive(self) -> Record:
        """Return the next record, whole; raises EOFError at the end and TimeoutError after ``within_s``."""
        while not self.records:
            self._read()
        return self.records.pop(0)

    def poll(self, within_s: float) -> Record | None:
        """Return the next record, or None if what came within that time, if anything, was none for an app."""
        if self.readable(within_s) and not self.records:
            self._read()
        return self.records.pop(0) if self.records else None

    def _read(self) -> None:
        try:
            data = self.socket.recv(1 << 20)
        except ConnectionResetError:
            data = b""
        if not data:
            raise EOFError
        self.unread += data
        while len(self.unread) >= 4:
            due = 4 + struct.unpack_from("<I", self.unread)[0]
            if len(self.unread) < due:
                return
            batch = decode(bytes(self.unread[4:due]))
            del self.unread[:due]
            for record in batch.records:
                self._take(record)

    def _take(self, record: Record) -> None:
        if isinstance(record, Chunk):
            whole, ack = self.chunker.chunk(record)
            self.send(ack)
            if whole is not None:
                self.records.append(whole)
        elif isinstance(record, Ping):
            self.send(Pong(record.stamp))
        elif isinstance(record, ChunkAck):
            more = self.chunker.acked(record)
            if more:
                self.send(*more)
        elif isinstance(record, Request | Reply) and record.size:
            self.chunker.announced(record)
        else:
            self.records.append(record)

    def expect(self, kind: type[_Record]) -> _Record:
        """Return the next record of a kind; others that come before are dropped."""
        while True:
            record = self.receive()
            if isinstance(record, kind):
                return record

    def ended(self) -> bool:
        """Return True when the agent has closed this connection; raises TimeoutError if it does not."""
        try:
            while True:
                self.receive()
        except EOFError:
            return True

    def query(self, what: str) -> Any:
        """Ask the agent about itself."""
        self.seq += 1
        self.send(Query(self.seq, what))
        report = self.expect(Report)
        assert report.ok, report.body
        return json.loads(report.body)

    def request(
        self, topic: str, body: bytes = b"", *, kind: Kind = Kind.CALL, timeout_s: float = 10.0, flags: int = 0
    ) -> int:
        """Send a request whose end is not waited for; return its seq."""
        self.seq += 1
        name, _, server = topic.partition("@")
        self.send(Request(int(kind), self.seq, name, server, int(timeout_s * 1000), body, flags, self.floor))
        return self.seq

    def call(self, topic: str, body: bytes = b"", *, timeout_s: float = 10.0, flags: int = 0) -> Reply | Failure:
        """Call, and return how it ended. All that was sent before counts as settled then."""
        seq = self.request(topic, body, timeout_s=timeout_s, flags=flags)
        while True:
            record = self.receive()
            if isinstance(record, Reply | Failure) and record.seq == seq:
                self.floor = seq + 1
                return record

    def serve(self, topic: str, server: str, *, workers: int = 64, prefetch: int = 1024) -> None:
        """Serve a topic from now on."""
        self.send(Serve(topic, server, workers, prefetch))
        assert self.expect(Serving).ok

    def answer(self, request: Request, handler: Callable[[bytes], bytes] = bytes) -> None:
        """End one request as a handler does."""
        if request.kind == Kind.CALL:
            body = handler(request.body)
            self.send(Reply(request.node, request.session, request.seq, body))
        else:
            self.send(Settled(request.node, request.session, [(request.seq, request.seq)]))


class _Thread:
    """Something that runs beside a test until the end of a ``with``, which raises what it raised."""

    def __init__(self) -> None:
        self.ending = threading.Event()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def turn(self) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        try:
            while not self.ending.is_set():
                self.turn()
        except BaseException as error:  # noqa: BLE001 - told to the test's own thread
            self.error = error

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.thread.join(WITHIN_S)
        if self.error is not None:
            raise self.error


class Echo(_Thread):
    """An app that serves a topic by giving bodies back, until its agent is gone. ``served`` counts."""

    def __init__(self, path: Path, topic: str, server: str) -> None:
        self.app = RawApp(path, "echo")
        self.app.serve(topic, server)
        self.served = 0
        super().__init__()

    def turn(self) -> None:
        try:
            record = self.app.poll(0.1)
            if isinstance(record, Request):
                self.served += 1
                self.app.answer(record)
        except (EOFError, ConnectionError):
            self.ending.set()

    def __exit__(self, *_: object) -> None:
        try:
            super().__exit__()
        finally:
            self.app.socket.close()


class Traffic(_Thread):
    """An app that calls a topic all the time, one call at a time: ``answered``, ``failures``, ``slowest_s``."""

    def __init__(self, path: Path, topic: str, *, pause_s: float = 0.002, timeout_s: float = 10.0) -> None:
        self.app = RawApp(path, "traffic")
        self.topic = topic
        self.pause_s = pause_s
        self.timeout_s = timeout_s
        self.answered = 0
        self.failures: list[Failure] = []
        self.slowest_s = 0.0
        first = self.app.call(topic, b"first", timeout_s=timeout_s, flags=int(Flag.WAIT))
        assert isinstance(first, Reply), first
        super().__init__()

    def turn(self) -> None:
        begun = time.monotonic()
        end = self.app.call(self.topic, b"x" * 64, timeout_s=self.timeout_s)
        self.slowest_s = max(self.slowest_s, time.monotonic() - begun)
        if isinstance(end, Failure):
            self.failures.append(end)
        else:
            self.answered += 1
        self.ending.wait(self.pause_s)

    def flows(self) -> None:
        """Return when two more calls have been answered: one was sent after this was asked."""
        target, give_up_at = self.answered + 2, time.monotonic() + WITHIN_S
        while self.answered < target and self.error is None:
            assert time.monotonic() < give_up_at, f"nothing is answered any more, {self.failures[-1:]}"
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        try:
            super().__exit__()
        finally:
            self.app.socket.close()
