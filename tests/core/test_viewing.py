"""Whoever looks at the fleet from one agent sees what each says of itself, its age, and what is not known."""

from typing import Any

from msgspec import json

from mesh.core.context import NodeOptions
from mesh.core.effects import FindAgents
from mesh.core.link import LinkOptions
from mesh.core.node import Node
from mesh.core.pool import PoolOptions
from mesh.core.records import Query, Report
from mesh.core.session import App as AppState
from mesh.core.viewing import fleet_of, view_of
from mesh.core.views import VIEW_BYTES_MAX, NodeView, ViewOptions
from mesh.sim.world import World
from tests.core.builders import agent
from tests.core.fabric import App, Peer, fleet, lone_node, noted

LOOKED_FOR_S = 70.0
"""Longer than anything is kept after the last look."""

EMPTY = NodeView("p", 1, "serving", 1.0, 0.0, None, [], [], [])


def busy(names: str = "abc", node_options: NodeOptions | None = None) -> tuple[World, App]:
    """An app at a calls one at b; the others have no link."""
    world = fleet(names, node_options)
    server = App(world, "b", 10, name="shop")
    server.serve("orders", "srv")
    caller = App(world, "a", 255, name="shell")
    world.run(1.5)
    caller.call("orders")
    world.run(2.0)
    return world, caller


def seen(world: World, app: App, rounds: int = 4) -> dict[str, Any]:
    """Look for some rounds; return the nodes by name."""
    for _ in range(rounds):
        app.query("fleet")
        world.run(world.now + 2.0)
    return {node["node"]: node for node in json.decode(app.query("fleet").body)["nodes"]}


def looking(node_options: NodeOptions | None = None, at: float = 1.0) -> tuple[Node, Peer]:
    """A node with a link to p, where somebody looks."""
    one = lone_node(node_options)
    peer = Peer(one)
    one.look(at)
    return one, peer


def asked(one: Node, peer: Peer, now: float) -> int:
    """Tick; return the number of the question that the peer is asked."""
    one.tick(now)
    (query,) = [record for record in peer.hears(now=now) if isinstance(record, Query)]
    assert "view" == query.what
    return query.seq


def test_all_agents_are_seen_from_one_linked_or_not() -> None:
    world, caller = busy()
    nodes = seen(world, caller)
    assert ["a", "b", "c"] == list(nodes)
    assert all(node["view"]["node"] == name and node["listed"] for name, node in nodes.items())
    assert all(node["age_s"] < 3 for node in nodes.values())
    assert "c:7000" == nodes["c"]["endpoint"]


def test_a_view_says_what_runs_who_calls_whom_and_over_which_link() -> None:
    world, caller = busy()
    nodes = seen(world, caller)
    shell, shop = nodes["a"]["view"]["apps"][0], nodes["b"]["view"]["apps"][0]
    assert ("shell", True, []) == tuple(shell[key] for key in ("name", "attached", "serves"))
    assert ["orders"] == [call["topic"] for call in shell["calls"]]
    assert [{"topic": "orders", "server": "srv"}] == shop["serves"]
    assert ["orders"] == [topic["topic"] for topic in nodes["a"]["view"]["topics"]]
    link = {link["peer"]: link for link in nodes["a"]["view"]["links"]}["b"]
    assert ("alive", False) == (link["condition"], link["persistent"])
    assert link["records_out"] > 0


def test_nobody_is_asked_while_nobody_looks_and_nothing_is_kept_after_a_while() -> None:
    world, caller = busy()
    state = world.agents["a"].node.state
    assert (None, 0) == (state.views.looked_at, state.views.question)
    seen(world, caller)
    assert ["b", "c"] == sorted(state.views.heard)
    world.run(world.now + 20.0)
    question = state.views.question
    world.run(world.now + 10.0)
    assert question == state.views.question
    assert ["b", "c"] == sorted(state.views.heard)
    world.run(world.now + LOOKED_FOR_S)
    assert (None, {}, {}) == (state.views.looked_at, state.views.heard, state.views.listed)


def test_a_dead_nodes_part_grows_old_and_goes() -> None:
    world, caller = busy()
    seen(world, caller)
    world.kill("c")
    assert seen(world, caller, 6)["c"]["age_s"] > 10
    assert "c" not in seen(world, caller, 60)


def test_links_that_only_looks_needed_close_and_the_work_goes_on() -> None:
    world, caller = busy("abcd", NodeOptions(pool=PoolOptions(idle_close_s=30.0)))
    seen(world, caller)
    assert 3 == len(json.decode(caller.query("links").body))
    world.run(world.now + LOOKED_FOR_S)
    assert [] == json.decode(caller.query("links").body)


def test_half_of_the_links_stay_free_for_work() -> None:
    world, caller = busy("abcdef", NodeOptions(pool=PoolOptions(links_max=4)))
    nodes = seen(world, caller)
    assert 6 == len(nodes)
    assert 2 == len(json.decode(caller.query("links").body))
    assert 3 == sum(node["view"] is not None for node in nodes.values())


def test_no_dials_where_none_are_wanted() -> None:
    world, caller = busy("abc", NodeOptions(view=ViewOptions(view_dials_max=0)))
    nodes = seen(world, caller)
    assert [True, True, False] == [nodes[name]["view"] is not None for name in "abc"]


def test_only_the_answer_to_the_latest_question_counts() -> None:
    one, peer = looking()
    peer.say(Report(1, True, json.encode(EMPTY)), now=1.0)
    assert {} == one.state.views.heard
    first, second = asked(one, peer, 4.0), asked(one, peer, 7.0)
    peer.say(Report(first, True, json.encode(EMPTY)), now=7.0)
    assert {} == one.state.views.heard
    peer.say(Report(second, True, json.encode(EMPTY)), now=7.1)
    assert 7.1 == one.state.views.heard["p"].at


def test_what_is_no_view_is_noted_and_dropped() -> None:
    bad = (
        Report(1, False, b"no"),
        Report(1, True, b"{}"),
        Report(1, True, b"\xff"),
        Report(1, True, b" " * (VIEW_BYTES_MAX + 1)),
        Report(1, True, json.encode(NodeView("q", 1, "serving", 1.0, 0.0, None, [], [], []))),
    )
    for report in bad:
        one, peer = looking()
        assert 1 == asked(one, peer, 4.0)
        assert ["view_malformed"] == noted(peer.say(report, now=4.0))
        assert {} == one.state.views.heard


def test_no_more_agents_are_kept_than_the_limit() -> None:
    one, peer = looking(NodeOptions(view=ViewOptions(view_nodes_max=1)))
    one.agents([agent("y"), agent("b"), agent("x")], 1.0)
    assert (["b"], 2) == (list(one.state.views.listed), one.state.views.unlisted)
    peer.say(Report(asked(one, peer, 4.0), True, json.encode(EMPTY)), now=4.0)
    other = Peer(one, hello=None)
    one.state.views.asked["q"] = 1
    other.link.peer = "q"
    one.viewing.told(other.link, Report(1, True, json.encode(EMPTY)), 4.0)
    assert ["p"] == list(one.state.views.heard)


def test_a_matchmaker_that_is_away_leaves_what_it_said_last() -> None:
    one, _ = looking()
    one.agents([agent("b")], 1.0)
    one.agents([], 2.0)
    assert ["b"] == list(one.state.views.listed)


def test_agents_that_were_found_for_somebody_else_are_not_kept() -> None:
    one = lone_node()
    one.agents([agent("c")], 1.0)
    assert {} == one.state.views.listed


def test_the_matchmaker_is_asked_now_and_then() -> None:
    one, _ = looking()
    times = []
    for at in (4.0, 6.5, 9.5):
        one.tick(at)
        times.append(sum(isinstance(effect, FindAgents) for effect in one.take(at).effects))
    assert [1, 0, 1] == times


def test_a_peer_is_told_a_view_and_nothing_else() -> None:
    peer = Peer(lone_node())
    (good,) = peer.hears(Query(5, "view"))
    assert isinstance(good, Report)
    assert (5, True, "b") == (good.seq, good.ok, json.decode(good.body)["node"])
    (bad,) = peer.hears(Query(6, "status"))
    assert isinstance(bad, Report)
    assert (6, False, b"this agent tells its peers 'view', and not 'status'") == (bad.seq, bad.ok, bad.body)


def test_a_view_is_made_once_for_all_that_ask_within_a_moment() -> None:
    one = lone_node()
    peer = Peer(one)
    peer.hears(Query(1, "view"), now=2.0)
    said = one.state.views.said
    peer.hears(Query(2, "view"), now=2.4)
    assert said is one.state.views.said
    peer.hears(Query(3, "view"), now=2.6)
    assert json.decode(said)["clock_s"] < json.decode(one.state.views.said)["clock_s"]


def test_a_peer_that_asks_without_end_gets_little_for_it() -> None:
    one = lone_node()
    peer = Peer(one)
    reports = peer.hears(*(Query(seq, "view") for seq in range(9)), now=2.0)
    assert [True] * 4 + [False] * 5 == [report.ok for report in reports if isinstance(report, Report)]
    (later,) = peer.hears(Query(9, "view"), now=2.6)
    assert isinstance(later, Report)
    assert later.ok


def test_rows_are_left_out_until_a_view_fits_and_it_says_how_many() -> None:
    one = lone_node()
    for session in range(2000):
        one.state.apps[session] = AppState(session, 1, "n" * 200, "", None)
    view = view_of(one.state, one.options, {}, 2.0)
    decoded = json.decode(view)
    assert len(view) <= VIEW_BYTES_MAX
    assert 2000 == len(decoded["apps"]) + decoded["left_out"]


def test_a_view_has_what_the_shell_knows_and_says_how_the_agent_is() -> None:
    one = lone_node()
    facts = {"loop_lag_ms": 3.5, "matchmaker": {"reachable": True}}
    assert ("serving", 3.5, True) == told_by(one, facts)
    one.state.draining = True
    assert ("draining", 0.0, None) == told_by(one, {})
    one.state.stopping = True
    assert ("stopping", 0.0, None) == told_by(one, {})


def told_by(one: Node, facts: dict[str, object]) -> tuple[str, float, bool | None]:
    view = json.decode(view_of(one.state, one.options, facts, 2.0), type=NodeView)
    return view.state, view.lag_ms, view.matchmaker


def test_a_large_fleet_is_told_page_by_page() -> None:
    one, _ = looking(NodeOptions(link=LinkOptions()))
    one.agents([agent(f"n{number}") for number in range(9)], 1.0)
    names: list[str] = []
    after = ""
    while True:
        page = json.decode(fleet_of(one.state, one.options, {}, 2.0, after, bytes_max=500))
        names += [node["node"] for node in page["nodes"]]
        after = page["next"]
        if not after:
            break
        assert len(page["nodes"]) < 9
    assert ["b", *(f"n{number}" for number in range(9)), "p"] == names
