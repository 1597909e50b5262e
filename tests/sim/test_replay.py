"""A recording of a node in the simulated world is replayed: to its state, to where it diverges, to what broke it."""

from typing import Any

import pytest
from msgspec import Raw, msgpack

from mesh.core.codec import encode
from mesh.core.context import NodeOptions
from mesh.core.node import Node
from mesh.core.recording import ENTRIES, Header, Kept, Recording, read, write
from mesh.core.records import AppHello, Flag, Ping, Request
from mesh.core.session import Credentials
from mesh.sim.replay import Outcome, Step, replay
from mesh.sim.world import World
from tests.core.fabric import App, lone_node

_PLAIN = (int, float, str, bool)


class Tape:
    """A node that keeps what it is told, cut into segments by `cut`."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.kept: list[Kept] = []
        self.cut()

    def cut(self) -> None:
        self.kept.append(Kept(msgpack.encode(self.node.state), []))

    def __getattr__(self, name: str) -> Any:
        entry = getattr(self.node, name)
        if name not in ENTRIES:
            return entry

        def kept(*arguments: Any, **named: Any) -> Any:
            values = (*arguments, *named.values())
            plain = tuple(v if type(v) in (*_PLAIN, bytes) else Raw(msgpack.encode(v)) for v in values)
            self.kept[-1].inputs.append((name, *plain))
            return entry(*arguments, **named)

        return kept

    def recording(self, failure: str = "", *, bodies: bool = False) -> Recording:
        header = Header("a", 1, "1.0", "asked", 0, bodies, NodeOptions(), failure)
        return read(b"".join(write(header, self.kept)))


def outcomes(recording: Recording) -> list[bool]:
    return [each.same for each in replay(recording) if isinstance(each, Outcome)]


@pytest.mark.parametrize("bodies", [True, False])
def test_a_world_with_calls_cuts_and_kills_is_replayed_to_the_same_states(bodies: bool) -> None:
    world = World(3)
    for name in "ab":
        world.start(name, NodeOptions())
    tape = Tape(world.agents["a"].node)
    world.agents["a"].node = tape  # type: ignore[assignment]
    App(world, "b", 20).serve("orders")
    caller = App(world, "a", 1)
    for step in range(60):
        body = b"x" * (2_000_000 if step % 20 == 7 else step)
        world.at(1.2 + 0.05 * step, lambda body=body: caller.call("orders", body))  # type: ignore[misc]
    for at in (1.9, 3.3):
        world.at(at, lambda: world.cut("a", "b"))
    world.at(2.5, lambda: world.kill("b"))
    world.at(2.6, lambda: world.start("b", NodeOptions()))
    for until in (1.5, 2.0, 2.5, 3.0, 3.5, 8.0):
        world.run(until)
        tape.cut()
    verdicts = outcomes(tape.recording(bodies=bodies))
    assert [True] * 6 == verdicts


def lone_tape() -> Tape:
    tape = Tape(lone_node())
    tape.app_connected(Credentials(1, 2), 1.0)
    tape.app_data(1, encode(0, [AppHello(0, 0, 11, 1, "shell"), Request(0, 0, "t", "", 9_000, b"", Flag.WAIT)]), 1.5)
    tape.app_data(1, b"\xc1 no batch", 1.6)
    tape.take(1.7)
    return tape


def test_each_input_is_shown_with_what_was_decided() -> None:
    connected, data, malformed, take = replay(lone_tape().recording())
    assert isinstance(connected, Step)
    assert isinstance(data, Step)
    assert isinstance(malformed, Step)
    assert isinstance(take, Step)
    assert ("app_connected", {"credentials": Credentials(1, 2)}) == (connected.entry, connected.facts)
    assert ("app #1", 0.5, ["AppHello", "Request"]) == (data.whom, data.at_s, [type(r).__name__ for r in data.told])
    assert ("app shell #1", []) == (malformed.whom, malformed.told)
    assert ["app_attached", "app_malformed", "app_detached"] == [e.name for e in take.effects if hasattr(e, "name")]
    assert {"app #1"} == {whom for whom, _ in take.said}


def test_time_that_passes_says_nothing() -> None:
    tape = Tape(lone_node())
    tape.tick(1.1)
    tape.take(1.1)
    tape.deadline()
    assert [False] * 3 == [each.says_something for each in replay(tape.recording()) if isinstance(each, Step)]


def test_a_replay_ends_where_the_state_differs() -> None:
    tape = lone_tape()
    tape.node.state.totals.calls += 1
    tape.cut()
    tape.tick(2.0)
    tape.cut()
    *_, last = replay(tape.recording())
    assert isinstance(last, Outcome)
    assert (0, False) == (last.segment, last.same)


def test_a_replay_ends_with_what_broke_the_node() -> None:
    tape = lone_tape()
    tape.node.state.conns[5] = 404  # of a session that there is not: a state that cannot be
    tape.cut()
    with pytest.raises(KeyError):
        tape.app_data(5, encode(0, [Ping(1)]), 2.0)
    tape.kept[-1].inputs.append(("tick", 2.0))
    del tape.kept[0]
    *_, broken = replay(tape.recording())
    assert isinstance(broken, Step)
    assert ("app_data", "app #5", "KeyError: 404") == (broken.entry, broken.whom, broken.raised)


def test_a_recording_without_segments_has_nothing_to_show() -> None:
    tape = Tape(lone_node())
    tape.kept.clear()
    assert [] == list(replay(tape.recording()))


def test_whoever_has_gone_is_shown_as_unknown() -> None:
    tape = lone_tape()
    tape.app_died(12, 2.0)
    tape.link_data(5, encode(0, [Ping(1)]), 2.0)
    *_, died, data = replay(tape.recording())
    assert isinstance(died, Step)
    assert isinstance(data, Step)
    assert ("app ?", "link #5") == (died.whom, data.whom)
