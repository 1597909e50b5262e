"""What recordings tell of one message, at the agent of its caller and at that of its server."""

from mesh.core.context import NodeOptions
from mesh.core.records import Cancel, Flag, Reach, Request
from mesh.sim.story import Story, story
from mesh.sim.world import World
from mesh.types import MessageId
from tests.core.fabric import App, echo, fail, hold
from tests.sim.test_replay import Tape


class Taped:
    """Agents a and b, both recorded, an app that serves orders at b, and one that asks for them at a."""

    def __init__(self, *, from_s: float = 0.0) -> None:
        self.world = World(3)
        self.tapes: dict[str, Tape] = {}
        for name in "ab":
            self.world.start(name, NodeOptions())
            self.tape(name)
        self.server = App(self.world, "b", 10, echo, name="shop")
        self.server.serve("orders", server="till")
        self.caller = App(self.world, "a", 1, name="web")
        self.world.run(1.0)

    def tape(self, name: str) -> None:
        tape = self.tapes[name] = Tape(self.world.agents[name].node)
        self.world.agents[name].node = tape  # type: ignore[assignment]

    def told(self, name: str, seq: int) -> Story:
        return story(self.tapes[name].recording(), MessageId("a", 1, seq))

    def lines(self, name: str, seq: int) -> list[str]:
        return [f"{each.way} {each.whom}: {each.what}" for each in self.told(name, seq).passages]


def test_a_call_is_followed_from_its_app_to_its_server_and_back() -> None:
    taped = Taped()
    seq = taped.caller.call("orders@till", timeout_s=10.0)
    taped.world.run(2.0)
    first, *others = taped.lines("a", seq)
    assert "← app web #1: call to 'orders@till', 10 s left" == first
    assert others[0].startswith("→ link b #1: call to 'orders@till', 9.9")
    assert ["← link b #1: its reply", "→ app web #1: its reply"] == others[1:]
    assert ["← link a #1", "→ app shop #1", "← app shop #1", "→ link a #1"] == [
        line.partition(":")[0] for line in taped.lines("b", seq)
    ]
    there, here = taped.told("b", seq), taped.told("a", seq)
    assert ("its handler ended here", ["a"]) == (there.verdict, there.peers)
    assert ("its app was told here: its reply", ["b"]) == (here.verdict, here.peers)
    assert here.whole


def test_what_is_held_settled_given_up_and_counted_is_told_too() -> None:
    taped = Taped()
    cast, fanout = taped.caller.cast("orders"), taped.caller.fanout("orders")
    taped.world.run(2.0)
    taped.server.handle = hold
    call = taped.caller.call("orders")
    taped.world.run(3.0)
    taped.caller.cancel(call)
    taped.server.handle = fail
    failing = [taped.caller.call("orders"), taped.caller.cast("orders")]
    nobody = taped.caller.call("nothing")
    taped.world.run(9.0)
    assert {"it is held", "its handler ended"} < {line.partition(": ")[2] for line in taped.lines("a", cast)}
    assert "it goes to b" in taped.lines("a", fanout)[-4].partition(": ")[2]
    assert "its app was told here: 1 of 1 finished, 0 failed, 0 unknown" == taped.told("a", fanout).verdict
    assert "← app web #1: it is given up" in taped.lines("a", call)
    assert "it was handed to app shop #1, and nothing came back: it may have run" == taped.told("b", call).verdict
    assert taped.told("b", failing[0]).ran
    assert "its app was told here: REMOTE_ERROR: no" == taped.told("a", failing[0]).verdict
    assert "← app shop #1: its handler raised" in taped.lines("b", failing[1])
    assert taped.told("a", nobody).verdict.startswith("its app was told here: UNROUTABLE: nobody serves")


def test_what_is_asked_about_after_a_kill_is_answered_in_words() -> None:
    taped = Taped()
    taped.server.handle = hold
    seq = taped.caller.call("orders", timeout_s=30.0)
    taped.world.run(2.0)
    taped.world.kill("a")
    taped.world.start("a", NodeOptions())
    taped.tape("a")
    taped.caller.come_back()
    taped.caller.say(*taped.caller.of(Reach), Request(0, seq, "orders", "", 20_000, b"", Flag.RESUMED))
    taped.world.run(4.0)
    words = [line.partition(": ")[2] for line in taped.lines("a", seq)]
    assert ["what became of it?", "RUNNING is the answer"] == words[1:3]
    taped.tape("a")
    taped.tape("b")
    assert "with b" == taped.told("a", seq).at_first
    assert "with an app here" == taped.told("b", seq).at_first
    taped.server.release()
    taped.world.run(5.0)
    assert "its app was told here: its reply" == taped.told("a", seq).verdict


def test_who_is_lost_while_the_message_is_with_them_is_said_and_no_other_time() -> None:
    taped = Taped()
    done = taped.caller.call("orders")
    taped.world.run(2.0)
    taped.server.handle = hold
    asked, given_up = taped.caller.call("orders", timeout_s=30.0), taped.caller.call("orders", timeout_s=30.0)
    taped.world.run(3.0)
    taped.world.cut("a", "b")
    taped.world.run(4.0)
    words = [line.partition(": ")[2] for line in taped.lines("a", asked)]
    assert ["the link is lost: connection reset", "what became of it?", "RUNNING is the answer"] == words[2:5]
    assert "✕ link a: the link is lost: connection reset" in taped.lines("b", asked)
    taped.server.close(dead=True)
    taped.world.run(6.0)
    assert "✕ app shop #1: its process is gone" in taped.lines("b", given_up)
    assert taped.told("a", given_up).verdict.startswith("its app was told here: INDETERMINATE: ")
    for name in "ab":
        assert [] == [line for line in taped.lines(name, done) if line.startswith("✕")]


def test_an_app_that_loses_its_connection_and_then_dies_is_lost_twice() -> None:
    taped = Taped()
    taped.server.handle = hold
    seq = taped.caller.call("orders", timeout_s=30.0)
    taped.world.run(2.0)
    taped.server.close()
    taped.world.run(2.1)
    assert "✕ app shop #1: its connection is lost" == taped.lines("b", seq)[-1]
    agent = taped.world.agents["b"]
    taped.world.turn(agent, lambda: agent.node.app_died(taped.server.session, agent.time()))
    assert "✕ app shop: its process is gone" in taped.lines("b", seq)
    assert taped.told("b", seq).from_start
    taped.tape("b")
    assert not taped.told("b", seq).from_start


def test_what_a_recording_begins_with_is_said_first() -> None:
    taped = Taped()
    taped.server.handle = hold
    waiting = taped.caller.call("nobody yet".replace(" ", "-"), flags=Flag.WAIT)
    fanout = taped.caller.fanout("orders", timeout_s=60.0)
    taped.world.run(2.0)
    taped.tape("a")
    assert "waiting for somebody who serves its topic" == taped.told("a", waiting).at_first
    assert "a fan-out that waits for b" == taped.told("a", fanout).at_first
    assert "it passed, and did not end here" == taped.told("a", fanout).verdict
    taped.caller.say(Cancel("", 0, waiting))
    taped.server.release()
    taped.world.run(3.0)
    taped.tape("b")
    assert "ended here" == taped.told("b", fanout).at_first


def test_of_a_message_that_never_came_there_is_nothing() -> None:
    taped = Taped()
    told = taped.told("a", 99)
    assert ("nothing of it: it did not come here in that time", [], "") == (told.verdict, told.peers, told.at_first)
