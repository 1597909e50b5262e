"""The node as a whole: links that come and go, heat, the budget, drain, lag, copies."""

import pytest

from mesh.core.catalogue import AgentEntry, Instance, Snapshot
from mesh.core.chunks import Chunker
from mesh.core.codec import decode, encode, encode_split
from mesh.core.context import NodeOptions
from mesh.core.effects import Claim, CloseLink, Note, OpenLink, Stop, Watch
from mesh.core.heat import HeatOptions
from mesh.core.identity import Identity, Proof
from mesh.core.link import LinkOptions, Phase
from mesh.core.liveness import Condition, LivenessOptions
from mesh.core.node import Node
from mesh.core.outbox import OutboxOptions
from mesh.core.policy import PolicyOptions, Rule
from mesh.core.pool import Close, PoolOptions
from mesh.core.records import (
    Accepted,
    Answer,
    AppHello,
    Ask,
    Cancel,
    Failure,
    Flag,
    FloorAsk,
    Goodbye,
    Hello,
    Keep,
    Kind,
    Pong,
    Reach,
    Refuse,
    RefuseReason,
    Reply,
    Report,
    Request,
    Serving,
    Settled,
    Status,
    Welcome,
)
from mesh.core.session import Credentials, Named
from mesh.sim.world import NetworkOptions, World
from mesh.types import Endpoint, InstanceKey, TopicKey
from tests.core.durables import Mail
from tests.core.fabric import (
    HELLO,
    App,
    Peer,
    assert_mesh_quiescent,
    assert_quiescent,
    echo,
    fleet,
    hold,
    link,
    lone_node,
    noted,
    notes,
    options,
    told,
)

ORDERS = TopicKey("", "orders")


def serve(world: World, *nodes: str, handle: str = "echo", workers: int = 8) -> list[App]:
    apps = [App(world, name, 100 + n, echo if handle == "echo" else hold) for n, name in enumerate(nodes)]
    for app in apps:
        app.serve("orders", workers=workers)
    world.run(world.now + 0.5)
    return apps


# Links


def test_who_is_at_the_other_end_comes_before_what_it_says_and_may_be_revoked_or_expire() -> None:
    one = Node(Identity("b", "sim", 9, Endpoint("b.example", 7700, "key of b"), b"shown"), NodeOptions(), 1, 1.0)
    peer = Peer(one, hello=None)
    one.link_proven(peer.conn, Proof("key of p", "p", "key of p", until=10.0), 1.0)
    assert [Welcome] == [type(record) for record in peer.hears(HELLO)]
    one.trust(b"renewed", ["key of x"], 2.0)
    assert [] == noted(one.take(2.0))
    one.tick(11.0)
    assert Goodbye("its certificate has expired", final=True) in told(one.take(11.0), peer.conn)
    one.trust(b"renewed", ["key of p"], 12.0)
    assert ["link_lost"] == noted(one.take(12.0))
    one.link_proven(peer.conn, Proof("key of p"), 13.0)


def test_two_nodes_that_dial_each_other_at_once_end_with_one_link() -> None:
    for seed in range(20):
        world = fleet("ab", seed=seed)
        serve(world, "a", "b")
        callers = [App(world, "a", 1), App(world, "b", 2)]
        seqs = [callers[0].call("orders@b-101", b"to b"), callers[1].call("orders@a-100", b"to a")]
        world.run(2.5)
        assert [b"to b", b"to a"] == [caller.body(seq) for caller, seq in zip(callers, seqs, strict=True)]
        assert [1, 1] == [len(agent.node.state.peers.links) for agent in world.agents.values()]
        assert_mesh_quiescent(world)


def test_a_link_that_nothing_needs_is_closed_in_order() -> None:
    world = fleet("ab", options(pool=PoolOptions(idle_close_s=1.0)))
    serve(world, "b")
    caller = App(world, "a", 1)
    caller.call("orders")
    world.run(2.0)
    assert 1 == len(world.agents["a"].node.state.peers.links)
    world.run(4.0)
    assert [{}, {}] == [agent.node.state.peers.links for agent in world.agents.values()]
    assert ["why=goodbye"] * 2 == [line.split()[-1] for line in notes(world, "link_closed")]
    again = caller.call("orders")
    world.run(5.0)
    assert b"" == caller.body(again)


def test_what_comes_up_at_both_ends_while_they_say_goodbye_goes_by_the_next_link_at_once() -> None:
    world = fleet("ab", options(pool=PoolOptions(idle_close_s=1.0)))
    serve(world, "a", "b")
    callers = [App(world, "a", 1), App(world, "b", 2)]
    callers[0].call("orders@b-101")
    callers[1].call("orders@a-100")
    world.run(2.0)
    state = world.agents["a"].node.state
    while not any(one.goodbye_sent and one.goodbye_heard for one in state.peers.links.values()):
        world.run(world.now + 0.0005)
    seqs = [callers[0].call("orders@b-101"), callers[1].call("orders@a-100")]
    world.run(world.now + 1.0)
    assert [b"", b""] == [caller.body(seq) for caller, seq in zip(callers, seqs, strict=True)]
    assert_mesh_quiescent(world)


def test_a_large_reply_is_whole_before_its_link_closes() -> None:
    world = fleet("ab", network=NetworkOptions(link_delay_s=(0.02, 0.02)))
    (server,) = serve(world, "b")
    server.handle = lambda request: Reply(request.node, request.session, request.seq, b"x" * 10_000_000)
    caller = App(world, "a", 1)
    seq = caller.call("orders")
    world.run(world.now + 0.12)
    out = link(world, "b", "a")
    assert out.chunker.outgoing
    world.agents["b"].node.state.peers.leave(out, "evicted", world.now)
    world.agents["a"].node.state.peers.leave(link(world, "a", "b"), "evicted", world.now)
    world.run(world.now + 3.0)
    assert 10_000_000 == len(caller.body(seq))
    assert (0, 2) == (len(notes(world, "link_lost")), len(notes(world, "link_opened"))), "it needs no second link"


def test_a_node_whose_address_is_not_known_cannot_be_dialled() -> None:
    one = lone_node()
    one.state.pool.lease("q", 1.0)
    one._act(one.state.pool.want("q", one.options.pool, 1.0), 1.0)
    output = one.take(1.0)
    assert ["dial_failed"] == noted(output)
    assert [] == [effect for effect in output.effects if isinstance(effect, OpenLink)]
    assert 0 == one.state.pool.taken


def test_what_is_closed_already_is_not_closed_again() -> None:
    one = lone_node()
    Peer(one)
    one._act([Close("nobody", "idle")], 1.0)
    assert [Phase.OPEN] == [one.phase for one in one.state.peers.links.values()]
    assert [] == one.take(1.0).link_data


def test_the_same_node_id_twice_stops_the_second() -> None:
    one = lone_node()
    Peer(one)
    one.take(1.0)
    twin = Peer(one, hello=None)
    challenge = twin.say(Hello(0, 0, "sim", "p", 60, 1, "b", "p", 1, 1000, 5000, 1, 1, 1, 1, 1))
    (ping,) = told(challenge, 1)
    one.link_data(1, encode(1, [Pong(ping.stamp)]), 1.1)  # type: ignore[union-attr]
    output = one.take(1.1)
    (refuse,) = told(output, twin.conn)
    assert isinstance(refuse, Refuse)
    assert RefuseReason.DUPLICATE_NODE == refuse.reason
    assert ["duplicate_node"] == noted(output)
    assert CloseLink(twin.conn, 1.0) in output.effects


def refused_dial(reason: RefuseReason) -> list[object]:
    """What a node does when its dial is refused for this reason."""
    one = lone_node()
    one.state.peers.peer("p").endpoint = Endpoint("p.example", 7700)
    one.state.pool.lease("p", 1.0)
    one._act(one.state.pool.want("p", one.options.pool, 1.0), 1.0)
    one.link_connected(1, 1.0)
    one.take(1.0)
    one.link_data(1, encode(0, [Refuse(int(reason), "no", 99)]), 1.0)
    return list(one.take(1.0).effects)


def test_what_the_matchmaker_says_of_agents_is_taken_in() -> None:
    one = lone_node()
    one.namesakes([], 1.0)
    one.agents([], 1.0)
    assert [Claim()] == one.take(1.0).effects


def test_a_node_that_is_refused_as_a_duplicate_or_as_stale_stops_others_try_again() -> None:
    assert Stop(78, "no") in refused_dial(RefuseReason.DUPLICATE_NODE)
    assert Stop(77, "no", 99) in refused_dial(RefuseReason.STALE_INCARNATION)
    assert not any(isinstance(effect, Stop) for effect in refused_dial(RefuseReason.BUSY))


def test_a_welcome_of_the_past_is_refused_and_the_dial_has_failed() -> None:
    one = lone_node()
    one.state.peers.peer("p").endpoint = Endpoint("p.example", 7700)
    one.state.peers.peer("p").seen.incarnation = 99
    one.state.pool.lease("p", 1.0)
    one._act(one.state.pool.want("p", one.options.pool, 1.0), 1.0)
    one.link_connected(1, 1.0)
    one.take(1.0)
    one.link_data(1, encode(0, [Welcome(0, "sim", "p", 50, 1, 1000, 5000, 1, 1, 1, 1, 1)]), 1.0)
    output = one.take(1.0)
    assert [RefuseReason.STALE_INCARNATION] == [r.reason for r in told(output, 1) if isinstance(r, Refuse)]
    assert "link_refused" in noted(output)
    assert Condition.SUSPECT is one.state.peers.peer("p").condition


def test_an_agent_that_was_killed_and_is_back_is_believed_once_its_old_link_is_silent() -> None:
    world = fleet("ab")
    (server,) = serve(world, "b", handle="hold")
    caller = App(world, "a", 1)
    caller.call("orders", timeout_s=60.0)
    world.run(2.0)
    world.silence("a", "b")
    world.kill("b")
    world.run(2.1)
    world.silent.clear()
    world.agents["a"].wires.clear()
    world.start("b", NodeOptions())
    App(world, "a", 200).serve("other")
    back = App(world, "b", 2)
    world.run(2.5)
    seq = back.call("other")
    world.run(8.0)
    assert b"" == back.body(seq)
    assert link(world, "a", "b").incarnation == 1003
    assert [] == server.of(Reply)


def test_the_reason_of_a_refusal_by_us_is_told() -> None:
    one = lone_node()
    output = Peer(one, hello=None).say(Hello(0, 0, "other", "p", 1, 1, "b", "p", 1, 1, 1, 1, 1, 1, 1, 1))
    (note,) = [effect for effect in output.effects if isinstance(effect, Note)]
    assert ("link_refused", 1) == (note.name, note.facts["by_us"])


def test_a_peer_that_refuses_a_link_that_is_open_has_it_closed() -> None:
    one = lone_node()
    output = Peer(one).say(Refuse(int(RefuseReason.STALE_CONNECTION), "link 2 came after link 1"))
    assert ["link_opened", "link_lost", "link_refused"] == ["link_opened", *noted(output)]
    assert {} == one.state.peers.links


def test_a_loss_that_only_one_end_noticed_replaces_the_link_once() -> None:
    for noticing in "ab":
        world = fleet("ab")
        (server,) = serve(world, "b", handle="hold")
        App(world, "a", 200).serve("other")
        callers = [App(world, "a", 1), App(world, "b", 2)]
        first = callers[0].call("orders")
        world.run(2.0)
        world.cut("a", "b", only=noticing)
        world.run(2.3)
        seq = callers[1].call("other")
        world.run(3.0)
        server.release()
        world.run(4.0)
        assert [b"", b""] == [callers[0].body(first), callers[1].body(seq)]
        assert 4 == len(notes(world, "link_opened"))
        assert_mesh_quiescent(world)


def test_the_news_that_an_agent_is_back_ends_the_pause_before_the_next_dial() -> None:
    one = lone_node()
    conn = one.app_connected(Credentials(), 1.0)
    one.app_data(conn, encode(0, [AppHello(0, 0, 11, 1, "shell"), Request(0, 0, "orders", "", 9000, b"")]), 1.0)

    def listed(incarnation: int, now: float) -> list[OpenLink]:
        there = Instance("", "orders", "srv", 77, AgentEntry("p", "p.example", 7700, incarnation))
        one.snapshot(Snapshot(ORDERS, incarnation, (there,)), now)
        return [effect for effect in one.take(now).effects if isinstance(effect, OpenLink)]

    for incarnation in (50, 50, 50, 50):
        for dial in listed(incarnation, 1.0):
            one.link_lost(dial.conn, "connection refused", 1.0)
    assert [] == listed(50, 1.0)
    assert ["p"] == [dial.node for dial in listed(51, 1.0)]


# Suspicion, death, lag


def test_a_silent_peer_is_passed_over_and_then_dead() -> None:
    world = fleet("abc")
    apps = serve(world, "b", "c", handle="hold")
    caller = App(world, "a", 1)
    stuck = [caller.call("orders@b-100", timeout_s=60.0), caller.call("orders@c-101", timeout_s=60.0)]
    world.run(2.0)
    world.silence("a", "b")
    world.run(5.5)
    peers = world.agents["a"].node.state.peers
    assert (Condition.SUSPECT, Condition.ALIVE) == (peers.peer("b").condition, peers.peer("c").condition)
    apps[1].release()
    seqs = [caller.call("orders") for _ in range(6)]
    world.run(6.0)
    assert [b""] * 6 == [caller.body(seq) for seq in seqs]
    world.run(8.5)
    assert ["dead"] == [line.split()[-1] for line in notes(world, "link_lost", "a")]
    world.run(14.0)
    assert Status.INDETERMINATE == caller.status(stuck[0])


def busy_peer() -> tuple[Peer, float]:
    """A peer to whom something is outstanding, heard last at 1.0, and when the node's next tick is due."""
    one = lone_node()
    peer = Peer(one)
    one.state.pool.lease("p", 1.0)
    one.tick(1.0)
    return peer, one.deadline()


def test_a_node_that_was_stopped_does_not_take_its_own_lag_for_the_silence_of_others() -> None:
    peer, due = busy_peer()
    one = peer.node
    one.tick(due + 20.0)
    output = one.take(due + 20.0)
    assert ["lagged"] == noted(output)
    assert Phase.OPEN is peer.link.phase
    for step in range(1, 23):
        one.tick(due + 20.0 + 0.2 * step)
    assert [peer.conn] == list(one.state.peers.links)
    for step in range(23, 28):
        one.tick(due + 20.0 + 0.2 * step)
    assert {} == one.state.peers.links


def test_a_node_that_is_on_time_finds_a_silent_peer_dead() -> None:
    peer, now = busy_peer()
    while now < 5.9:
        peer.node.tick(now)
        now = peer.node.deadline()
    assert Phase.OPEN is peer.link.phase
    peer.node.tick(6.1)
    assert {} == peer.node.state.peers.links


def test_an_agent_that_was_stopped_for_a_while_goes_on_where_it_was() -> None:
    world = fleet("ab")
    (server,) = serve(world, "b", handle="hold")
    caller = App(world, "a", 1)
    seq = caller.call("orders", b"one", timeout_s=30.0)
    world.run(2.0)
    world.pause("b", 4.0)
    world.run(3.0)
    later = caller.call("orders", b"two")
    world.run(7.0)
    assert 1 == len(notes(world, "lagged", "b"))
    server.release()
    world.run(8.0)
    assert [b"one", b"two"] == [caller.body(seq), caller.body(later)]
    assert [] == notes(world, "link_lost")
    assert_mesh_quiescent(world)


# Heat and the budget


def test_a_hot_topic_keeps_its_link_and_tells_the_other_end_until_it_is_cold() -> None:
    heat = HeatOptions(hot_at_per_s=5.0, cold_at_per_s=1.0, dwell_s=2.0, half_life_s=1.0)
    world = fleet("ab", NodeOptions(heat=heat, pool=PoolOptions(idle_close_s=1.0)))
    serve(world, "b")
    caller = App(world, "a", 1)
    for _ in range(60):
        caller.cast("orders")
        world.run(world.now + 0.1)
    ours, theirs = link(world, "a", "b"), link(world, "b", "a")
    assert [(True, False), (False, True)] == [(one.keep_here, one.keep_there) for one in (ours, theirs)]
    caller.settle()
    world.run(world.now + 4.0)
    assert [1, 1] == [len(agent.node.state.peers.links) for agent in world.agents.values()], "it dwells"
    world.run(world.now + 15.0)
    assert (1, 1) == (len(notes(world, "topic_hot")), len(notes(world, "topic_cold")))
    assert [{}, {}] == [agent.node.state.peers.links for agent in world.agents.values()]


def test_a_hot_topic_of_many_nodes_keeps_links_to_a_stable_few_and_still_reaches_all_in_turn() -> None:
    heat = HeatOptions(pin={"orders": "hot"}, hot_links_max=2)
    world = fleet("abcdef", NodeOptions(heat=heat, pool=PoolOptions(idle_close_s=0.5)))
    servers = serve(world, *"bcdef")
    caller = App(world, "a", 1)

    def kept() -> list[str]:
        return sorted(one.peer for one in world.agents["a"].node.state.peers.links.values() if one.keep_here)

    first: list[str] = []
    for count in range(1, 4):
        for _ in servers:
            caller.cast("orders")
        caller.settle()
        world.run(world.now + 1.5)
        assert [count] * 5 == [len(server.asked) for server in servers]
        first = first or kept()
        assert first == kept()
    assert 2 == len(first)
    world.run(world.now + 3.0)
    assert first == sorted(one.peer for one in world.agents["a"].node.state.peers.links.values())


def test_a_persistent_link_is_heartbeated_while_nothing_is_sent() -> None:
    world = fleet("ab", NodeOptions(heat=HeatOptions(pin={"orders": "hot"}), pool=PoolOptions(idle_close_s=1.0)))
    serve(world, "b")
    caller = App(world, "a", 1)
    caller.cast("orders")
    world.run(3.0)
    before = link(world, "b", "a").records_in
    world.run(13.0)
    assert 8 <= link(world, "b", "a").records_in - before <= 22
    world.silence("a", "b")
    world.run(19.5)
    assert 2 == len(notes(world, "link_lost"))


def test_a_caller_of_ten_times_more_peers_than_its_budget_keeps_it_and_serves_everybody() -> None:
    names = [f"n{number:02}" for number in range(40)]
    world = fleet(["a", *names], options(pool=PoolOptions(links_max=4)))
    for number, name in enumerate(names):
        App(world, name, 100 + number).serve("orders", name)
    caller = App(world, "a", 1)
    world.run(2.0)
    seqs = [caller.call(f"orders@{name}", name.encode(), timeout_s=30.0) for name in names]
    pool = world.agents["a"].node.state.pool
    while world.now < 20.0:
        world.run(world.now + 0.02)
        assert pool.taken <= 4
        assert len(world.agents["a"].node.state.peers.links) <= 4
    assert [name.encode() for name in names] == [caller.body(seq) for seq in seqs]
    assert_mesh_quiescent(world)


def test_a_server_of_ten_times_more_callers_than_its_budget_keeps_it_and_serves_everybody() -> None:
    names = [f"n{number:02}" for number in range(40)]
    world = fleet(["a", *names], options(pool=PoolOptions(links_max=4)))
    App(world, "a", 100).serve("orders", workers=100)
    callers = [App(world, name, 1 + number) for number, name in enumerate(names)]
    world.run(2.0)
    seqs = [caller.call("orders", name.encode(), timeout_s=60.0) for caller, name in zip(callers, names, strict=True)]
    pool = world.agents["a"].node.state.pool
    while world.now < 50.0:
        world.run(world.now + 0.05)
        assert pool.taken <= 4
    assert [name.encode() for name in names] == [c.body(s) for c, s in zip(callers, seqs, strict=True)]
    assert_mesh_quiescent(world, 30.0)


# The matchmaker


def test_an_empty_answer_is_read_again_before_it_is_believed() -> None:
    one = lone_node()
    conn = one.app_connected(Credentials(), 1.0)
    one.app_data(conn, encode(0, [AppHello(0, 0, 11, 1, "shell"), Request(0, 0, "orders", "", 9000, b"")]), 1.0)
    assert Watch(ORDERS) in one.take(1.0).effects
    there = Instance("", "orders", "srv", 77, AgentEntry("p", "p.example", 7700, 50))
    one.snapshot(Snapshot(ORDERS, 1, (there,)), 1.0)
    one.take(1.0)
    one.snapshot(Snapshot(ORDERS, 2, ()), 1.1)
    output = one.take(1.1)
    assert (["topic_doubted"], [Watch(ORDERS, fresh=True)]) == (noted(output), output.effects[1:])
    assert [InstanceKey("p", "srv", 77)] == list(one.state.directory.views[ORDERS].listed)
    one.snapshot(Snapshot(ORDERS, 2, ()), 1.2)
    assert {} == one.state.directory.views[ORDERS].listed


def test_an_answer_for_a_topic_of_no_interest_means_nothing() -> None:
    one = lone_node()
    one.snapshot(Snapshot(ORDERS, 1, ()), 1.0)
    assert ([], {}) == (one.take(1.0).effects, one.state.directory.views)


def test_a_topic_that_was_not_used_for_long_is_not_watched_any_more() -> None:
    world = fleet("a")
    caller = App(world, "a", 1)
    caller.call("orders")
    world.run(2.0)
    assert ["a"] == list(world.watchers[ORDERS])
    world.run(310.0)
    assert {} == world.watchers[ORDERS]


def test_what_an_absent_instance_was_waited_for_ends_when_it_is_given_up() -> None:
    one = lone_node()
    conn = one.app_connected(Credentials(), 1.0)
    there = Instance("", "orders", "srv", 77, AgentEntry("p", "p.example", 7700, 50))
    one.app_data(conn, encode(0, [AppHello(0, 0, 11, 1, "shell"), Request(0, 0, "orders", "x", 99_000, b"")]), 1.0)
    one.snapshot(Snapshot(ORDERS, 1, (there,)), 1.0)
    for now in (1.1, 1.2):
        one.snapshot(Snapshot(ORDERS, 2, ()), now)
    one.app_data(conn, encode(1, [Request(0, 1, "orders", "", 99_000, b"")]), 2.0)
    assert [(11, 1)] == list(one.state.outbox.entries)
    one.tick(61.3)
    assert {} == one.state.outbox.entries


# Drain


def test_a_node_drains_in_order_and_fails_no_call() -> None:
    world = fleet("abc")
    apps = serve(world, "b", "c", handle="hold", workers=1)
    caller, local = App(world, "a", 1), App(world, "b", 2)
    running = [caller.call("orders", b"%d" % n) for n in range(2)]
    queued = [caller.call("orders", b"%d" % n) for n in range(4)]
    apps[1].handle = echo
    world.run(2.0)
    world.agents["b"].node.drain(world.now)
    world.agents["b"].node.drain(world.now)
    world.run(2.3)
    assert [Goodbye("draining")] == local.of(Goodbye) == apps[0].of(Goodbye)
    assert ["c"] == [key.node for key in world.catalogue[ORDERS]]
    apps[1].release()
    world.run(4.0)
    assert "b" in world.agents, "its call runs"
    apps[0].release()
    world.run(7.0)
    assert Stop(0, "drained") == world.stopped["b"]
    assert 6 == sum(isinstance(caller.end(seq), Reply) for seq in running + queued)
    assert not apps[0].is_up
    assert not local.is_up
    assert not apps[0].of(Serving)[-1].ok
    assert [] == notes(world, "link_lost")
    assert 2 == len([line for line in notes(world, "link_closed") if "peer=b" in line or line.split()[1] == "b"])
    assert_mesh_quiescent(world)


def test_a_drain_does_not_wait_for_ever() -> None:
    world = fleet("ab", options(link=LinkOptions(drain_s=3.0)))
    serve(world, "b", handle="hold")
    caller, away = App(world, "a", 1), App(world, "b", 2)
    away.close()
    seq = caller.call("orders", timeout_s=60.0)
    fan = caller.fanout("orders", timeout_s=60.0)
    world.run(2.0)
    world.agents["b"].node.drain(world.now)
    world.run(4.9)
    assert "b" in world.agents
    world.run(6.5)
    assert "b" not in world.agents
    assert ["left=2"] == [line.split()[-1] for line in notes(world, "drained", "b")]
    world.run(12.0)
    assert Status.INDETERMINATE == caller.status(seq)
    assert [] == caller.ends(fan)


def test_a_node_that_drains_sends_large_replies_to_their_end() -> None:
    world = fleet("ab", network=NetworkOptions(link_delay_s=(0.05, 0.05)))
    (server,) = serve(world, "b")
    server.handle = lambda request: Reply(request.node, request.session, request.seq, b"x" * 20_000_000)
    caller = App(world, "a", 1)
    seq = caller.call("orders")
    world.run(world.now + 0.3)
    world.agents["b"].node.drain(world.now)
    world.run(world.now + 10.0)
    assert 20_000_000 == len(caller.body(seq))
    assert "b" in world.stopped


def test_a_node_with_nothing_to_do_stops_at_once() -> None:
    one = lone_node()
    one.drain(1.0)
    one.tick(1.0)
    assert Stop(0, "drained") in one.take(1.0).effects


# To itself, and out


def test_a_node_takes_in_what_it_says_to_itself() -> None:
    world = fleet("a")
    (server,) = serve(world, "a", handle="hold", workers=1)
    caller = App(world, "a", 1)
    seqs = [caller.call("orders"), caller.call("orders"), caller.cast("orders"), caller.fanout("orders")]
    world.run(2.0)
    caller.cancel(seqs[1])
    server.say(Answer("a", 1001, 1, 0, [(1, 0)], [0]))
    server.release()
    world.run(3.0)
    assert [Reply, True, True, (1, 1, 0, 0)] == [
        type(caller.end(seqs[0])),
        caller.status(seqs[1]) is Status.CANCELLED,
        caller.end(seqs[2]) is None,
        caller.receipt(seqs[3]),
    ]
    server.handle = hold
    queued = [caller.call("orders", timeout_s=1.0) for _ in range(3)]
    world.run(3.1)
    server.close(dead=True)
    world.run(5.0)
    assert [Status.INDETERMINATE, Status.EXPIRED, Status.EXPIRED] == [caller.status(seq) for seq in queued]
    assert_mesh_quiescent(world)


def test_a_node_asks_its_own_apps_what_its_predecessor_had_handed_them_and_how_far_they_are() -> None:
    world = fleet("a")
    (server,) = serve(world, "a")
    caller = App(world, "a", 1)
    world.run(2.0)
    caller.seq = 1
    caller.say(Reach("a", 5, server.session), Request(0, 0, "orders", "", 9000, b"", Flag.RESUMED))
    world.run(2.5)
    (ask,) = server.of(Ask)
    server.say(Answer("a", ask.incarnation, ask.number, 0, ask.ids, [0]), FloorAsk("a", 1))
    world.run(3.0)
    assert (b"", [FloorAsk("a", 1)]) == (caller.body(0), caller.of(FloorAsk))
    assert_mesh_quiescent(world)


def test_what_is_accepted_and_settled_is_told_in_as_many_records_as_it_needs() -> None:
    one = lone_node(options(outbox=OutboxOptions(outstanding_records=20_000), pool=PoolOptions()))
    conn = one.app_connected(Credentials(), 1.0)
    one.app_data(conn, encode(0, [AppHello(0, 0, 11, 1, "shell")]), 1.0)
    requests = [Request(seq % 2, seq, "orders", "", 9000, b"", Flag.WAIT) for seq in range(10_000)]
    for frame in encode_split(1, requests):
        one.app_data(conn, frame, 1.0)
    records = [record for _, data in one.take(1.0).app_data for record in decode(data).records]
    accepted = [record for record in records if isinstance(record, Accepted)]
    assert [4_096, 904] == [len(record.ranges) for record in accepted]
    one.calling.settled(Settled("b", 11, [(0, 9_999)]), 1.0)
    for seq in range(0, 10_000, 2):
        one.state.apps[11].settled.remove(seq)
    settled = [record for _, data in one.take(1.0).app_data for record in decode(data).records]
    assert [4_096, 904] == [len(record.ranges) for record in settled if isinstance(record, Settled)]


def test_an_app_that_is_gone_before_the_flush_is_told_nothing() -> None:
    one = lone_node()
    conn = one.app_connected(Credentials(), 1.0)
    one.app_data(conn, encode(0, [AppHello(0, 0, 11, 1, "shell")]), 1.0)
    one.app_closed(conn, 1.0, dead=False)
    assert [] == one.take(1.0).app_data
    other = one.app_connected(Credentials(), 1.0)
    one.app_data(other, encode(0, [AppHello(0, 0, 12, 1, "shell")]), 1.0)
    one.app_closed(other, 1.0, dead=True)
    assert [] == one.take(1.0).app_data


def test_an_app_that_sends_no_frame_and_one_that_dies_away_are_ended() -> None:
    one = lone_node()
    for session in (11, 12):
        conn = one.app_connected(Credentials(), 1.0)
        one.app_data(conn, encode(0, [AppHello(0, 0, session, 1, "shell")]), 1.0)
        one.app_malformed(conn, "a frame of 4 GiB", 1.0)
        assert [(conn, 0)] == [(to, decode(data).counter) for to, data in one.take(1.0).app_data]
    one.app_died(12, 1.0)
    assert [11] == list(one.state.apps)


def test_the_shells_answer_is_told_to_the_app_that_asked() -> None:
    one = lone_node()
    conn = one.app_connected(Credentials(), 1.0)
    one.app_data(conn, encode(0, [AppHello(0, 0, 11, 1, "shell")]), 1.0)
    one.take(1.0)
    one.answered(11, 3, True, b"{}", 1.0)
    ((told_conn, data),) = one.take(1.0).app_data
    assert (conn, [Report(3, True, b"{}")]) == (told_conn, decode(data).records)


def test_a_session_that_is_shut_out_is_not_let_in() -> None:
    one = lone_node()
    one.shut_out(11, 1.0)
    one.app_data(one.app_connected(Credentials(), 1.0), encode(0, [AppHello(0, 0, 11, 1, "shell")]), 1.0)
    assert {} == one.state.apps


def test_the_next_tick_is_wanted_when_the_next_thing_is_due() -> None:
    one = lone_node(NodeOptions(liveness=LivenessOptions(heartbeat_s=0.4)))
    assert 1.0 < one.deadline() <= 1.1
    conn = one.app_connected(Credentials(), 1.0)
    request = Request(int(Kind.CALL), 0, "orders", "", 50, b"", Flag.WAIT)
    one.app_data(conn, encode(0, [AppHello(0, 0, 11, 1, "shell"), request]), 1.0)
    assert 1.05 <= one.deadline() <= 1.07
    one.tick(1.07)
    assert {} == one.state.outbox.entries


# Copies


def scenario(world: World, until: float, copying: bool) -> list[str]:
    """Calls, casts, fan-outs, large bodies, losses and a drain; every node is replaced by its copy every 37 ms."""
    for name in "abc":
        world.start(name, NodeOptions(heat=HeatOptions(hot_at_per_s=2.0)))
    for number, name in enumerate("aabbc"):
        App(world, name, 10 + number).serve("orders", workers=2)
    callers = [App(world, name, 1 + number) for number, name in enumerate("abc")]
    for step in range(60):
        caller = callers[step % 3]
        kind = (Kind.CALL, Kind.CAST, Kind.FANOUT, Kind.CALL)[step % 4]
        body = b"x" * (300_000 if step % 7 == 0 else step)
        world.at(1.5 + step * 0.05, lambda c=caller, k=kind, b=body: c.send(k, "orders", b))  # type: ignore[misc]
    world.at(2.5, lambda: world.cut("a", "b"))
    world.at(3.0, lambda: world.agents["c"].node.drain(world.now))
    while world.now < until:
        world.run(world.now + 0.037)
        if copying:
            for agent in world.agents.values():
                agent.node = agent.node.copy()
    return world.trace


def test_a_copy_goes_on_exactly_as_the_node_would_have() -> None:
    expected = scenario(World(5, frames=True), 6.0, False)
    assert len(expected) > 400
    assert expected == scenario(World(5, frames=True), 6.0, True)


def test_a_copy_shares_nothing_with_its_node() -> None:
    one = lone_node()
    Peer(one)
    twin = one.copy()
    assert twin.state == one.state
    twin.link_lost(1, "reset", 1.0)
    assert [1] == list(one.state.peers.links)
    assert_quiescent(one)


def test_a_copy_keeps_bodies_that_came_in_chunks() -> None:
    one = lone_node()
    request = Request(int(Kind.CALL), 0, "orders", "", 60_000, b"x" * (3 << 20), Flag.WAIT)
    chunker = Chunker(in_flight_max=100)
    announcement, chunks = chunker.split(request)
    conn = one.app_connected(Credentials(), 1.0)
    one.app_data(conn, encode(0, [AppHello(0, 0, 11, 1, "shell"), announcement, *chunks]), 1.0)
    (entry,) = one.copy().state.outbox.entries.values()
    assert request.body == entry.request.body


@pytest.mark.parametrize("persistent", [True, False])
def test_only_what_is_wanted_is_kept(persistent: bool) -> None:
    one = lone_node()
    peer = Peer(one, hello=HELLO)
    one.state.pool.slot("p").topics[ORDERS] = 1.0
    one.state.directory.use(ORDERS, one.options.directory, 1.0)
    one.snapshot(Snapshot(ORDERS, 1, (Instance("", "orders", "s", 1, AgentEntry("p", "p", 1, 50)),)), 1.0)
    for _ in range(100):
        one.state.heats.count(ORDERS)
    one.tick(2.5 if persistent else 1.1)
    assert ([Keep(True)] if persistent else []) == [r for r in told(one.take(2.5), peer.conn) if isinstance(r, Keep)]
    one.tick(200.0)
    assert persistent == (ORDERS in one.state.pool.slot("p").topics)


# An agent that follows another


def test_what_apps_of_the_agent_before_served_is_waited_for_while_they_may_come_back() -> None:
    world = fleet("a")
    server, caller = App(world, "a", 10), App(world, "a", 1)
    server.serve("orders")
    world.run(2.0)
    world.kill("a")
    world.start("a", NodeOptions())
    caller.come_back()
    world.run(2.1)
    seq, nobody = caller.call("orders", timeout_s=60.0), caller.call("stock", timeout_s=60.0)
    world.run(3.0)
    assert [[], []] == [caller.ends(seq), caller.ends(nobody)]
    server.come_back()
    server.serve("orders")
    world.run(4.0)
    assert b"" == caller.body(seq)
    world.run(8.0)
    assert Status.UNROUTABLE == caller.status(nobody), "after resume_grace_s nobody is on the way back"
    again = caller.call("stock")
    world.run(8.5)
    assert Status.UNROUTABLE == caller.status(again)


def test_a_call_to_an_app_of_its_own_node_is_given_up_there_too() -> None:
    world = fleet("a")
    server, caller = App(world, "a", 10, hold), App(world, "a", 1)
    server.serve("orders")
    world.run(2.0)
    seq = caller.call("orders")
    world.run(2.5)
    caller.cancel(seq)
    world.run(3.0)
    assert [Cancel("a", 1, seq)] == server.of(Cancel)


def test_apps_of_one_node_settle_among_themselves() -> None:
    world = fleet("a")
    server, caller = App(world, "a", 10), App(world, "a", 1)
    server.serve("orders")
    world.run(2.0)
    caller.call("orders")
    world.run(2.5)
    caller.floor = caller.seq
    server.say(Goodbye())
    world.run(3.5)
    assert [Goodbye("answer")] == server.of(Goodbye)
    assert {} == world.agents["a"].node.state.inbox.callers["a", 1].handed


def test_a_question_to_its_own_apps_goes_round_inside() -> None:
    one = lone_node()
    one.context.loopback.append(Ask("b", 9, 1, 77, 1, [(1, 1)]))
    one.tick(1.1)
    assert [77] == list(one.state.questions)


def test_a_durable_cast_goes_by_the_spool_and_does_not_keep_a_drain_waiting() -> None:
    mail = Mail()
    mail.cast(b"x" * 600_000)
    waiting = mail.cast(b"one")
    mail.run(0.5)
    assert (2, []) == (mail.disk.totals().records, mail.caller.ends(waiting))
    assert mail.caller.query("dead_list").ok
    node = mail.world.agents["a"].node
    node.drain(mail.world.now)
    mail.run(3.0)
    assert 0 == mail.world.stopped["a"].status


def test_a_call_waits_for_a_local_app_that_hangs_and_goes_to_it_when_it_is_heard_again() -> None:
    world = fleet("a")
    server, caller = App(world, "a", 10), App(world, "a", 1)
    server.serve("orders")
    world.run(2.0)
    hears, server.received = server.received, lambda data, now: None  # type: ignore[method-assign]
    world.run(15.0)
    call = caller.call("orders", b"x")
    world.run(16.0)
    server.received = hears  # type: ignore[method-assign]
    server.say(Pong(0))
    world.run(18.0)
    assert b"x" == caller.body(call)


def test_somebody_looks_at_the_fleet() -> None:
    one = lone_node()
    one.look(2.0)
    assert 2.0 == one.state.views.looked_at


def test_a_policy_is_obeyed_from_now_on_and_a_token_names_whom_it_is_about() -> None:
    one = Node(Identity("a", "sim", 1, Endpoint("a.example", 7700)), NodeOptions(), 1, 1.0)
    conn = one.app_connected(Credentials(), 1.0)
    one.app_named(conn, Named("ada"), 1.0)
    one.app_data(conn, encode(0, [AppHello(0, 0, 7, 1, "shell")]), 1.0)
    one.obey(PolicyOptions("allow", {"no": Rule("deny", users=("ada",))}), 1.0)
    one.take(1.0)
    for node in (one, one.copy()):
        node.app_data(conn, encode(1, [Request(0, 0, "orders", "", 1000, b"")]), 1.0)
        ((_, data),) = node.take(1.0).app_data
        (failure,) = decode(data).records
        assert isinstance(failure, Failure)
        assert (Status.REJECTED, "no") == (failure.status, failure.rule)
