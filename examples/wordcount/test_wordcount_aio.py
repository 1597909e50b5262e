"""The same tests for asyncio, with no more than `asyncio.run`: any plugin's loop does as well."""

import asyncio
from collections.abc import Awaitable, Callable

from examples.wordcount.wordcount import ask_aio, count_aio
from mesh import Message, aio
from mesh.testing import Fleet

TEXT = b"to be or not to be"


def asked(prepare: Callable[[Fleet, aio.Client], Awaitable[object]]) -> tuple[str, Fleet]:
    """Serve, prepare, ask; return what was said."""

    async def scenario() -> tuple[str, Fleet]:
        with Fleet() as fleet:
            server = await fleet.connect_aio("counter")
            await server.serve("words", count_aio)
            client = await fleet.connect_aio("web")
            await prepare(fleet, server)
            return await ask_aio(client, TEXT), fleet

    return asyncio.run(scenario())


def fault(name: str, for_s: float | None = None) -> Callable[[Fleet, aio.Client], Awaitable[object]]:
    """Return what prepares a fault."""

    async def prepare(fleet: Fleet, _: aio.Client) -> object:
        return fleet.fault(name, "words", for_s=for_s)

    return prepare


def test_words_are_counted() -> None:
    said, fleet = asked(lambda fleet, _: fleet.sleep_aio(0))
    assert ("6 words", 1) == (said, fleet.sent[0].runs)


def test_the_count_comes_though_the_agent_dies_in_mid_call() -> None:
    assert "6 words" == asked(fault("the agent dies in mid-call"))[0]
    assert "counted, perhaps" == asked(fault("the agent dies in mid-call", for_s=60))[0]


def test_it_is_said_when_nobody_counts() -> None:
    assert "nobody counts here" == asked(fault("nobody serves"))[0]


def test_a_late_count_is_waited_for_until_the_calls_time_is_over() -> None:
    assert "6 words" == asked(fault("the reply is late", for_s=5))[0]
    assert "counted, perhaps" == asked(fault("the reply is late", for_s=15))[0]


def test_a_handler_may_take_the_fleets_time() -> None:
    async def slowly(fleet: Fleet, server: aio.Client) -> None:
        async def count_slowly(message: Message) -> bytes:
            await fleet.sleep_aio(3.0)
            return await count_aio(message)

        await server.unserve("words")
        await server.serve("words", count_slowly)

    said, fleet = asked(slowly)
    assert "6 words" == said
    assert 4.0 < fleet.now < 5.0


def test_words_are_counted_in_a_fleet_of_the_fixture(fleet: Fleet) -> None:
    async def scenario() -> None:
        await (await fleet.connect_aio("counter")).serve("words", count_aio)
        client = await fleet.connect_aio("web")
        assert "6 words" == await ask_aio(client, TEXT)

    asyncio.run(scenario())
    assert [1] == [sent.runs for sent in fleet.sent]
