"""Peers dial back whoever asks, one at a time; who is entered under our node id is asked whether it lives."""

import pytest
from msgspec import json

from mesh.core.catalogue import AgentEntry
from mesh.core.codec import encode
from mesh.core.context import NodeOptions
from mesh.core.effects import Claim, CloseLink, FindAgents, Note, OpenLink, Stop
from mesh.core.identity import Identity, Proof
from mesh.core.node import Node, Output
from mesh.core.records import (
    AppHello,
    DialBack,
    DialledBack,
    Goodbye,
    Hello,
    Ping,
    Query,
    Refuse,
    RefuseReason,
    Report,
    Welcome,
)
from mesh.core.session import Credentials
from mesh.sim.world import World
from mesh.types import Endpoint
from tests.core.fabric import HELLO, App, Peer, fleet, lone_node, noted, told

HELLO_TIMEOUT_S = 2.0


def opened(output: Output) -> list[OpenLink]:
    return [effect for effect in output.effects if isinstance(effect, OpenLink)]


def asked() -> tuple[Node, Peer, int]:
    """A node that was asked by p to dial it back, and the number of its dial."""
    one = lone_node()
    peer = Peer(one, hello=HELLO)
    peer.say(DialBack())
    one.tick(1.1)
    (dial,) = opened(one.take(1.1))
    assert ("p", "p.example", 7700) == (dial.node, dial.host, dial.port)
    return one, peer, dial.conn


def answer(one: Node, conn: int, refuse: Refuse, now: float = 1.2) -> Output:
    one.link_connected(conn, now)
    one.take(now)
    one.link_data(conn, encode(0, [refuse]), now)
    return one.take(now)


def linked() -> tuple[World, App]:
    """An app at a, whose agent has a link to b."""
    world = fleet("ab")
    server, caller = App(world, "b", 10), App(world, "a", 20)
    server.serve("orders")
    world.run(1.0)
    caller.call("orders")
    world.run(1.5)
    return world, caller


def report_of(app: App, **arguments: str) -> Report:
    before = len(app.of(Report))
    app.say(Query(before + 1, "dial_back", arguments or None))
    app.world.run(app.world.now + 4 * HELLO_TIMEOUT_S + 1.0)
    (report,) = app.of(Report)[before:]
    return report


# Dialled back


def test_a_peer_dials_the_asker_and_says_that_it_is_reached() -> None:
    world, app = linked()
    before = [agent.node.state.peers.links.keys() for agent in world.agents.values()]
    report = report_of(app)
    assert report.ok
    assert {"peer": "b", "address": "a:7000", "reached": True, "text": ""} == json.decode(report.body)
    assert before == [agent.node.state.peers.links.keys() for agent in world.agents.values()], "the link is as it was"
    assert [{}, {}] == [agent.node.state.probes.under_way for agent in world.agents.values()]


def test_without_a_link_or_without_that_one_nobody_is_asked() -> None:
    _, app = linked()
    assert Report(1, False, b"there is no link to 'c' now") == report_of(app, peer="c")
    assert Report(2, True, b"") != report_of(app, peer="b")
    lone = App(fleet("a"), "a", 1)
    assert b"the matchmaker knows of no other agent" == report_of(lone).body


def test_without_any_link_one_is_opened_to_an_agent_that_the_matchmaker_knows() -> None:
    world = fleet("ab")
    app, other = App(world, "a", 20), App(world, "a", 21)
    other.say(Query(1, "dial_back"))
    report = report_of(app)
    assert {"peer": "b", "address": "a:7000", "reached": True, "text": ""} == json.decode(report.body)
    assert [report.body] == [told.body for told in other.of(Report)]
    agent = world.agents["a"].node
    agent.agents([], world.now)
    assert [] == agent.take(world.now).effects, "nobody waits for that"


def test_a_link_that_opened_meanwhile_is_used() -> None:
    one = lone_node()
    conn = one.app_connected(Credentials(0, 1), 1.0)
    one.app_data(conn, encode(0, [AppHello(0, 0, 1, 1, "app"), Query(1, "dial_back")]), 1.0)
    assert FindAgents() in one.take(1.0).effects
    peer = Peer(one, hello=None)
    peer.say(HELLO)
    one.agents([AgentEntry("b", "b.example", 7700, 9), AgentEntry("p", "p.example", 7700, 50)], 1.1)
    output = one.take(1.1)
    assert [DialBack()] == told(output, peer.conn)
    assert [] == opened(output)


def test_a_peer_that_says_nothing_is_waited_for_and_then_told_of() -> None:
    world, app = linked()
    world.agents["b"].node.links.verbs[DialBack] = lambda link, record, now: None
    report = report_of(app)
    assert (False, b"b said nothing in time") == (report.ok, report.body)


def test_only_so_many_apps_wait_for_one_peer_and_one_that_has_gone_is_no_matter() -> None:
    world, app = linked()
    world.agents["b"].node.links.verbs[DialBack] = lambda link, record, now: None
    gone = App(world, "a", 30)
    gone.say(Query(1, "dial_back"))
    world.run(world.now + 0.1)
    gone.close(dead=True)
    app.say(*[Query(seq, "dial_back") for seq in range(1, 17)])
    world.run(world.now + 0.1)
    (refused,) = app.of(Report)
    assert (16, False, b"16 apps wait already for what b says") == (refused.seq, refused.ok, refused.body)
    world.run(world.now + 10.0)
    assert 16 == len(app.of(Report))


def test_what_came_of_a_dial_back_is_told_to_the_asker() -> None:
    for reason, reached in ((RefuseReason.REACHED, True), (RefuseReason.NOT_ME, False)):
        one, peer, conn = asked()
        output = answer(one, conn, Refuse(int(reason), "you meant 'p', this is 'x'"))
        text = "" if reached else "you meant 'p', this is 'x'"
        assert [DialledBack("p.example:7700", reached, text)] == told(output, peer.conn)
        assert CloseLink(conn, 0.0) in output.effects
        assert [peer.conn] == list(one.state.peers.links)


def test_a_probe_says_hello_with_the_numbers_that_stand() -> None:
    one, _, conn = asked()
    one.link_connected(conn, 1.2)
    (hello,) = told(one.take(1.2), conn)
    assert isinstance(hello, Hello)
    assert ("p", True, one.state.peers.peers["p"].seen.own_no) == (hello.meant, hello.probe, hello.link_no)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (encode(0, [Ping(1)]), "it answered with Ping"),
        (encode(0, [Goodbye(), Goodbye()]), "it does not speak the protocol"),
        (b"\xc1", "it does not speak the protocol"),
        (encode(0, [Welcome(0, "sim", "p", 50, 1, 1, 1, 1, 1, 1, 1, 1)]), "it answered with Welcome"),
    ],
)
def test_what_is_no_refusal_is_no_answer(data: bytes, why: str) -> None:
    one, peer, conn = asked()
    one.link_connected(conn, 1.2)
    one.take(1.2)
    one.link_data(conn, data, 1.2)
    (said,) = told(one.take(1.2), peer.conn)
    assert isinstance(said, DialledBack)
    assert not said.reached
    assert said.text.startswith(why)
    one.link_data(conn, data, 1.2)
    one.link_connected(conn, 1.2)
    assert ([], []) == one.take(1.2)[1:]


def test_a_dial_back_that_fails_or_takes_too_long_says_so() -> None:
    one, peer, conn = asked()
    one.link_lost(conn, "connection refused", 1.2)
    assert [DialledBack("p.example:7700", False, "connection refused")] == told(one.take(1.2), peer.conn)
    for connects, what in ((False, "no connection within 2 s"), (True, "no answer within 2 s")):
        one, peer, conn = asked()
        if connects:
            one.link_connected(conn, 1.1)
        one.tick(3.0)
        one.probing.lagged(1.0)
        one.tick(3.5)
        assert not [record for record in told(one.take(3.5), peer.conn) if isinstance(record, DialledBack)]
        one.tick(4.2)
        said = [record for record in told(one.take(4.2), peer.conn) if isinstance(record, DialledBack)]
        assert [DialledBack("p.example:7700", False, what)] == said


def test_one_dial_a_second_is_made_for_others_however_often_they_ask() -> None:
    one = lone_node()
    peers = [Peer(one, hello=None) for _ in range(3)]
    for number, peer in enumerate(peers):
        hello = Hello(0, 0, "sim", f"p{number}", 50, 1, "b", "p", 1, 1000, 5000, 1024, 1024, 1, 16, 1024)
        peer.say(hello)
        peer.say(*[DialBack()] * 5)
    one.link_lost(peers[1].conn, "gone", 1.0)
    dials = []
    now = 1.0
    while now < 6.0:
        one.tick(now)
        dials += [(now, dial.node) for dial in opened(one.take(now)) if dial.conn in one.state.probes.under_way]
        now += 0.25
    assert [(1.0, "p0"), (2.0, "p2")] == dials
    peers[0].say(DialBack())
    one.link_lost(peers[0].conn, "gone", now)
    one.take(now)
    one.tick(now)
    assert not [dial for dial in opened(one.take(now)) if dial.conn in one.state.probes.under_way]


# Namesakes


def entry(incarnation: int = 5, port: int = 1) -> AgentEntry:
    return AgentEntry("b", "twin.example", port, incarnation)


def ask_twin(one: Node, incarnation: int = 5, *, alive: bool) -> Output:
    """Have the node ask another of its name, and take the answer."""
    one.namesakes([entry(incarnation)], 1.0)
    (dial,) = opened(one.take(1.0))
    assert ("b", "twin.example", 1) == (dial.node, dial.host, dial.port)
    if not alive:
        one.link_lost(dial.conn, "connection refused", 1.1)
        return one.take(1.1)
    return answer(one, dial.conn, Refuse(int(RefuseReason.DUPLICATE_NODE), "no", 9))


def test_a_name_that_nobody_else_has_is_ours() -> None:
    one = lone_node()
    one.namesakes([], 1.0)
    assert [Claim()] == one.take(1.0).effects
    one.namesakes([AgentEntry("b", "b.example", 7700, 3)], 2.0)
    assert [Claim()] == one.take(2.0).effects, "what is entered where we are is what we were before"


def test_a_newcomer_stops_when_another_of_its_name_lives_and_says_where() -> None:
    for incarnation in (5, 500):
        output = ask_twin(lone_node(), incarnation, alive=True)
        (stop,) = [effect for effect in output.effects if isinstance(effect, Stop)]
        assert 78 == stop.status
        assert "another agent has the node id 'b' and answers at twin.example:1" in stop.reason
        assert ["duplicate_node"] == noted(output)
        assert Claim() not in output.effects


def test_who_does_not_answer_keeps_nobody_from_starting() -> None:
    output = ask_twin(lone_node(), alive=False)
    assert Claim() in output.effects
    (note,) = [effect for effect in output.effects if isinstance(effect, Note)]
    assert ("namesake_silent", "twin.example:1", "connection refused") == (
        note.name,
        note.facts["address"],
        note.facts["why"],
    )


def test_of_two_that_are_entered_the_later_goes() -> None:
    one = lone_node()
    one.namesakes([], 1.0)
    one.take(1.0)
    output = ask_twin(one, 500, alive=True)
    assert Claim() in output.effects, "it is entered again"
    assert ["duplicate_node"] == noted(output)
    output = ask_twin(one, 5, alive=False)
    assert Claim() not in output.effects, "an elder that is silent is left alone"
    assert [78] == [e.status for e in ask_twin(one, 5, alive=True).effects if isinstance(e, Stop)]


def test_several_are_asked_at_once_a_bounded_number_and_the_last_answer_decides() -> None:
    one = lone_node()
    one.namesakes([entry(port=port) for port in range(1, 20)], 1.0)
    dials = opened(one.take(1.0))
    assert 8 == len(dials)
    one.namesakes([], 1.0)
    assert [] == one.take(1.0).effects, "they have not answered yet"
    for dial in dials:
        assert Claim() not in one.take(1.1).effects
        one.link_lost(dial.conn, "gone", 1.1)
    assert Claim() in one.take(1.1).effects


def test_a_probe_of_our_own_name_is_told_that_we_live() -> None:
    one = lone_node()
    peer = Peer(one, hello=None)
    hello = Hello(0, 0, "sim", "b", 60, 0, "b", "twin", 1, 1000, 5000, 1024, 1024, 1, 16, 1024, probe=True)
    output = peer.say(hello)
    (refuse,) = told(output, peer.conn)
    assert isinstance(refuse, Refuse)
    assert RefuseReason.DUPLICATE_NODE == refuse.reason
    assert [] == [effect for effect in output.effects if isinstance(effect, Stop)]


def test_a_namesake_that_is_not_proven_stops_nobody_and_one_that_is_does() -> None:
    stopped = []
    for shown in ("key of m", "key of c"):
        me = Endpoint("c.example", 7700, "key of c")
        one = Node(Identity("c", "sim", 9, me, b"shown"), NodeOptions(), 1, 1.0)
        one.namesakes([AgentEntry("c", "m.example", 7700, 5, shown)], 1.0)
        (dial,) = opened(one.take(1.0))
        assert shown == dial.public_key
        one.link_connected(dial.conn, 1.1)
        one.take(1.1)
        one.link_proven(dial.conn, Proof(shown, "c", "key of c"), 1.2)
        one.link_data(dial.conn, encode(0, [Refuse(int(RefuseReason.DUPLICATE_NODE), "I am c")]), 1.2)
        stopped.append([type(effect) for effect in one.take(1.2).effects if isinstance(effect, Stop | Claim)])
    assert [[Claim], [Stop]] == stopped
