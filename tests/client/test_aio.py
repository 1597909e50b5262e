"""What only the asyncio client has: tasks that are cancelled, a loop that is blocked, plain handlers, decorators."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import mesh
from mesh import Message
from mesh.client.events import Delivered
from mesh.client.session import Session
from mesh.client.tasks import Pool
from mesh.core.records import Failure, Record, Request
from tests.client.shells import WITHIN_S

pytestmark = pytest.mark.io

Scenario = Callable[[Any, Any], Awaitable[None]]


def play(scenario: Scenario, mesh_socket: Path) -> None:
    """Run a scenario with a calling and a serving client."""

    async def played() -> None:
        async with (
            await mesh.aio.connect("caller", socket=mesh_socket) as client,
            await mesh.aio.connect("server", socket=mesh_socket) as server,
        ):
            async with asyncio.timeout(WITHIN_S):
                await scenario(client, server)

    asyncio.run(played())


def test_a_cancelled_task_cancels_the_handler_at_the_other_end(mesh_socket: Path) -> None:
    async def scenario(client: Any, server: Any) -> None:
        begun, ended = asyncio.Event(), asyncio.Event()
        seen: list[Message] = []

        async def handle(message: Message) -> None:
            seen.append(message)
            begun.set()
            try:
                await asyncio.sleep(WITHIN_S)
            except asyncio.CancelledError:
                ended.set()
                raise

        await server.serve("aio-cancel", handle)
        task = asyncio.create_task(client.call("aio-cancel"))
        await begun.wait()
        task.cancel()
        await ended.wait()
        assert seen[0].cancelled
        with pytest.raises(asyncio.CancelledError):
            await task

    play(scenario, mesh_socket)


def test_a_handler_that_blocks_the_loop_is_named(mesh_socket: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(client: Any, server: Any) -> None:
        async def blocking_coroutine(_: Message) -> None:
            await asyncio.sleep(0)
            time.sleep(0.15)  # noqa: ASYNC251 - that is the point

        def blocking_function(_: Message) -> None:
            time.sleep(0.15)

        async def innocent(_: Message) -> None:
            await asyncio.sleep(0.15)

        for handler in (blocking_coroutine, blocking_function, innocent):
            await server.serve(f"aio-{handler.__name__}", handler)
            await client.call(f"aio-{handler.__name__}")

    with caplog.at_level(logging.WARNING, "mesh"):
        play(scenario, mesh_socket)
    warnings = [record.getMessage() for record in caplog.records if "blocked" in record.getMessage()]
    assert 2 == len(warnings)
    assert "blocking_coroutine" in warnings[0]
    assert "blocking_function" in warnings[1]


def test_a_decorated_handler_is_served_when_the_agent_has_agreed(mesh_socket: Path) -> None:
    async def scenario(client: Any, server: Any) -> None:
        @server.serve("aio-decorated")  # type: ignore[untyped-decorator]
        async def handle(message: Message) -> bytes:
            return message.body

        await server.served()
        assert b"x" == (await client.call("aio-decorated", b"x")).body
        server.serve("aio-decorated")(handle)
        with pytest.raises(mesh.Rejected):
            await server.served()

    play(scenario, mesh_socket)


def test_what_a_coroutine_awaits_may_raise_into_it(mesh_socket: Path) -> None:
    async def scenario(client: Any, server: Any) -> None:
        async def handle(_: Message) -> bytes:
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.sleep(WITHIN_S)
            except TimeoutError:
                return b"timed out"
            return b""

        await server.serve("aio-raise", handle)
        assert b"timed out" == (await client.call("aio-raise")).body

    play(scenario, mesh_socket)


def test_run_serves_until_a_signal(mesh_socket: Path) -> None:
    async def scenario(client: Any, server: Any) -> None:
        await server.serve("aio-run", lambda message: message.body)
        running = asyncio.create_task(server.run())
        assert b"x" == (await client.call("aio-run", b"x")).body
        os.kill(os.getpid(), signal.SIGTERM)
        await running
        with pytest.raises(mesh.SessionClosed):
            await server.call("aio-run")

    play(scenario, mesh_socket)


def test_call_async_cannot_wait_for_room(mesh_socket: Path) -> None:
    async def scenario(client: Any, server: Any) -> None:
        calls = []

        def fill() -> None:
            while True:
                calls.append(client.call_async("aio-room", wait=True))

        with pytest.raises(mesh.Overloaded) as raised:
            fill()
        assert "outstanding_records" == raised.value.limit
        for call in calls:
            call.cancel()

    play(scenario, mesh_socket)


def test_a_handler_that_is_cancelled_before_its_first_step_is_answered_and_frees_its_worker() -> None:
    class Host:
        def __init__(self) -> None:
            self.session = Session(1, "app")
            self.now = time.monotonic

        def flush_soon(self) -> None: ...

        def raised(self, message: Message, error: BaseException) -> None: ...

        def notice(self) -> None: ...

    async def scenario() -> list[Record]:
        async def handle(_: Message) -> bytes:
            raise AssertionError("it was never to run")

        host = Host()
        serving = host.session.serving
        host.session.serve("t", "s", 1, 1)
        pool = Pool(host, "t", handle, 1, False)
        request = Request(0, 4, "t", "", 10_000, b"", node="n", session=9)
        deadline, _ = serving.take_in(request, time.monotonic(), "app")
        assert deadline is not None
        pool.put(Delivered(request, deadline))
        pool.cancel(("n", 9, 4))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (0, {}) == (serving.in_hand, pool._running)
        return serving.resume()

    _, answer = asyncio.run(scenario())
    assert isinstance(answer, Failure)
    assert "CancelledError" == answer.error_type
