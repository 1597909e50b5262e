"""A TCP proxy that does what networks do: delay, drop, reset, leave one end alone, carry little.

It is a program of its own, so that it forwards while the test waits. `Proxy` starts it and tells it what to do, one
JSON object a line; each is answered when it is done. What it does holds for all connections, old and new, until it is
told otherwise.
"""

import asyncio
import contextlib
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from tests.system.agents import ROOT, WITHIN_S

__all__ = ["Behaviour", "Proxy"]

READ_BYTES = 16_384
QUEUE_CHUNKS_MAX = 256


class Behaviour(msgspec.Struct):
    """How connections are carried. ``held``: nothing is, in either direction, and nobody is told; TCP keeps what was
    sent until it is over. ``delay_s`` is one way. ``bytes_per_s`` bounds each direction of each; 0 is no bound."""

    held: bool = False
    delay_s: float = 0.0
    bytes_per_s: int = 0


class Proxy:
    """The program and what it can be told. ``add`` returns the port on loopback that leads to another."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.faults.proxy"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=WITHIN_S)

    def _tell(self, verb: str, **details: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"verb": verb, **details}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, f"the proxy ended when it was told to {verb}"
        return json.loads(answer)

    def add(self, port: int) -> int:
        """Forward to a port of loopback from now on; return where to connect."""
        return int(self._tell("add", port=port))

    @contextmanager
    def behaving(self, behaviour: Behaviour) -> Iterator[None]:
        """Carry so for a while."""
        self._tell("behave", behaviour=msgspec.to_builtins(behaviour))
        try:
            yield
        finally:
            self._tell("behave", behaviour=msgspec.to_builtins(Behaviour()))

    def reset(self) -> int:
        """Reset both ends of all connections; return how many there were."""
        return int(self._tell("reset"))

    def abandon(self, end: str) -> int:
        """Reset one end (``dialler`` or ``acceptor``) of all connections; the other is not told, whatever it sends."""
        return int(self._tell("abandon", end=end))


class _End:
    """One side of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.abandoned = False

    def reset(self) -> None:
        own: socket.socket = self.writer.get_extra_info("socket")
        if own.fileno() >= 0:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class _Forwarder:
    """All connections, and how they are carried now."""

    def __init__(self) -> None:
        self.behaviour = Behaviour()
        self.changed = asyncio.Condition()
        self.connections: list[dict[str, _End]] = []
        self.servers: list[asyncio.Server] = []

    async def add(self, port: int) -> int:
        server = await asyncio.start_server(lambda *streams: self._accepted(port, *streams), "127.0.0.1", 0)
        self.servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def _accepted(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._passable()
        dialler = _End(reader, writer)
        try:
            acceptor = _End(*await asyncio.open_connection("127.0.0.1", port))
        except OSError:
            dialler.reset()
            return
        ends = {"dialler": dialler, "acceptor": acceptor}
        self.connections.append(ends)
        pumps = [
            asyncio.create_task(self._pump(dialler, acceptor)),
            asyncio.create_task(self._pump(acceptor, dialler)),
        ]
        await asyncio.gather(*pumps)
        self.connections.remove(ends)

    async def _passable(self) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: not self.behaviour.held)

    async def _pump(self, source: _End, sink: _End) -> None:
        """Carry one direction, to its end; what comes from an end whose other one was abandoned goes nowhere."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(QUEUE_CHUNKS_MAX)
        writing = asyncio.create_task(self._write(queue, sink))
        clock = asyncio.get_running_loop().time
        data = b"-"
        while data:
            try:
                data = await source.reader.read(READ_BYTES)
            except OSError:
                data = b""
            await queue.put((clock() + self.behaviour.delay_s, data))
        await writing

    async def _write(self, queue: asyncio.Queue[tuple[float, bytes]], sink: _End) -> None:
        clock = asyncio.get_running_loop().time
        data = b"-"
        while data:
            due, data = await queue.get()
            await asyncio.sleep(max(0.0, due - clock()))
            await self._passable()
            if self.behaviour.bytes_per_s:
                await asyncio.sleep(len(data) / self.behaviour.bytes_per_s)
            if sink.writer.is_closing():
                continue
            with contextlib.suppress(OSError):
                if data:
                    sink.writer.write(data)
                    await sink.writer.drain()
                elif not self._left_alone(sink):
                    sink.writer.close()

    def _left_alone(self, end: _End) -> bool:
        """Return whether its other end was abandoned, of which it must not hear."""
        return any(
            end in ends.values() and any(other.abandoned for other in ends.values()) for ends in self.connections
        )

    async def behave(self, behaviour: Behaviour) -> None:
        async with self.changed:
            self.behaviour = behaviour
            self.changed.notify_all()

    def reset(self) -> int:
        for ends in self.connections:
            for end in ends.values():
                end.reset()
        return len(self.connections)

    def abandon(self, name: str) -> int:
        for ends in self.connections:
            ends[name].abandoned = True
            ends[name].reset()
        return len(self.connections)

    async def obey(self, order: dict[str, Any]) -> Any:
        verb = order["verb"]
        if verb == "add":
            return await self.add(order["port"])
        if verb == "behave":
            return await self.behave(msgspec.convert(order["behaviour"], Behaviour))
        return self.reset() if verb == "reset" else self.abandon(order["end"])


async def _main() -> None:
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    forwarder = _Forwarder()
    while line := await orders.readline():
        print(json.dumps(await forwarder.obey(json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(_main())
