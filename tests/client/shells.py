"""The clients behind one face, so that each test is written once and run on all: on real agents, and in a fleet of
`mesh.testing`."""

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Protocol, cast

import mesh
from mesh import Message, Receipt, Reply, rpc
from mesh.testing import Fleet

__all__ = ["SHELLS", "WAITING_FOR_THE_TEST", "AioShell", "Face", "FleetShell", "Shell", "SyncShell"]

WITHIN_S = 30.0
STEP_S = 0.005

Handle = Callable[[Message], Any]


class Face(Protocol):
    """What both clients can do, called from a thread."""

    node: str
    session: int

    def call(self, topic: str, body: bytes = b"", **options: Any) -> Reply: ...
    def call_async(self, topic: str, body: bytes = b"", **options: Any) -> "concurrent.futures.Future[Reply]": ...
    def trace(self, topic: str, body: bytes = b"", **options: Any) -> Reply: ...
    def cast(self, topic: str, body: bytes = b"", **options: Any) -> mesh.types.MessageId: ...
    def cast_async(self, topic: str, body: bytes = b"", **options: Any) -> "concurrent.futures.Future[None]": ...
    def flush(self, timeout_s: float = WITHIN_S) -> None: ...
    def fanout(self, topic: str, body: bytes = b"", **options: Any) -> Receipt: ...
    def query(self, what: str, **options: Any) -> Any: ...
    def serve(self, topic: str, handler: Handle, **options: Any) -> Any: ...
    def unserve(self, topic: str) -> None: ...
    def drain(self, timeout_s: float = WITHIN_S) -> bool: ...
    def close(self, timeout_s: float = WITHIN_S) -> None: ...


class Shell(Protocol):
    """Connects clients, and closes them all at the end. ``wrap`` makes a handler that may block, ``calling`` one that
    calls others."""

    def connect(self, socket: Path, app: str = "app", **options: Any) -> Face: ...
    def wrap(self, handler: Handle) -> Handle: ...
    def calling(self, handler: Handle) -> Handle: ...
    def rpc_call(self, client: Face, topic: str, method: str, arguments: dict[str, Any], **options: Any) -> Any: ...
    def close(self) -> None: ...


class SyncShell:
    """`mesh.connect`."""

    def __init__(self) -> None:
        self._clients: list[mesh.Client] = []

    def connect(self, socket: Path, app: str = "app", **options: Any) -> Face:
        client = mesh.connect(app, socket=socket, **options)
        self._clients.append(client)
        return cast(Face, client)  # its options are named, where the face only says that there are some

    def wrap(self, handler: Handle) -> Handle:
        return handler

    calling = wrap

    def rpc_call(self, client: Face, topic: str, method: str, arguments: dict[str, Any], **options: Any) -> Any:
        return rpc.call(client, topic, method, arguments, **options)

    def close(self) -> None:
        for client in self._clients:
            client.close(1.0)


class AioShell:
    """`mesh.aio.connect`, or what a fleet has for it, in a loop that runs in a thread of its own."""

    def __init__(self, fleet: Fleet | None = None) -> None:
        self._fleet = fleet
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._clients: list[AioFace] = []

    def connect(self, socket: Path, app: str = "app", **options: Any) -> Face:
        connect = self._fleet.connect_aio if self._fleet is not None else mesh.aio.connect
        client = AioFace(self, self.run(connect(app, socket=socket, **options)))
        self._clients.append(client)
        return client

    def wrap(self, handler: Handle) -> Handle:
        async def wrapped(message: Message) -> Any:
            return await asyncio.to_thread(handler, message)

        return wrapped

    calling = wrap

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> "concurrent.futures.Future[Any]":
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop)

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.start(coroutine).result(WITHIN_S)

    def rpc_call(self, client: Face, topic: str, method: str, arguments: dict[str, Any], **options: Any) -> Any:
        assert isinstance(client, AioFace)
        return self.run(rpc.call(client.client, topic, method, arguments, **options))

    def close(self) -> None:
        for client in self._clients:
            client.close(1.0)
        self.run(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(WITHIN_S)
        self.loop.close()


class FleetShell:
    """`Fleet.connect`: handlers run in the thread that waits, and never until something that the test does."""

    def __init__(self) -> None:
        self.fleet = Fleet()

    def connect(self, socket: Path, app: str = "app", **options: Any) -> Face:
        return cast(Face, self.fleet.connect(app, **options))

    def wrap(self, handler: Handle) -> Handle:
        """Have the handler block in a thread, and the fleet's time pass meanwhile."""

        def wrapped(message: Message) -> Any:
            with concurrent.futures.ThreadPoolExecutor(1) as threads:
                result = threads.submit(contextvars.copy_context().run, handler, message)
                while not concurrent.futures.wait([result], STEP_S).done:
                    self.fleet.sleep(STEP_S)
            return result.result()

        return wrapped

    def calling(self, handler: Handle) -> Handle:
        return handler

    def rpc_call(self, client: Face, topic: str, method: str, arguments: dict[str, Any], **options: Any) -> Any:
        return rpc.call(client, topic, method, arguments, **options)

    def close(self) -> None:
        self.fleet.close()


class AioFace:
    """A client of asyncio, called from a thread."""

    def __init__(self, shell: AioShell, client: Any) -> None:
        self.client = client
        self._shell = shell
        self.node: str = client.node
        self.session: int = client.session

    def _begin(self, verb: Callable[..., Any], *arguments: Any, **options: Any) -> "concurrent.futures.Future[Any]":
        async def begun() -> Any:
            return await verb(*arguments, **options)

        return self._shell.start(begun())

    def _do(self, verb: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return self._begin(verb, *arguments, **options).result(WITHIN_S)

    def call(self, topic: str, body: bytes = b"", **options: Any) -> Reply:
        return self._do(self.client.call, topic, body, **options)  # type: ignore[no-any-return]

    def call_async(self, topic: str, body: bytes = b"", **options: Any) -> "concurrent.futures.Future[Reply]":
        return self._begin(self.client.call_async, topic, body, **options)

    def trace(self, topic: str, body: bytes = b"", **options: Any) -> Reply:
        return self._do(self.client.trace, topic, body, **options)  # type: ignore[no-any-return]

    def cast(self, topic: str, body: bytes = b"", **options: Any) -> mesh.types.MessageId:
        return self._do(self.client.cast, topic, body, **options)  # type: ignore[no-any-return]

    def cast_async(self, topic: str, body: bytes = b"", **options: Any) -> "concurrent.futures.Future[None]":
        return self._begin(self.client.cast_async, topic, body, **options)

    def flush(self, timeout_s: float = WITHIN_S) -> None:
        self._do(self.client.flush, timeout_s)

    def fanout(self, topic: str, body: bytes = b"", **options: Any) -> Receipt:
        return self._do(self.client.fanout, topic, body, **options)  # type: ignore[no-any-return]

    def query(self, what: str, **options: Any) -> Any:
        return self._do(self.client.query, what, **options)

    def serve(self, topic: str, handler: Handle, **options: Any) -> Any:
        async def served() -> None:
            await self.client.serve(topic, handler, **options)

        self._shell.run(served())
        return handler

    def unserve(self, topic: str) -> None:
        self._do(self.client.unserve, topic)

    def drain(self, timeout_s: float = WITHIN_S) -> bool:
        return self._do(self.client.drain, timeout_s)  # type: ignore[no-any-return]

    def close(self, timeout_s: float = WITHIN_S) -> None:
        self._do(self.client.close, timeout_s)


SHELLS: dict[str, Callable[[], Shell]] = {
    "sync": SyncShell,
    "aio": AioShell,
    "fleet": FleetShell,
    "fleet-aio": lambda: AioShell(Fleet()),
}

WAITING_FOR_THE_TEST = [name for name in SHELLS if name != "fleet"]
"""Those whose handlers may block until the test goes on."""
