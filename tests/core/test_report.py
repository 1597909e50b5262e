"""What an agent tells of itself."""

from typing import Any

from msgspec import json

from mesh.core.context import NodeOptions
from mesh.core.health import Vitals
from mesh.core.heat import HeatOptions
from mesh.core.outbox import OutboxOptions
from mesh.core.policy import Rule
from mesh.core.records import BODY_INLINE_MAX, Flag, GiveBack, Status
from mesh.core.report import REPORTS, vitals
from mesh.sim.world import World
from tests.core.fabric import App, fleet, hold, obey, options


def ask(app: App, what: str) -> Any:
    report = app.query(what)
    assert report.ok, report.body
    return json.decode(report.body)


def busy(node_options: NodeOptions | None = None) -> tuple[World, App, App]:
    """A caller at a with a call that runs at b."""
    world = fleet("ab", node_options)
    server = App(world, "b", 10, hold, name="shop")
    server.serve("orders", "srv")
    caller = App(world, "a", 255, name="shell")
    world.run(1.5)
    caller.call("orders", b"x" * 100)
    world.run(2.0)
    return world, caller, server


def test_every_report_is_json_of_any_node() -> None:
    world = fleet("a")
    app = App(world, "a", 1)
    for name in REPORTS:
        assert json.decode(app.query(name).body) is not None


def test_status_says_who_the_agent_is_and_what_it_holds() -> None:
    world, caller, server = busy()
    world.agents["a"].node.facts["pid"] = 42
    here, there = ask(caller, "status"), ask(server, "status")
    assert ("a", "sim", 1001, "a:7000", False, 42) == tuple(
        here[key] for key in ("node", "fleet", "incarnation", "endpoint", "draining", "pid")
    )
    assert (1, 256, 1, 0, 0) == tuple(
        here[key] for key in ("links", "links_max", "outstanding", "waiting", "remembered")
    )
    assert ("shell", "ff", 1, 228, True, []) == tuple(
        here["apps"][0][key]
        for key in ("name", "session", "outstanding_records", "outstanding_bytes", "attached", "serves")
    )
    assert (1, [{"topic": "orders", "server": "srv"}]) == (there["remembered"], there["apps"][0]["serves"])
    assert {
        "calls": 1,
        "casts": 0,
        "fanouts": 0,
        "served": 0,
        "casts_failed": 0,
        "poisoned": 0,
        "outcomes": {},
        "limits": {},
    } == here["totals"]


def test_status_counts_outcomes() -> None:
    world = fleet("a")
    app = App(world, "a", 1)
    app.call("orders")
    world.run(2.0)
    assert {str(int(Status.UNROUTABLE)): 1} == ask(app, "status")["totals"]["outcomes"]


def test_limits_says_how_much_of_each_is_used() -> None:
    _, caller, server = busy()
    here, there = ask(caller, "limits"), ask(server, "limits")
    assert ({"used": 1, "max": 256}, {"used": 1, "max": 10_000}) == (here["links_max"], here["outstanding_records"])
    assert {"used": 1, "max": 100} == here["watches_max"]
    assert 100 < there["handed_bytes"]["used"] < there["handed_bytes"]["max"]
    assert {"used": 1} == {"used": there["ids_max"]["used"]}


def test_status_counts_refusals_by_the_limit_that_was_reached() -> None:
    world = fleet("a", options(outbox=OutboxOptions(outstanding_records=1)))
    app = App(world, "a", 1, hold)
    app.serve("orders")
    world.run(1.5)
    app.call("orders")
    app.call("orders")
    world.run(2.0)
    assert {"outstanding_records": 1} == ask(app, "status")["totals"]["limits"]


def test_status_says_whose_apps_are_and_what_the_policy_refused_by_rule() -> None:
    world = fleet("a")
    obey(world, "a", no=Rule("deny", topics=("orders",), users=("ada",)), other=Rule("deny", topics=("stock",)))
    app = App(world, "a", 1, user="ada", groups=("staff",))
    for topic in ("orders", "orders", "bills"):
        app.call(topic)
    world.run(2.0)
    status = ask(app, "status")
    assert {"default": "allow", "rules": 2, "refused": {"no": 2}} == status["policy"]
    assert ("ada", ["staff"]) == (status["apps"][0]["user"], status["apps"][0]["groups"])


def test_limits_says_how_near_apps_are_to_their_rate_and_users_to_their_connections() -> None:
    world = fleet("a", options(outbox=OutboxOptions(rate_records_per_s=1.0, rate_burst_records=10)))
    app, _ = App(world, "a", 1, user="ada"), App(world, "a", 2, user="ada")
    for _ in range(4):
        app.call("orders")
    world.run(2.0)
    limits = ask(app, "limits")
    assert {"used": 2, "max": 500} == limits["user_connections_max"]
    assert (10, True) == (limits["rate_burst_records"]["max"], 2.5 < limits["rate_burst_records"]["used"] < 3.5)
    world = fleet("a")
    assert 0 == ask(App(world, "a", 1), "limits")["rate_burst_records"]["used"]


def test_links_says_to_whom_of_what_kind_and_what_they_carry() -> None:
    world, caller, server = busy(NodeOptions(heat=HeatOptions(pin={"orders": "hot"})))
    world.run(3.5)
    (row,) = ask(caller, "links")
    assert ("b", "open", "persistent", True, ["us"], "alive", 1) == tuple(
        row[key] for key in ("peer", "phase", "kind", "dialled", "kept_by", "condition", "leases")
    )
    assert [("orders", True, "hot")] == [(topic["topic"], topic["hot"], topic["pin"]) for topic in row["topics"]]
    assert row["records_out"] >= 2 <= row["records_in"]
    assert row["bytes_out"] > 100
    (other,) = ask(server, "links")
    assert (False, ["them"], []) == (other["dialled"], other["kept_by"], other["topics"])


def test_links_shows_connections_that_are_nobodys_yet() -> None:
    world = fleet("a")
    app = App(world, "a", 1)
    world.agents["a"].node.link_accepted(world.now)
    (row,) = ask(app, "links")
    assert ("?", "unproven", "ephemeral", "unknown", None, 0, []) == tuple(
        row[key] for key in ("peer", "phase", "kind", "condition", "rtt_ms", "leases", "topics")
    )


def test_topics_says_who_serves_them_and_what_is_known_of_those_who_did() -> None:
    world, caller, _ = busy()
    caller.call("nobody", flags=Flag.WAIT)
    here = App(world, "a", 11)
    here.serve("orders")
    world.run(2.5)
    rows = {row["topic"]: row for row in ask(caller, "topics")}
    assert [("a", "a-11", "b", True, False), ("b", "srv", "a", False, False)] == [
        (one["node"], one["server"], one["session"], one["local"], one["hidden"]) for one in rows["orders"]["instances"]
    ]
    assert (True, False, []) == (rows["orders"]["known"], rows["orders"]["hot"], rows["orders"]["absent"])
    assert (1, []) == (rows["nobody"]["waiting"], rows["nobody"]["instances"])
    node = world.agents["a"].node
    entry = node.state.outbox.entries[255, 0]
    node.recovery.give_back("b", GiveBack("a", 255, 0, entry.request.dispatch, int(Status.UNROUTABLE), ""), world.now)
    world.kill("b")
    world.run(2.6)
    assert [False, True] == [one["hidden"] for one in ask(caller, "topics")[1]["instances"]]
    world.run(19.0)
    assert ["b/srv"] == ask(caller, "topics")[1]["absent"]


def test_an_answer_that_is_too_long_for_a_record_says_so() -> None:
    world = fleet("a")
    app = App(world, "a", 1)
    world.agents["a"].node.facts["notes"] = "x" * BODY_INLINE_MAX
    report = app.query("status")
    assert not report.ok
    assert b"bytes, over the 1048576 that a report may have" in report.body


def test_vitals_are_what_counts_for_an_agents_check() -> None:
    world, caller, _ = busy()
    node = world.agents["a"].node
    facts = {"lasting_lag_ms": 1500.0, "descriptors": 9, "descriptors_max": 10, "clock_behind_s": "unknown"}
    expected = Vitals(
        unfinished=1,
        lag_s=1.5,
        descriptors=9,
        descriptors_max=10,
        waiting_max=node.options.pool.waiting_records_max,
        remembered_max=node.options.inbox.ids_max,
        links=1,
    )
    assert expected == vitals(node.state, node.options, facts)
    world.kill("b")
    world.run(3.0)
    caller.call("orders")
    world.run(3.5)
    assert ("b",) == vitals(node.state, node.options, {}).lost
