"""A session's socket on an asyncio loop, and its timer.

What is queued in one iteration of the loop is written at its end, at once.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from time import monotonic
from typing import Any

from mesh.client import credential
from mesh.client.api import Message
from mesh.client.connection import Phase
from mesh.client.events import Event, Lost
from mesh.client.session import Session
from mesh.client.socketpath import trust
from mesh.client.wire import FrameReader, frames
from mesh.errors import ProtocolError

__all__ = ["Stream"]

READ_BYTES = 256 << 10

logger = logging.getLogger("mesh")


class _Wire(asyncio.Protocol):
    """One connection. ``rest`` is its socket once more, to read to the end what asyncio drops when a write fails."""

    def __init__(self, stream: "Stream", rest: socket.socket) -> None:
        self._stream = stream
        self._rest = rest
        self._frames = FrameReader()
        self.transport: asyncio.Transport | None = None
        self.is_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._stream.connected(self)

    def data_received(self, data: bytes) -> None:
        self._stream.received(self, self._frames, data)

    def pause_writing(self) -> None:
        self.is_paused = True

    def resume_writing(self) -> None:
        self.is_paused = False
        self._stream.flush_soon()

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            try:
                while data := self._rest.recv(READ_BYTES):
                    self._stream.received(self, self._frames, data)
            except OSError:
                pass
        self._rest.close()
        self._stream.lost(self, f"the connection was lost ({error})" if error else "the agent closed the connection")


class Stream:
    """Keeps one session connected, and carries its bytes; ``after`` is told what came of them."""

    def __init__(self, session: Session, paths: list[str], after: Callable[[list[Event]], None]) -> None:
        self.session = session
        self.loop = asyncio.get_running_loop()
        self._paths = paths
        self._after = after
        self._wire: _Wire | None = None
        self._is_flushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._dialling: asyncio.Task[None] | None = None

    now = staticmethod(monotonic)

    @property
    def _is_closed(self) -> bool:
        return self.session.phase is Phase.CLOSED

    async def wait(self, future: asyncio.Future[Any], until: float) -> None:
        """Return when the future is done, or at ``until``, which may be infinite."""
        await asyncio.wait((future,), timeout=max(0.0, until - monotonic()) if until < float("inf") else None)

    # The connection

    def open(self) -> None:
        """Begin to keep the session connected."""
        self._dialling = self.loop.create_task(self._dial())

    async def _dial(self) -> None:
        session = self.session
        while session.phase is Phase.AWAY:
            await asyncio.sleep(max(0.0, session.connection.redial_at - monotonic()))
            reasons = []
            for path in self._paths:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.setblocking(False)
                try:
                    trust(path)
                    session.token = credential.read(session.token_file)
                    sock.connect(path)  # at once or never: a full backlog is EAGAIN, which asyncio takes for success
                    wire = _Wire(self, sock.dup())
                    await self.loop.create_unix_connection(lambda made=wire: made, sock=sock)  # type: ignore[misc]
                    return
                except OSError as error:
                    sock.close()
                    reasons.append(error.strerror or str(error))
            session.disconnected("; ".join(dict.fromkeys(reasons)), monotonic())
            self._after([])

    def connected(self, wire: _Wire) -> None:
        """A socket was opened."""
        if self._is_closed:
            assert wire.transport is not None
            wire.transport.abort()
            return
        self._wire = wire
        self.session.connected(monotonic())
        self.flush_soon()

    def received(self, wire: _Wire, cut: FrameReader, data: bytes) -> None:
        """Bytes came."""
        if wire is not self._wire:
            return
        events: list[Event] = []
        now = monotonic()
        try:
            for batch in cut.feed(data):
                events += self.session.received(batch, now)
        except ProtocolError as error:
            events.append(Lost(str(error)))
        self._after(events)

    def lost(self, wire: _Wire, reason: str) -> None:
        """The connection is over."""
        if wire is not self._wire:
            return
        self._wire = None
        if wire.transport is not None:
            wire.transport.abort()
        if not self._is_closed:
            self.session.disconnected(reason, monotonic())
            logger.info("the connection to the agent is lost: %s", reason)
            self._after([])
            self.open()

    def lose(self, reason: str) -> None:
        """The session wants no more of this connection."""
        if self._wire is not None:
            self.lost(self._wire, reason)

    def raised(self, message: Message, error: BaseException) -> None:
        """A handler raised: its caller is told, and the log."""

    def close(self) -> None:
        """End with the session, which was closed."""
        for handle in (self._timer, self._dialling):
            if handle is not None:
                handle.cancel()
        self.lose("closed")

    # What is written

    def flush_soon(self) -> None:
        """Write what is queued at the end of this iteration."""
        if not self._is_flushing:
            self._is_flushing = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flushing = False
        wire = self._wire
        while wire is not None and not wire.is_paused and self.session.wants_write:
            transport = wire.transport
            if transport is None or transport.is_closing():
                break
            transport.write(frames(self.session.take(monotonic())))
        self._rearm()

    def _rearm(self) -> None:
        """Have `_tick` called in time; a timer that is earlier than need be stays."""
        due = None if self._is_closed else self.session.deadline()
        if due is None or (self._timer is not None and self._timer.when() <= due):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(max(0.0, due - monotonic()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        if not self._is_closed:
            self._after(self.session.tick(monotonic()))
