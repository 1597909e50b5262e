"""A fault that a test asked for strikes, or the test hears why it did not."""

import asyncio

import pytest

import mesh
from mesh import Message
from mesh.testing import FAULTS, FaultError, Fleet
from mesh.testing.fixtures import fleet

__all__ = ["fleet"]

BETWEEN = "the network falls silent in mid-call"


def echo(message: Message) -> bytes:
    return message.body


def ended(client: mesh.Client) -> type:
    """Call as an app does that catches everything, and return what the call ended as."""
    try:
        return type(client.call("words", b"x"))
    except Exception as error:  # noqa: BLE001 - that is what this is about
        return type(error)


def test_a_fault_says_whether_it_struck_and_those_in_the_catalogue_never_do(fleet: Fleet) -> None:
    fleet.connect("server").serve("words", echo)
    client = fleet.connect("web")
    fault = fleet.fault("the agent dies in mid-call", "words")
    assert not fault.struck
    client.call("words")
    assert fault.struck
    assert fleet.fault("nobody serves", "words").struck
    assert not any(fault.struck for fault in FAULTS.values())


def close(fleet: Fleet, says: str) -> None:
    """Close a fleet whose test ought to fail."""
    with pytest.raises(AssertionError, match=says):
        fleet.close()


def test_a_fault_that_met_nothing_is_an_error_of_the_fleets_end() -> None:
    fleet = Fleet()
    fleet.fault("the reply is late", "word")
    close(fleet, r"'the reply is late' met nothing: nothing was sent to 'word' \(if .*, optional=True\)")
    fleet.close()


def test_the_topics_that_something_was_sent_to_are_named(fleet: Fleet) -> None:
    fleet.connect("server").serve("words", echo)
    fleet.fault("the reply is late", "word")
    fleet.connect("web").call("words")
    close(fleet, "met nothing: nothing was sent to 'word', only to words")


def test_a_fault_does_not_meet_what_was_over_before_it_was_asked_for(fleet: Fleet) -> None:
    fleet.connect("server").serve("words", echo)
    fleet.connect("web").call("words")
    fleet.fault("the reply is late", "words")
    close(fleet, "no handler of 'words' has ended a message since it was asked for")


def test_of_two_faults_in_a_row_the_second_wants_a_second_message(fleet: Fleet) -> None:
    fleet.connect("server").serve("words", echo)
    client = fleet.connect("web")
    faults = [fleet.fault(f"the {what} in mid-call", "words") for what in ("agent dies", "link breaks")]
    client.call("words")
    assert [True, False] == [fault.struck for fault in faults]
    close(fleet, "'the link breaks in mid-call' met nothing")


def test_a_fault_need_not_strike_that_is_optional_or_drawn() -> None:
    with Fleet() as fleet:
        fleet.fault("the reply is late", "words", optional=True)
        fleet.connect("server").serve("words", echo)
        fleet.connect("web")
        fleet.draw("words")


def test_a_test_that_fails_for_something_else_says_nothing_of_its_faults() -> None:
    def fail() -> None:
        with Fleet() as fleet:
            fleet.fault("the reply is late", "words")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    fleet = Fleet()
    fleet.fault("the reply is late", "words")
    fleet.close(check=False)


def test_a_fault_that_cannot_happen_ends_the_test_whatever_the_app_catches(fleet: Fleet) -> None:
    fleet.connect("server", node="node1").serve("words", echo)
    client = fleet.connect("web", node="node1")
    fleet.fault(BETWEEN, "words")
    with pytest.raises(FaultError, match="cannot happen here: .* 'web', .* is on node1 as 'server' is, .* with node="):
        ended(client)


def test_a_fault_that_cannot_happen_ends_a_test_of_asyncio_whatever_the_app_catches() -> None:
    async def ended(client: mesh.aio.Client) -> None:
        try:
            await client.call("words")
        except Exception as error:
            raise ZeroDivisionError from error

    async def echo_aio(message: Message) -> bytes:
        return message.body

    async def scenario() -> None:
        with Fleet() as fleet:
            await (await fleet.connect_aio("server", node="node1")).serve("words", echo_aio)
            fleet.fault(BETWEEN, "words")
            await ended(await fleet.connect_aio("web", node="node1"))

    with pytest.raises(FaultError):
        asyncio.run(scenario())


def test_an_instance_that_a_fault_cannot_meet_is_passed_over_for_one_that_it_can(fleet: Fleet) -> None:
    for node in fleet.nodes:
        fleet.connect("server", node=node).serve("words", echo)
    client = fleet.connect("web", node="node1")
    fault = fleet.fault(BETWEEN, "words")
    outcomes = [ended(client) for _ in range(2)]
    assert fault.struck
    assert mesh.Indeterminate in outcomes


def test_an_optional_fault_that_cannot_happen_does_not(fleet: Fleet) -> None:
    fleet.connect("server", node="node1").serve("words", echo)
    fault = fleet.fault(BETWEEN, "words", optional=True)
    assert ended(fleet.connect("web", node="node1")) is mesh.Reply
    assert not fault.struck


def test_what_was_down_already_is_not_met_and_said_to_be(fleet: Fleet) -> None:
    fleet.connect("server", node="node1").serve("words", lambda _: fleet.world.kill("node2"))
    fleet.fault("the agent dies in mid-call", "words")
    fleet.connect("web", node="node2").call_async("words")
    close(fleet, "met nothing: what it was to meet was down already when the handler ended")


def test_a_fault_between_machines_wants_two_of_them() -> None:
    fleet = Fleet(("one",))
    with pytest.raises(ValueError, match="meets the way between two machines: this fleet has only one"):
        fleet.fault(BETWEEN, "words")


def test_only_what_can_happen_is_drawn() -> None:
    for seed in range(60):
        with Fleet(("one",) if seed % 2 else ("one", "two"), seed=seed) as fleet:
            fleet.connect("server", node="one").serve("words", echo)
            client = fleet.connect("web", node="one")
            fault = fleet.draw("words")
            ended(client)
            assert fault.struck
