"""What Prometheus reads: every report's numbers, in base units, with bounded labels."""

from typing import Any

from msgspec import json
from prometheus_client.parser import text_string_to_metric_families

from mesh.agent.metrics import LABELS_MAX, expose
from mesh.core.report import REPORTS
from mesh.sim.world import World
from tests.core.fabric import App, fleet

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def reports(world: World, node: str) -> list[Any]:
    one = world.agents[node].node
    return [
        json.decode(REPORTS[name](one.state, one.options, one.facts, {}, world.now))
        for name in ("status", "links", "topics", "limits")
    ]


def read(text: bytes) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def busy() -> World:
    world = fleet("ab")
    server, caller = App(world, "b", 10), App(world, "a", 20)
    server.serve("orders")
    world.run(1.5)
    caller.call("orders")
    caller.call("nobody")
    world.run(3.0)
    return world


def test_what_an_agent_reports_is_there() -> None:
    world = busy()
    world.agents["a"].node.facts.update(
        loop_lag_ms=250.0, matchmaker={"reachable": True, "registered": 1, "to_register": 2}
    )
    found = read(expose(*reports(world, "a")))
    expected: Samples = {
        ("heartmesh_requests_total", (("kind", "call"),)): 2,
        ("heartmesh_outcomes_total", (("outcome", "unroutable"),)): 1,
        ("heartmesh_outcomes_total", (("outcome", "indeterminate"),)): 0,
        ("heartmesh_links", (("kind", "ephemeral"),)): 1,
        ("heartmesh_limit_used", (("limit", "links_max"),)): 1,
        ("heartmesh_limit_max", (("limit", "links_max"),)): 256,
        ("heartmesh_loop_lag_seconds", ()): 0.25,
        ("heartmesh_matchmaker_reachable", ()): 1,
        ("heartmesh_topic_instances", (("namespace", ""), ("topic", "orders"))): 1,
        ("heartmesh_apps_attached", ()): 1,
    }
    assert expected == {key: found.get(key) for key in expected}
    assert ("heartmesh_link_rtt_seconds", (("peer", "b"),)) in found


def test_connections_that_came_to_nothing_are_there_by_machine() -> None:
    world = busy()
    refused = [("?", "10.0.0.9:5001", 100.0), ("b", "[::1]:7441", 150.0), ("?", "10.0.0.9:5002", 200.5)]
    world.agents["a"].node.facts["refused"] = [
        {"at": at, "peer": peer, "address": address, "why": "no key"} for peer, address, at in refused
    ]
    name = "heartmesh_connection_refused_timestamp_seconds"
    found = {key[1]: value for key, value in read(expose(*reports(world, "a"))).items() if key[0] == name}
    assert {(("host", "10.0.0.9"), ("peer", "?")): 200.5, (("host", "[::1]"), ("peer", "b")): 150.0} == found


def test_everything_is_named_ours() -> None:
    assert {"heartmesh"} == {name.split("_")[0] for name, _ in read(expose(*reports(busy(), "a")))}


def test_topics_and_peers_beyond_the_bound_have_no_label_of_their_own() -> None:
    status, links, _, limits = reports(busy(), "a")
    topics = [
        {"topic": f"t{n:03}", "namespace": "", "rate": 1.0 + (n == 99), "hot": True, "waiting": 2, "instances": [1]}
        for n in range(100)
    ]
    links = [links[0] | {"peer": f"p{n}", "rtt_ms": 1.0} for n in range(100)]
    found = read(expose(status, links, topics, limits))
    rates = {dict(labels)["topic"]: v for (name, labels), v in found.items() if name.endswith("requests_per_second")}
    assert LABELS_MAX + 1 == len(rates)
    assert (2.0, 50.0) == (rates["t099"], rates["other"])
    assert LABELS_MAX == sum(name == "heartmesh_link_rtt_seconds" for name, _ in found)


def test_what_the_policy_refused_is_there_by_rule_within_the_bound() -> None:
    status, links, topics, limits = reports(busy(), "a")
    status["policy"]["refused"] = {f"r{n:03}": n for n in range(1, 101)}
    found = read(expose(status, links, topics, limits))
    counts = {
        dict(labels)["rule"]: v for (name, labels), v in found.items() if name == "heartmesh_policy_refusals_total"
    }
    assert LABELS_MAX + 1 == len(counts)
    assert (100, 51, sum(range(1, 51))) == (counts["r100"], counts["r051"], counts["other"])
