"""Peers: one link for each pair, whatever is lost, late, restarted or doubled on the way to it."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from msgspec import msgpack, structs

from mesh.core.catalogue import AgentEntry
from mesh.core.codec import decode
from mesh.core.identity import Identity, Proof
from mesh.core.link import Link, Phase
from mesh.core.liveness import Condition
from mesh.core.peers import Closed, Opened, Peers, Refused
from mesh.core.records import Credit, Goodbye, Hello, Keep, Ping, Pong, Record, Refuse, RefuseReason, Welcome
from mesh.types import Endpoint
from tests.core.peer_world import OPTIONS, TERMS, Agent, Wire, World

NAMES = ["a", "b", "c"]
HELLO_S, DEAD_S = OPTIONS.hello_timeout_s, TERMS.dead_after_s


def world_of(*names: str) -> tuple[World, list[Agent]]:
    world = World()
    return world, [world.start(name) for name in names]


def linked() -> tuple[World, Agent, Agent, Wire]:
    """Two agents with an open link that ``a`` dialled."""
    world, (a, b) = world_of("a", "b")
    wire = a.dial("b")
    world.quiet()
    return world, a, b, wire


def open_links(one: Agent, other: Agent) -> tuple[Link, Link]:
    links = one.peers.open_link(other.name), other.peers.open_link(one.name)
    assert links[0] is not None
    assert links[1] is not None
    return links[0], links[1]


def reasons(agent: Agent) -> list[str]:
    return [change.reason for change in agent.changes if isinstance(change, Closed)]


def refusals(agent: Agent) -> list[int]:
    return [change.refuse.reason for change in agent.changes if isinstance(change, Refused)]


def on_its_way(wire: Wire, side: int) -> list[Record]:
    return [record for data in wire.queues[side] if data is not None for record in decode(data).records]


# Links that are secured


def secured(name: str) -> Peers:
    identity = Identity(name, "fleet", 5, Endpoint(name, 7000, f"key of {name}"), f"certificate of {name}".encode())
    return Peers(identity, TERMS, OPTIONS)


def proof_of(node: str, until: float = 200.0) -> Proof:
    return Proof(f"key of {node}", node, f"key of {node}", until)


def greet(peers: Peers, node: str, proof: Proof | None) -> tuple[Link, list[Opened | Closed | Refused]]:
    """Have a node say HELLO, after it showed something or nothing."""
    link = peers.accepted(100.0)
    link.proof = proof
    return link, peers.hello(link, secured(node).greeting(peers.identity.node, 1), True, 100.0)


def dialling(peers: Peers, node: str, proof: Proof | None) -> Link:
    """A dial that has said HELLO, after the other end showed something or nothing."""
    link = peers.dial(node, 100.0)
    peers.connected(link.conn, 100.0)
    link.proof = proof
    return link


def test_a_hello_by_somebody_who_is_not_proven_is_refused_and_leaves_nothing_behind() -> None:
    a = secured("a")
    link, (refused,) = greet(a, "m", proof_of("x"))
    assert isinstance(refused, Refused)
    assert (RefuseReason.SECURITY, "'m' showed a certificate of 'x'") == (refused.refuse.reason, refused.refuse.text)
    assert b"certificate of a" == refused.refuse.certificate
    assert ({}, {}, [link]) == (a.links, a.peers, a.parting)


def test_who_is_proven_has_a_link_and_is_dialled_by_its_key_from_then_on() -> None:
    a = secured("a")
    link, changes = greet(a, "b", proof_of("b"))
    assert [Opened("b", link.conn)] == changes
    assert Endpoint("b", 7000, "key of b") == a.peer("b").endpoint
    (welcome,) = link.out
    assert isinstance(welcome, Welcome)
    assert b"certificate of a" == welcome.certificate


def test_a_welcome_by_an_impostor_is_refused() -> None:
    a, b = secured("a"), secured("b")
    link = dialling(a, "b", proof_of("m"))
    b.hello(b.accepted(100.0), a.greeting("b", 1), True, 100.0)
    (answer,) = greet(b, "a", proof_of("a"))[0].out
    assert isinstance(answer, Welcome)
    refused, closed = a.welcome(link, answer, 100.0)
    assert isinstance(refused, Refused)
    assert (RefuseReason.SECURITY, True) == (refused.refuse.reason, refused.by_us)
    assert Closed("b", link.conn, "'b' showed a certificate of 'm'", was_dial=True) == closed


def test_an_impostors_refusal_is_a_dial_that_failed_whatever_it_says() -> None:
    a = secured("a")
    link = dialling(a, "b", None)
    (closed,) = a.refused(link, Refuse(int(RefuseReason.DUPLICATE_NODE), "stop", 99), 100.0)
    assert Closed("b", link.conn, "refused (stop), but 'b' has shown nothing", was_dial=True) == closed
    link = dialling(a, "b", proof_of("b"))
    (refused,) = a.refused(link, Refuse(int(RefuseReason.DUPLICATE_NODE), "stop", 99), 100.0)
    assert isinstance(refused, Refused)


def test_revoked_keys_lose_their_links_and_another_certificate_is_shown() -> None:
    a = secured("a")
    greet(a, "b", proof_of("b"))
    link, _ = greet(a, "c", proof_of("c"))
    changes = a.trust(b"another", ["key of c", "key of x"], 101.0)
    assert [Closed("c", link.conn, "the key of 'c' was revoked", was_open=True)] == changes
    assert b"another" == a.greeting("b", 2).certificate
    assert a.open_link("b") is not None


def test_nodes_whose_certificates_have_expired_are_told() -> None:
    a = secured("a")
    greet(a, "b", proof_of("b", until=150.0))
    greet(a, "c", proof_of("c", until=250.0))
    assert ([], ["b"]) == (a.expired(149.0), a.expired(150.0))


# One dial


def test_a_dial_becomes_one_link_that_both_ends_know_each_other_by() -> None:
    world, (a, b) = world_of("a", "b")
    wire = a.dial("b")
    world.happen_to(wire, -1)
    (hello,) = on_its_way(wire, 1)
    assert isinstance(hello, Hello)
    assert ("a", "b", a.incarnation, 1) == (hello.node, hello.meant, hello.incarnation, hello.link_no)
    world.quiet()
    assert wire is a.link("b") is b.link("a")
    mine, theirs = open_links(a, b)
    assert (b.incarnation, 1, 1) == (mine.incarnation, mine.link_no, mine.own_no)
    assert (a.incarnation, 1, 1) == (theirs.incarnation, theirs.link_no, theirs.own_no)
    assert [Opened("b", mine.conn)] == a.changes
    assert Endpoint("a", 7000) == b.peers.peer("a").endpoint
    assert mine.rtt_s == 0.0


def test_nothing_is_known_of_a_stranger() -> None:
    _, (a,) = world_of("a")
    assert (None, None, False) == (a.peers.open_link("x"), a.peers.any_link("x"), a.peers.is_suspect("x"))
    assert [] == a.peers.lost(99, "what?", 0.0)
    a.peers.connected(99, 0.0)


def test_a_dial_that_finds_nobody_is_over() -> None:
    world, (a,) = world_of("a")
    world.happen_to(a.dial("b"), -1)
    assert [Closed("b", 1, "refused", was_dial=True)] == a.changes
    assert a.may_dial("b")


def test_who_is_silent_instead_of_greeting_is_closed_after_hello_timeout_s() -> None:
    world, (a, b) = world_of("a", "b")
    wire = a.dial("b")
    world.happen_to(wire, -1)
    wire.muted = True
    b.dial("a").muted = True
    for now, expected in ((HELLO_S - 0.01, 0), (HELLO_S, 1)):
        world.now = 100 + now
        a.tick(False)
        b.tick(False)
        assert (expected, 2 * expected) == (len(a.changes), len(b.changes))
    assert ["no WELCOME within hello_timeout_s"] == reasons(a)
    assert ["no HELLO within hello_timeout_s", "no connection within hello_timeout_s"] == reasons(b)


def test_the_agents_own_lag_is_not_the_others_silence() -> None:
    world, a, b, _ = linked()
    b.dial("c").muted = True
    world.now += DEAD_S
    for agent in (a, b):
        agent.peers.lagged(DEAD_S)
        agent.tick(True)
    assert ([], []) == (reasons(a), reasons(b))


def test_a_link_agrees_on_the_slower_heartbeat_and_the_smaller_chunks() -> None:
    world, (a, b) = world_of("a", "b")
    b.peers.terms = structs.replace(TERMS, heartbeat_s=2.0, dead_after_s=1.0)
    b.peers.options = structs.replace(OPTIONS, chunk_bytes=2048, chunks_in_flight=5, credit_records=77)
    a.dial("b")
    world.quiet()
    for link in open_links(a, b):
        assert (2.0, TERMS.dead_after_s) == (link.terms.heartbeat_s, link.terms.dead_after_s)
        assert (2048, OPTIONS.chunks_in_flight) == (link.chunker.chunk_bytes, link.chunker.in_flight_max)
    assert (77, OPTIONS.credit_records) == tuple(link.credit_records for link in open_links(a, b))


def test_nonsense_about_chunks_does_not_stop_bodies() -> None:
    world, (a, b) = world_of("a", "b")
    b.peers.options = structs.replace(OPTIONS, chunk_bytes=0, chunks_in_flight=0)
    a.dial("b")
    world.quiet()
    link, _ = open_links(a, b)
    assert (1024, 1) == (link.chunker.chunk_bytes, link.chunker.in_flight_max)


def test_all_that_is_known_can_be_copied() -> None:
    world, (a, b) = world_of("a", "b")
    a.dial("b")
    b.dial("a")
    for _ in range(8):
        for agent in (a, b):
            assert agent.peers == msgpack.decode(msgpack.encode(agent.peers), type=Peers)
        world.happen(1)


# Refusals


@pytest.mark.parametrize("side", [0, 1])
def test_a_refused_hello_closes_both_ends_with_its_reason_and_leaves_no_trace(side: int) -> None:
    world, (a, b) = world_of("a", "b")
    b.peers.identity = structs.replace(b.peers.identity, fleet="other")
    (a if side == 0 else b).dial("b" if side == 0 else "a")
    world.quiet()
    dialler, accepter = (a, b) if side == 0 else (b, a)
    (heard,) = [change for change in dialler.changes if isinstance(change, Refused)]
    assert (int(RefuseReason.FLEET), False, True) == (heard.refuse.reason, heard.by_us, heard.was_dial)
    (said,) = [change for change in accepter.changes if isinstance(change, Refused)]
    assert (heard.refuse, True) == (said.refuse, said.by_us)
    assert {} == accepter.peers.peers
    assert (0, 0) == (len(a.wires), len(b.wires))


def test_a_hello_without_room_for_its_link_is_told_to_come_again() -> None:
    world, (a, b) = world_of("a", "b")
    b.admits = False
    a.dial("b")
    world.quiet()
    assert [int(RefuseReason.BUSY)] == refusals(a)
    b.admits = True
    a.dial("b")
    world.quiet()
    assert a.link("b") is b.link("a") is not None


def test_a_dial_that_reaches_another_node_is_refused() -> None:
    world, (a, b) = world_of("a", "b")
    wire = a.dial("c")
    wire.meant = "b"
    world.quiet()
    assert [int(RefuseReason.NOT_ME)] == refusals(a)
    assert [] == [change for change in b.changes if isinstance(change, Opened)]


@pytest.mark.parametrize("leaving", [False, True])
def test_an_agent_whose_welcome_is_of_a_lesser_incarnation_learns_of_the_greater(leaving: bool) -> None:
    world, (a, b) = world_of("a", "b")
    a.peers.peer("b").seen.incarnation = 50
    wire = a.dial("b")
    world.happen_to(wire, -1)
    world.happen_to(wire, 1)
    link = b.peers.open_link("a")
    assert link is not None
    if leaving:
        b.peers.leave(link, "idle", world.now)
        b.settle([])
    world.quiet()
    assert not b.alive
    (refused,) = [change for change in b.changes if isinstance(change, Refused)]
    assert (int(RefuseReason.STALE_INCARNATION), 50) == (refused.refuse.reason, refused.refuse.greater)
    assert ["'b' was seen as incarnation 50, you are 3"] == reasons(a)
    (successor,) = [agent for agent in world.living if agent.name == "b"]
    assert successor.incarnation > 50
    world.heal(5.0)


def test_a_welcome_of_another_node_is_refused() -> None:
    world, (a, b) = world_of("a", "b")
    wire = a.dial("b")
    world.happen_to(wire, -1)
    b.peers.identity = structs.replace(b.peers.identity, fleet="other")
    (link,) = b.peers.links.values()
    changes = b.peers.hello(link, structs.replace(hello_of(wire), fleet="other"), True, world.now)
    b.settle(changes)
    world.happen_to(wire, 0)
    assert ["'b' is of fleet 'other', this is 'fleet'"] == reasons(a)
    assert [Refuse(int(RefuseReason.FLEET), reasons(a)[0])] == on_its_way(wire, 1)


def hello_of(wire: Wire) -> Hello:
    (hello,) = on_its_way(wire, 1)
    assert isinstance(hello, Hello)
    wire.queues[1].clear()
    return hello


# Glare


@pytest.mark.parametrize("order", range(24))
def test_two_that_dial_each_other_end_with_one_link(order: int) -> None:
    """Every order of the first four things that can happen, by the digits of ``order``."""
    world, (a, b) = world_of("a", "b")
    a.dial("b")
    b.dial("a")
    for base in (4, 3, 2):
        order, number = divmod(order, base)
        world.happen(number)
    world.quiet()
    assert a.link("b") is b.link("a") is not None
    assert (1, 1) == (len(a.wires), len(b.wires))
    assert [1, 1] == [sum(isinstance(change, Opened) for change in agent.changes) for agent in (a, b)]


def test_the_larger_welcomes_and_the_smaller_holds() -> None:
    world, (a, b) = world_of("a", "b")
    theirs, mine = b.dial("a"), a.dial("b")
    world.happen_to(mine, -1)
    world.happen_to(theirs, -1)
    world.happen_to(theirs, 1)
    assert [Phase.GREETING, Phase.HELD] == [link.phase for link in a.peers.links.values()]
    world.happen_to(mine, 1)
    assert b.link("a") is mine
    assert ["glare: theirs was taken"] == reasons(b)
    world.quiet()
    assert a.link("b") is mine
    assert ["gone"] == reasons(a)


def held() -> tuple[World, Agent, Agent, Wire, Wire]:
    """Agent ``a`` holds the HELLO of ``b``, for its own is on the way there, on a wire that delivers nothing."""
    world, (a, b) = world_of("a", "b")
    theirs, mine = b.dial("a"), a.dial("b")
    world.happen_to(mine, -1)
    world.happen_to(theirs, -1)
    world.happen_to(theirs, 1)
    mine.muted = True
    return world, a, b, mine, theirs


def test_a_held_hello_is_welcomed_when_the_own_dial_is_lost() -> None:
    world, a, b, mine, theirs = held()
    world.cut(mine, lose=1)
    world.quiet()
    assert a.link("b") is b.link("a") is theirs


def test_a_held_hello_is_welcomed_while_its_sender_still_waits() -> None:
    """Held for as long as its sender waits, it would be welcomed when that has just given up, again and again."""
    world, a, b, _, theirs = held()
    world.now += HELLO_S / 2
    a.tick(False)
    assert ["held too long"] == reasons(a)
    world.quiet()
    assert a.link("b") is b.link("a") is theirs


def test_a_held_hello_is_welcomed_when_the_own_one_is_refused() -> None:
    world, a, b, mine, theirs = held()
    mine.muted = False
    b.admits = False
    world.happen_to(mine, 1)
    world.happen_to(mine, 0)
    world.quiet()
    assert a.link("b") is b.link("a") is theirs
    assert [Refused, Opened] == [type(change) for change in a.changes]


def test_a_held_hello_is_dropped_when_the_own_one_is_welcomed() -> None:
    world, a, b, mine, theirs = held()
    theirs.queues[0].clear()
    mine.muted = False
    world.happen_to(mine, 1)
    theirs.muted = True
    world.happen_to(mine, 0)
    assert ["glare: ours was taken"] == reasons(a)
    theirs.muted = False
    world.quiet()
    assert a.link("b") is b.link("a") is mine


def test_a_held_hello_is_welcomed_when_the_own_one_found_another_fleet() -> None:
    world, a, b, _, theirs = held()
    (link,) = [link for link in a.peers.links.values() if link.phase is Phase.GREETING]
    welcome = Welcome(0, "other", "b", 3, 1, 0, 0, 0, 0, 0, 0, 0)
    a.settle(a.peers.welcome(link, welcome, world.now))
    world.quiet()
    assert a.link("b") is b.link("a") is theirs


def test_a_later_hello_replaces_the_held_one_and_an_earlier_one_does_not() -> None:
    world, a, b, _, theirs = held()
    earlier = hello_copy(a, theirs, link_no=0)
    later = hello_copy(a, theirs, link_no=2)
    for hello, expected in ((earlier, Refused), (later, Closed)):
        link = a.peers.accepted(world.now)
        a.wires[link.conn] = (Wire(b, 0, "a"), 1)
        (change,) = a.peers.hello(link, hello, True, world.now)
        assert expected is type(change)
        a.settle([change])
    assert [int(RefuseReason.STALE_CONNECTION)] == refusals(a)
    assert ["replaced by a newer HELLO"] == reasons(a)
    assert link.conn == a.peers.peer("b").held


def hello_copy(agent: Agent, wire: Wire, *, link_no: int) -> Hello:
    """The HELLO that an agent holds from a wire, with another number."""
    end = wire.ends[1]
    assert end is not None
    hello = agent.peers.links[end[1]].hello
    assert hello is not None
    return structs.replace(hello, link_no=link_no)


# Incarnations


def test_a_hello_of_a_dead_incarnation_that_arrives_late_fences_nobody() -> None:
    world, (a, b) = world_of("a", "b")
    old = a.dial("b")
    world.happen_to(old, -1)
    old.muted = True
    world.kill(a, silent=False)
    successor = world.start("a")
    successor.dial("b")
    world.quiet()
    old.muted = False
    world.quiet()
    assert [int(RefuseReason.STALE_INCARNATION)] == refusals(b)
    assert b.link("a") is successor.link("b") is not None


def test_an_agent_of_a_lesser_incarnation_starts_anew_above_the_greater() -> None:
    world, (a, b) = world_of("a", "b")
    b.peers.peer("a").seen.incarnation = 90
    a.dial("b")
    world.quiet()
    (successor,) = [agent for agent in world.living if agent.name == "a"]
    assert successor.incarnation > 90
    successor.dial("b")
    world.quiet()
    assert b.link("a") is successor.link("b") is not None


def test_a_newcomer_is_a_duplicate_when_the_incumbent_answers() -> None:
    world, a, b, wire = linked()
    imposter = world.start("a")
    imposter.dial("b")
    world.quiet()
    assert not imposter.alive
    assert [int(RefuseReason.DUPLICATE_NODE)] == refusals(imposter)
    assert a.link("b") is b.link("a") is wire
    assert a.incarnation == b.peers.peer("a").seen.incarnation


def test_a_newcomer_takes_over_from_a_dead_incumbent_before_it_gives_up_itself() -> None:
    """The link was idle, so no heartbeat would ever have found that its other end is dead."""
    world, a, b, _ = linked()
    world.kill(a, silent=True)
    successor = world.start("a")
    wire = successor.dial("b")
    world.quiet()
    world.now += HELLO_S / 2
    successor.tick(False)
    b.tick(False)
    world.quiet()
    assert b.link("a") is successor.link("b") is wire
    assert ["challenged, and silent"] == reasons(b)


def test_a_newcomer_takes_over_at_once_when_the_incumbents_link_is_lost() -> None:
    world, a, b, wire = linked()
    wire.muted = True
    world.kill(a, silent=False)
    successor = world.start("a")
    successor.dial("b")
    world.quiet()
    assert successor.link("b") is None
    wire.muted = False
    world.quiet()
    assert b.link("a") is successor.link("b") is not None


def test_an_answer_from_before_the_challenge_proves_nothing() -> None:
    """The dead incarnation's last pong is still on its way when its successor is challenged."""
    world, a, b, wire = linked()
    world.now += DEAD_S - 1
    b.tick(True)
    world.happen_to(wire, 0)
    assert [Pong] == [type(record) for record in on_its_way(wire, 1)]
    wire.muted = True
    world.kill(a, silent=False)
    world.now += 0.5
    successor = world.start("a")
    successor.dial("b")
    world.quiet()
    wire.muted = False
    world.happen_to(wire, 1)
    assert successor.alive
    world.quiet()
    assert b.link("a") is successor.link("b") is not None


def test_a_challenger_that_went_away_is_not_refused() -> None:
    world, a, b, wire = linked()
    imposter = world.start("a")
    dial = imposter.dial("b")
    world.happen_to(dial, -1)
    world.happen_to(dial, 1)
    world.cut(dial, lose=9)
    world.happen_to(dial, 1)
    world.quiet()
    assert imposter.alive
    assert [] == refusals(b)
    assert a.link("b") is b.link("a") is wire


def test_the_incumbents_own_next_link_takes_the_place_of_a_challenger() -> None:
    world, a, b, wire = linked()
    imposter = world.start("a")
    dial = imposter.dial("b")
    world.happen_to(dial, -1)
    world.happen_to(dial, 1)
    world.happen_to(wire, 0)
    wire.muted = True
    (link,) = a.peers.links.values()
    a.settle(a.peers.lost(link.conn, "gone", world.now))
    again = a.dial("b")
    world.happen_to(again, -1)
    world.happen_to(again, 1)
    world.happen_to(again, 0)
    assert a.link("b") is b.link("a") is again
    assert ["replaced by a newer HELLO", "replaced by a newer link"] == reasons(b)


# Link numbers


def test_a_replaced_link_never_speaks_again() -> None:
    """Delivery rule 1: what is still unread in the old pipe is not read once the new link is open."""
    world, a, b, old = linked()
    old.muted = True
    a.speak("b")
    (link,) = a.peers.links.values()
    a.settle(a.peers.lost(link.conn, "gone", world.now))
    a.dial("b")
    world.quiet()
    a.speak("b")
    world.quiet()
    assert (a.incarnation, 2) == (b.spoken["a"].incarnation, b.spoken["a"].link_no)
    old.muted = False
    world.quiet()
    assert (a.incarnation, 2) == (b.spoken["a"].incarnation, b.spoken["a"].link_no)
    assert ["replaced by a newer link"] == reasons(b)


def test_a_lesser_link_number_is_refused_without_stopping_its_sender() -> None:
    world, a, b, old = linked()
    b.peers.peer("a").seen.link_no = 9
    world.cut(old, lose=0)
    world.quiet()
    a.dial("b")
    world.quiet()
    assert [int(RefuseReason.STALE_CONNECTION)] == refusals(a)
    assert a.alive


def test_a_dialler_whose_own_link_is_still_known_replaces_it() -> None:
    world, a, b, old = linked()
    old.muted = True
    (link,) = b.peers.links.values()
    b.settle(b.peers.lost(link.conn, "gone", world.now))
    new = b.dial("a")
    world.quiet()
    assert a.link("b") is b.link("a") is new
    assert ["replaced by a newer link"] == reasons(a)


def test_a_welcome_replaces_a_link_that_came_meanwhile() -> None:
    world, (a, b) = world_of("a", "b")
    first = a.dial("b")
    world.quiet()
    assert a.link("b") is first
    first.muted = True
    second = a.dial("b")
    world.quiet()
    assert a.link("b") is b.link("a") is second
    assert ["replaced by a newer link"] == reasons(a)


# Life


def test_a_busy_link_is_pinged_and_its_round_trip_measured() -> None:
    world, a, b, wire = linked()
    world.now += TERMS.heartbeat_s
    a.tick(True)
    assert [Ping(int(world.now * 1e6))] == on_its_way(wire, 1)
    world.happen_to(wire, 1)
    world.now += 0.125
    world.happen_to(wire, 0)
    link, _ = open_links(a, b)
    assert pytest.approx(0.125) == link.rtt_s
    a.settle(a.peers.pong(link, Pong(0), world.now))
    assert pytest.approx(0.125) == link.rtt_s


def test_a_link_that_is_never_silent_is_measured_all_the_same() -> None:
    world, a, b, wire = linked()
    link, other = open_links(a, b)
    pings = 0
    for _ in range(80):
        world.now += TERMS.heartbeat_s / 2
        a.peers.say(link, Keep(True))
        b.peers.say(other, Keep(True))
        b.settle([])
        world.quiet()
        a.tick(True)
        pings += Ping in [type(record) for record in on_its_way(wire, 1)]
    assert 3 == pings


def test_a_peer_that_only_listens_is_asked_for_a_sign_of_life() -> None:
    """What is sent all the time must not take the place of the pings that an end with nothing to say answers."""
    world, a, b, _ = linked()
    link, _ = open_links(a, b)
    for _ in range(40):
        world.now += TERMS.heartbeat_s / 2
        a.peers.say(link, Keep(True))
        a.tick(True)
        world.quiet()
    assert [] == reasons(a)
    assert not a.peers.is_suspect("b")


def test_a_silent_peer_is_suspect_then_dead_and_what_is_heard_brings_it_back() -> None:
    world, a, _, wire = linked()
    wire.muted = True
    world.now += TERMS.suspect_after_missed * TERMS.heartbeat_s
    a.tick(True)
    assert a.peers.is_suspect("b")
    wire.muted = False
    world.quiet()
    assert not a.peers.is_suspect("b")
    wire.muted = True
    world.now += DEAD_S
    a.tick(True)
    assert ["silent for 4.0 s: dead"] == reasons(a)
    assert Condition.DEAD is a.peers.peer("b").condition


def test_an_idle_link_is_not_pinged_and_its_silence_is_no_death_when_work_comes() -> None:
    world, a, _, wire = linked()
    world.now += 100.0
    a.tick(False)
    assert [] == on_its_way(wire, 1)
    a.tick(True)
    assert [Ping] == [type(record) for record in on_its_way(wire, 1)]
    assert [] == reasons(a)


@pytest.mark.parametrize("who", [0, 1])
def test_a_link_is_persistent_while_either_end_wants_it_and_is_pinged_then(who: int) -> None:
    world, a, b, wire = linked()
    links = open_links(a, b)
    one = (a, b)[who]
    one.peers.keep(links[who], True)
    one.peers.keep(links[who], True)
    one.settle([])
    assert [Keep(True)] == on_its_way(wire, 1 - who)
    assert links[who].persistent
    world.now += TERMS.heartbeat_s
    one.tick(False)
    assert [Keep(True), Ping(int(world.now * 1e6))] == on_its_way(wire, 1 - who)


def test_a_draining_peer_is_passed_over() -> None:
    world, (a, b) = world_of("a", "b")
    b.peers.draining = True
    a.dial("b")
    world.quiet()
    assert a.peers.is_suspect("b")
    assert not b.peers.is_suspect("a")


def test_both_say_goodbye_once_and_the_link_closes_in_order() -> None:
    world, a, b, wire = linked()
    link, other = open_links(a, b)
    a.peers.leave(link, "idle", world.now)
    a.peers.leave(link, "idle", world.now)
    a.settle([])
    assert [Goodbye("idle")] == on_its_way(wire, 1)
    assert a.peers.open_link("b") is None
    assert link is a.peers.any_link("b")
    a.peers.keep(link, True)
    world.quiet()
    assert (Phase.LEAVING, Phase.LEAVING) == (link.phase, other.phase)
    for agent in (a, b, b):
        agent.tick(False)
    assert [Closed("b", link.conn, "goodbye", was_open=True, orderly=True, idle=True)] == a.changes[1:]
    assert [Closed("a", other.conn, "goodbye", was_open=True, orderly=True, idle=True)] == b.changes[1:]


def test_a_goodbye_that_is_not_answered_ends_after_drain_s() -> None:
    world, a, b, wire = linked()
    wire.muted = True
    link, _ = open_links(a, b)
    a.peers.leave(link, "idle", world.now)
    world.now += OPTIONS.drain_s
    a.tick(False)
    assert ["goodbye was not answered within drain_s"] == reasons(a)


def test_a_leaving_link_is_heartbeated_without_being_busy() -> None:
    world, a, b, wire = linked()
    link, _ = open_links(a, b)
    a.peers.leave(link, "idle", world.now)
    a.settle([])
    wire.queues[1].clear()
    world.now += TERMS.heartbeat_s
    a.tick(False)
    assert [Ping] == [type(record) for record in on_its_way(wire, 1)]


def test_a_window_is_widened_when_a_quarter_of_it_was_taken_up() -> None:
    _, a, b, wire = linked()
    _, link = open_links(a, b)
    for _ in range(OPTIONS.credit_records // 4):
        b.peers.grant(link)
        link.take(128)
    assert [] == on_its_way(wire, 0)
    b.peers.grant(link)
    b.settle([])
    taken = OPTIONS.credit_records // 4
    assert [Credit(OPTIONS.credit_records + taken, OPTIONS.credit_bytes + 128 * taken)] == on_its_way(wire, 0)


# Anything, in any order


class PeersMachine(RuleBasedStateMachine):
    """Three nodes, up to two of one name more, and everything that a network and people do to them.

    `Agent.check` and `Agent.listen` hold after every step; in the end the world must heal.
    """

    slow = False

    def __init__(self) -> None:
        super().__init__()
        self.world, _ = world_of(*NAMES)

    @initialize(slow=st.booleans())
    def pace(self, slow: bool) -> None:
        self.slow = slow

    def who(self, number: int) -> Agent:
        return self.world.living[number % len(self.world.living)]

    def wire(self, number: int) -> Wire:
        return self.world.wires[number % len(self.world.wires)]

    @rule(number=st.integers(0, 4), name=st.sampled_from(NAMES))
    def dial(self, number: int, name: str) -> None:
        agent = self.who(number)
        if agent.name != name and agent.may_dial(name):
            agent.dial(name)

    @rule(numbers=st.lists(st.integers(0, 20), min_size=1, max_size=8))
    def happen(self, numbers: list[int]) -> None:
        for number in numbers:
            self.world.happen(number)

    @rule(number=st.integers(0, 4), name=st.sampled_from(NAMES))
    def speak(self, number: int, name: str) -> None:
        self.who(number).speak(name)

    @rule(after=st.sampled_from([0.01, 0.25, 1.0, HELLO_S, DEAD_S]), busy=st.booleans(), backwards=st.booleans())
    def tick(self, after: float, busy: bool, backwards: bool) -> None:
        self.world.now += after
        for agent in self.world.living[:: -1 if backwards else 1]:
            agent.tick(busy)

    @rule(number=st.integers(0, 4), lag_s=st.sampled_from([0.1, HELLO_S]))
    def lag(self, number: int, lag_s: float) -> None:
        self.who(number).peers.lagged(lag_s)

    @rule(number=st.integers(0, 4), name=st.sampled_from(NAMES))
    def leave(self, number: int, name: str) -> None:
        agent = self.who(number)
        link = agent.peers.open_link(name)
        if link is not None:
            agent.peers.leave(link, "idle", self.world.now)
            agent.settle([])

    @rule(number=st.integers(0, 4), admits=st.booleans())
    def budget(self, number: int, admits: bool) -> None:
        self.who(number).admits = admits

    @precondition(lambda self: self.world.wires)
    @rule(number=st.integers(0, 20), lose=st.integers(0, 3))
    def cut(self, number: int, lose: int) -> None:
        self.world.cut(self.wire(number), lose=lose)

    @precondition(lambda self: self.world.wires)
    @rule(number=st.integers(0, 20))
    def mute(self, number: int) -> None:
        wire = self.wire(number)
        wire.muted = not wire.muted

    @rule(number=st.integers(0, 4), silent=st.booleans())
    def restart(self, number: int, silent: bool) -> None:
        agent = self.who(number)
        self.world.kill(agent, silent=silent)
        self.world.start(agent.name)

    @precondition(lambda self: len(self.world.living) < 5)
    @rule(name=st.sampled_from(NAMES))
    def double(self, name: str) -> None:
        self.world.start(name)

    def teardown(self) -> None:
        """Two of one name that use different peers are found out only by heartbeats; else an idle fleet heals too."""
        doubled = any(agent.had_rival for agent in self.world.living)
        for agent in self.world.living:
            agent.admits = True
        self.world.heal(30.0, busy=doubled, slow=self.slow)


TestPeersMachine = PeersMachine.TestCase
TestPeersMachine.settings = settings(stateful_step_count=40)


def test_a_peer_whose_link_broke_is_avoided_for_as_long_as_silence_takes_to_be_death() -> None:
    a = world_of("a")[1][0].peers
    a.suspect("b", 1.0)
    assert a.is_suspect("b")
    a.peer("c")
    assert ["b"] == a.suspects(1.0 + a.terms.dead_after_s - 0.1)
    assert a.is_suspect("b")
    assert [] == a.suspects(1.0 + a.terms.dead_after_s)
    assert not a.is_suspect("b")


def test_a_later_incarnation_in_the_catalogue_is_news_once_and_only_without_a_link() -> None:
    a = world_of("a")[1][0].peers
    entry = AgentEntry("b", "10.0.0.2", 7441, 5)
    assert not a.news(entry), "nothing was ever wanted of it"
    a.suspect("b", 1.0)
    assert a.news(entry)
    assert not a.is_suspect("b")
    assert Endpoint("10.0.0.2", 7441) == a.peer("b").endpoint
    assert not a.news(entry)
    a.peer("b").link = 7
    assert not a.news(AgentEntry("b", "10.0.0.2", 7441, 6))
