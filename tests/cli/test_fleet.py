"""`topology` and `top`: the whole fleet, as the local agent sees it."""

import json
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient

pytestmark = pytest.mark.io


def link(peer: str, records: int = 10, **changes: Any) -> dict[str, Any]:
    row = {"peer": peer, "persistent": True, "condition": "alive", "rtt_ms": 0.25, "in_flight": 1}
    return row | {"records_in": records, "records_out": 0, "bytes_in": 1, "bytes_out": 1} | changes


def view(node: str, clock_s: float = 1.0, **changes: Any) -> dict[str, Any]:
    row = {"node": node, "incarnation": 5, "state": "serving", "clock_s": clock_s, "lag_ms": 0.1, "matchmaker": True}
    return row | {"links": [], "topics": [], "apps": [], "left_out": 0} | changes


def row(node: str, said: dict[str, Any] | None, age_s: float | None = 0.5, **changes: Any) -> dict[str, Any]:
    known = {"node": node, "endpoint": f"{node}:7441", "zone": "", "listed": True, "linked": True}
    return known | {"condition": "alive", "age_s": age_s if said else None, "view": said} | changes


def app(name: str, serves: list[str], calls: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": "shop",
        "attached": True,
        "outstanding": 0,
        "serves": [{"topic": topic, "server": "[s]"} for topic in serves],
        "calls": [{"topic": topic, "ago_s": 0.1} for topic in calls],
    }


def seen(*rows: dict[str, Any], next: str = "", unlisted: int = 0) -> dict[str, Any]:
    return {"fleet": "f", "node": "a", "view_s": 0.01, "nodes": list(rows), "unlisted": unlisted, "next": next}


HOT = [{"namespace": "shop", "topic": "orders", "hot": True, "rate": 12.34}]
A = row("a", view("a", links=[link("b")], apps=[app("web", [], ["orders"])], topics=HOT))
B = row("b", view("b", links=[link("a")], apps=[app("store", ["orders"], [])]))


def client(*looks: dict[str, Any]) -> FakeClient:
    """A client whose agent says these, one after the other, and then the last for ever."""
    left = list(looks)
    return FakeClient(answer=lambda *_: left.pop(0) if len(left) > 1 else left[0])


def test_a_tree_shows_agents_links_apps_and_whom_they_call(run: Run) -> None:
    ran = run("topology", client=client(seen(A, B)))
    assert 0 == ran.status
    for text in (
        "fleet f, as a sees it",
        "a serving",
        "link to b: persistent, 0.25 ms",
        "app shop|web",
        "calls orders",
    ):
        assert text in ran.out
    assert "serves orders@[s]" in ran.out


def test_it_waits_until_all_were_heard_of(run: Run) -> None:
    looks = (seen(row("a", view("a"), listed=False)), seen(A, row("b", None)), seen(A, B))
    ran = run("topology", "--json", client=client(*looks))
    assert (0, seen(A, B)) == (ran.status, json.loads(ran.out))


def test_who_was_not_heard_of_is_shown_and_told_by_the_exit_status(run: Run) -> None:
    ran = run("topology", "--wait", "0", client=client(seen(A, row("b", None), unlisted=3)))
    assert 1 == ran.status
    assert "b not heard of" in ran.out
    assert "3 agents beyond view_nodes_max" in ran.out


def test_all_pages_of_a_large_fleet_are_read(run: Run) -> None:
    ran = run("topology", "--json", client=client(seen(A, next="a"), seen(B)))
    assert ["a", "b"] == [node["node"] for node in json.loads(ran.out)["nodes"]]


def test_a_graph_for_graphviz_has_every_link_once(run: Run) -> None:
    ran = run("topology", "--dot", client=client(seen(A, B)))
    assert ran.out.startswith("graph mesh {")
    assert 1 == ran.out.count('"agent a" -- "agent b" [style=bold];')
    assert '"app shop|web at a" -- "topic shop|orders" [dir=forward, label=calls];' in ran.out
    assert 2 == run("topology", "--dot", "--json", client=client(seen(A))).status


def test_top_shows_states_and_rates_of_two_looks(run: Run) -> None:
    doubted = row("b", view("b", clock_s=2.0, links=[link("a", 30)]), condition="suspect")
    later = seen(row("a", view("a", clock_s=2.0, links=[link("b", 35, condition="suspect")], topics=HOT)), doubted)
    ran = run("top", "--once", client=client(seen(A, B), later))
    assert 0 == ran.status
    for text in ("suspect to a", "a - b", "25/s", "shop|orders", "12.3/s"):
        assert text in ran.out


def test_states_are_told_apart(run: Run) -> None:
    rows = (
        row("a", view("a")),
        row("d", view("d", state="draining")),
        row("m", view("m", matchmaker=False)),
        row("s", view("s"), age_s=30.0),
    )
    out = run("top", "--once", client=client(seen(*rows))).out
    for text in ("draining", "its matchmaker does not answer", "silent for 30.0 s"):
        assert text in out
