"""The client for asyncio in a fleet: time jumps when all wait for the mesh, and goes with the clock when not all do."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, assert_type

import pytest

import mesh
from mesh import Message, aio
from mesh.testing import FaultError, Fleet
from mesh.testing.fixtures import fleet

__all__ = ["fleet"]


def run(scenario: Callable[[Fleet], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        with Fleet() as fleet:
            await scenario(fleet)

    asyncio.run(main())


async def echo(message: Message) -> bytes:
    return message.body


def test_what_it_gives_is_the_products_own_client() -> None:
    async def scenario(fleet: Fleet) -> None:
        client = await fleet.connect_aio("web")
        assert_type(client, aio.Client)
        assert type(client) is aio.Client
        with pytest.raises(RuntimeError, match="this fleet is an event loop's"):
            fleet.connect()

    run(scenario)


def test_a_thousand_calls_at_once_take_no_time_of_the_fleet_to_speak_of() -> None:
    async def scenario(fleet: Fleet) -> None:
        await (await fleet.connect_aio("server")).serve("words", echo, workers=100)
        client = await fleet.connect_aio("web")
        replies = await asyncio.gather(*(client.call("words", b"%d" % number) for number in range(1_000)))
        assert [b"%d" % number for number in range(1_000)] == [reply.body for reply in replies]
        assert fleet.now < 2.0

    run(scenario)


def test_handlers_that_take_the_fleets_time_take_it_side_by_side() -> None:
    async def scenario(fleet: Fleet) -> None:
        async def slow(message: Message) -> bytes:
            await fleet.sleep_aio(float(message.body))
            return message.body

        await (await fleet.connect_aio("server")).serve("slow", slow)
        client = await fleet.connect_aio("web")
        began = fleet.now
        await asyncio.gather(client.call("slow", b"9"), client.call("slow", b"5"))
        assert 9.0 <= fleet.now - began < 9.1
        with pytest.raises(mesh.Indeterminate):
            await client.call("slow", b"5", timeout_s=1.0)

    run(scenario)


def test_time_jumps_while_a_handler_waits_for_calls_of_its_own_tasks() -> None:
    async def scenario(fleet: Fleet) -> None:
        server, client = await fleet.connect_aio("server"), await fleet.connect_aio("web")

        async def ask_two(_: Message) -> bytes:
            calls = (server.call("nothing", wait=True, timeout_s=3_000.0) for _ in range(2))
            return b" ".join(
                type(end).__name__.encode() for end in await asyncio.gather(*calls, return_exceptions=True)
            )

        await server.serve("words", ask_two)
        began = fleet.now
        assert b"Expired Expired" == (await client.call("words", timeout_s=3_500.0)).body
        assert fleet.now - began >= 3_000.0

    run(scenario)


@pytest.mark.io
def test_time_goes_with_the_clock_while_a_handler_waits_for_something_else() -> None:
    async def scenario(fleet: Fleet) -> None:
        async def stuck(_: Message) -> None:
            await asyncio.Event().wait()

        async def working(_: Message) -> bytes:
            await asyncio.sleep(0.05)
            return b"done"

        server, client = await fleet.connect_aio("server"), await fleet.connect_aio("web")
        await server.serve("stuck", stuck)
        await server.serve("working", working)
        assert b"done" == (await client.call("working")).body
        with pytest.raises(mesh.Indeterminate):
            await client.call("stuck", timeout_s=0.2)

    run(scenario)


def test_a_task_that_is_cancelled_cancels_its_call() -> None:
    async def scenario(fleet: Fleet) -> None:
        seen: list[Message] = []

        async def stuck(message: Message) -> None:
            seen.append(message)
            await fleet.sleep_aio(5.0)

        await (await fleet.connect_aio("server")).serve("stuck", stuck)
        client = await fleet.connect_aio("web")
        future = client.call_async("stuck")
        await fleet.sleep_aio(0.1)
        assert future.cancel()
        await fleet.sleep_aio(0.1)
        assert [True] == [message.cancelled for message in seen]

    run(scenario)


def test_what_should_not_have_happened_is_told_to_whoever_waits() -> None:
    async def scenario(fleet: Fleet) -> None:
        await (await fleet.connect_aio("server", node="node1")).serve("words", echo)
        client = await fleet.connect_aio("web", node="node1")
        fleet.fault("the link breaks in mid-call", "words")
        with pytest.raises(FaultError, match="is on node1 as 'server' is"):
            await client.call("words")

    run(scenario)


def failing(error: BaseException) -> Callable[[Message], Coroutine[Any, Any, None]]:
    async def handle(_: Message) -> None:
        raise error

    return handle


@pytest.mark.parametrize("own_end", [pytest.fail.Exception("no"), pytest.skip.Exception("no"), SystemExit(3)])
def test_what_is_no_exception_ends_the_test_and_not_the_call(own_end: BaseException) -> None:
    async def scenario(fleet: Fleet) -> None:
        await (await fleet.connect_aio("server")).serve("words", failing(own_end))
        client = await fleet.connect_aio("web")
        try:
            await client.call("words")
        except mesh.OutcomeError:
            pytest.fail("it was told to the caller")

    with pytest.raises(type(own_end)) as caught:
        run(scenario)
    assert caught.value is own_end


def test_a_plain_handlers_own_end_ends_the_test_too() -> None:
    def handle(_: Message) -> None:
        pytest.fail("in a plain function")

    async def scenario(fleet: Fleet) -> None:
        await (await fleet.connect_aio("server")).serve("words", handle)
        await (await fleet.connect_aio("web")).call("words")

    with pytest.raises(pytest.fail.Exception, match="in a plain function"):
        run(scenario)


def test_a_test_that_waits_for_nothing_when_a_handler_ends_it_ends_when_it_next_waits_or_is_over() -> None:
    async def cast(fleet: Fleet) -> aio.Client:
        may_go_on = asyncio.Event()

        async def handle(_: Message) -> None:
            await may_go_on.wait()
            pytest.fail("no")

        await (await fleet.connect_aio("server")).serve("words", handle)
        client = await fleet.connect_aio("web")
        await client.cast("words")
        may_go_on.set()
        for _ in range(20):
            await asyncio.sleep(0)
        assert [1] == [len(sent.errors) for sent in fleet.sent]
        return client

    async def waits(fleet: Fleet) -> None:
        client = await cast(fleet)
        with pytest.raises(pytest.fail.Exception):
            await client.call("nothing")

    async def is_over(fleet: Fleet) -> None:
        await cast(fleet)

    run(waits)
    with pytest.raises(pytest.fail.Exception):
        run(is_over)


def test_errors_of_handlers_are_kept_and_assertions_fail_the_test_at_its_end() -> None:
    async def cast(fleet: Fleet, error: BaseException) -> None:
        await (await fleet.connect_aio("server")).serve("words", failing(error))
        await (await fleet.connect_aio("web")).cast("words", confirm=True)
        assert [[error]] == [sent.errors for sent in fleet.sent]

    run(lambda fleet: cast(fleet, LookupError()))
    with pytest.raises(AssertionError, match="not so"):
        run(lambda fleet: cast(fleet, AssertionError("not so")))


def test_a_handler_that_is_cancelled_has_raised_nothing() -> None:
    async def scenario(fleet: Fleet) -> None:
        async def stuck(_: Message) -> None:
            await fleet.sleep_aio(5.0)

        await (await fleet.connect_aio("server")).serve("stuck", stuck)
        client = await fleet.connect_aio("web")
        future = client.call_async("stuck")
        await fleet.sleep_aio(0.1)
        future.cancel()
        await fleet.sleep_aio(0.1)
        assert [(1, [])] == [(sent.runs, sent.errors) for sent in fleet.sent]

    run(scenario)


def test_a_fleet_outlives_its_loop_and_is_closed_after_it(fleet: Fleet) -> None:
    clients: list[aio.Client] = []

    async def main() -> None:
        server, client = await fleet.connect_aio("server"), await fleet.connect_aio("web")
        await server.serve("words", echo)
        assert b"x" == (await client.call("words", b"x")).body
        client.call_async("nobody", wait=True)
        clients.extend((server, client))

    asyncio.run(main())
    fleet.close()
    for client in clients:
        with pytest.raises(mesh.SessionClosed):
            asyncio.run(client.call("words"))


def test_a_client_may_run_beside_a_test_whose_time_stands_still_meanwhile() -> None:
    async def scenario(fleet: Fleet) -> None:
        server, client = await fleet.connect_aio("server"), await fleet.connect_aio("web")
        server.serve("words")(echo)
        running = asyncio.get_running_loop().create_task(server.run())
        await client.call("words", wait=True)
        began = fleet.now
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert fleet.now - began < 0.1
        with pytest.raises(ValueError, match="a sleep lasts 0 s or more"):
            await fleet.sleep_aio(-1.0)
        await server.close()
        await running

    run(scenario)


def test_a_timeout_of_the_fleets_time_may_stand_for_the_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(client: aio.Client) -> bytes:
        async with asyncio.timeout(3.0):
            return (await client.call("words", b"x", timeout_s=20.0)).body

    async def scenario(fleet: Fleet) -> None:
        monkeypatch.setattr(asyncio, "timeout", fleet.timeout_aio)
        await (await fleet.connect_aio("server")).serve("words", echo)
        client = await fleet.connect_aio("web")
        assert b"x" == await ask(client)
        began = fleet.now
        fleet.fault("the reply is late", "words", for_s=10.0)
        with pytest.raises(TimeoutError):
            await ask(client)
        assert 3.0 <= fleet.now - began < 3.1
        await fleet.sleep_aio(20.0)
        async with fleet.timeout_aio(None) as scope:
            await fleet.sleep_aio(100.0)
        assert not scope.expired()
        with pytest.raises(ValueError, match="a timeout lasts 0 s or more, not -1"):
            fleet.timeout_aio(-1.0)

    run(scenario)


def test_a_fleet_belongs_to_one_loop(fleet: Fleet) -> None:
    async def connect() -> aio.Client:
        return await fleet.connect_aio()

    belongs = pytest.raises(RuntimeError, match="this fleet belongs to another event loop: make one")
    client = asyncio.run(connect())
    with belongs:
        asyncio.run(connect())
    with belongs:
        asyncio.run(client.call("words"))
    with belongs:
        asyncio.run(fleet.sleep_aio(1.0))


def test_clients_may_be_closed() -> None:
    async def scenario(fleet: Fleet) -> None:
        async with await fleet.connect_aio("web") as client:
            assert client.node == (await client.query("status"))["node"]
        with pytest.raises(mesh.SessionClosed):
            await client.call("words")

    run(scenario)
