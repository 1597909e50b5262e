"""Checkers see what is wrong with a node or a session, and nothing in those that are well."""

from mesh.client.connection import Connection
from mesh.client.session import Session
from mesh.core.codec import encode
from mesh.core.context import NodeOptions
from mesh.core.effects import Level, Note
from mesh.core.outbox import OutboxOptions
from mesh.core.pool import PoolOptions
from mesh.core.records import Ping, Request
from mesh.sim.checkers import alarm, leaks, over_budget, session_leaks, stale_send, tags, unwatched
from mesh.sim.world import World
from tests.core.durables import Mail
from tests.core.fabric import App, fleet, hold, link, options


def busy(node_options: NodeOptions | None = None) -> World:
    """Agents a and b with two calls under way from a to b."""
    world = fleet("ab", node_options)
    App(world, "b", 10, hold).serve("orders")
    caller = App(world, "a", 1)
    world.run(1.5)
    for _ in range(2):
        caller.call("orders")
    world.run(2.0)
    return world


def test_the_tags_of_a_frame_are_read_without_its_records() -> None:
    assert [4, 32] == tags(encode(70_000, [Ping(1), Request(0, 1, "orders", "", 1, b"x" * 300)]))


def test_a_node_at_work_is_within_its_budgets_and_not_empty() -> None:
    for agent in busy().agents.values():
        assert [] == list(over_budget(agent.node))
        assert [] != list(leaks(agent.node))


def test_a_node_without_work_leaks_nothing() -> None:
    world = fleet("ab")
    App(world, "b", 10).serve("orders")
    world.run(3.0)
    assert [] == [leak for agent in world.agents.values() for leak in leaks(agent.node)]


def test_every_budget_is_looked_at() -> None:
    node = busy(options(pool=PoolOptions(links_max=2), outbox=OutboxOptions(outstanding_records=2))).agents["b"].node
    state = node.state
    state.pool.taken = 3
    for conn in (77, 78):
        state.peers.links[conn] = next(iter(state.peers.links.values()))
    app = state.apps[10]
    app.records = 3
    app.services["orders"].running = {("a", 1, seq): 1 for seq in range(999)}
    app.services["orders"].queued = 1 << 20
    state.inbox.answers_bytes = 1 << 40
    assert 6 == len(list(over_budget(node)))


def test_work_for_a_link_that_was_succeeded_is_seen() -> None:
    world = busy()
    node, one = world.agents["a"].node, link(world, "a", "b")
    work = encode(0, [Request(0, 1, "orders", "", 1, b"")])
    assert ["", ""] == [stale_send(node, one.conn, work), stale_send(node, 999, work)]
    node.state.peers.peers["b"].seen.incarnation += 1
    assert "work goes to b" in stale_send(node, one.conn, work)
    assert "" == stale_send(node, one.conn, encode(0, [Ping(1)]))


def test_notes_that_only_a_defect_can_cause_are_alarms() -> None:
    assert "link_malformed why=it" == alarm(Note("link_malformed", Level.WARNING, {"why": "it"}))
    assert "" == alarm(Note("link_lost", Level.WARNING, {}))


def test_a_watched_call_whose_app_is_silent_for_too_long_is_seen_unless_it_may_run_twice() -> None:
    world = busy()
    caller = next(app for app in world.agents["a"].speakers.values() if isinstance(app, App))
    caller.say(*(Request(0, 2 + flag, "orders", "", 9_000, b"", flag, monitor_ms=1_500) for flag in (0, 1)))
    world.run(2.1)
    node = world.agents["a"].node
    assert [] == list(unwatched(node, lambda key, session: 1.9))
    assert ["(1, 2)"] == [text.split(" waits")[0] for text in unwatched(node, lambda key, session: 2.1)]


def test_what_a_node_keeps_of_durable_casts_is_a_leak() -> None:
    mail = Mail()
    mail.cast(b"one")
    mail.run(0.0003)
    assert ["unwritten", "unwritten_bytes", "being written"] == [
        leak.split(" is not")[0] for leak in leaks(mail.world.agents["a"].node)
    ]
    mail.run(0.5)
    mail.durable.ended[77] = 0
    found = [leak.split(" is not")[0] for leak in leaks(mail.world.agents["a"].node)]
    assert {"held on shelves", "held", "held_bytes", "ended casts of sessions that are gone"} <= {*found}


def test_a_session_that_waits_for_something_is_not_empty() -> None:
    session = Session(1, "app", connection=Connection(1))
    assert [] == list(session_leaks(session))
    session.submit(Request(0, 0, "orders", "", 1000, b""), 1.0, 1.0)
    assert "the floor is at 0, the next seq is 1" in list(session_leaks(session))
