"""Whole meshes of real agents, driven by the real client."""

import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count

import pytest

import mesh
from tests.system.agents import WITHIN_S, Agent, Fleet, until

pytestmark = pytest.mark.system


@contextmanager
def client(agent: Agent, app: str) -> Iterator[mesh.Client]:
    with mesh.connect(app=app, socket=agent.socket_path) as connected:
        yield connected


def serve_name(apps: ExitStack, agent: Agent, topic: str) -> mesh.Client:
    """Serve a topic with an app that answers with its node's name."""
    app = apps.enter_context(client(agent, f"{topic}-{agent.node}"))
    app.serve(topic, lambda message: agent.node.encode())
    return app


def ready_instances(agent: Agent, topic: str) -> int:
    views = [row for row in agent.query("topics") if row["topic"] == topic]
    return sum(instance["health"] == "passing" for row in views for instance in row["instances"])


def test_consecutive_casts_reach_every_instance_in_turn(fleet: Fleet) -> None:
    agents = [fleet.start(node) for node in "abc"]
    served: list[str] = []
    with ExitStack() as apps:
        for agent in agents:
            app = apps.enter_context(client(agent, "worker"))
            app.serve("work", lambda message, node=agent.node: served.append(node))  # type: ignore[misc]
        caller = apps.enter_context(client(agents[0], "caller"))
        caller.cast("work", b"", confirm=True)
        until(lambda: ready_instances(agents[0], "work") == 3, "all three are known")
        served.clear()
        for _ in range(9):
            caller.cast("work", b"", confirm=True)
    assert all(set(served[turn : turn + 3]) == {"a", "b", "c"} for turn in range(7))


def test_a_fanout_reaches_every_instance_and_counts_them(fleet: Fleet) -> None:
    agents = [fleet.start(node) for node in "abc"]
    with ExitStack() as apps:
        for agent in agents:
            serve_name(apps, agent, "all")
        failing = apps.enter_context(client(agents[2], "failing"))

        @failing.serve("all")
        def fail(message: mesh.Message) -> None:
            raise ValueError("no")

        caller = apps.enter_context(client(agents[0], "caller"))
        caller.call("all", b"")
        until(lambda: ready_instances(agents[0], "all") == 4, "all four are known")
        receipt = caller.fanout("all", b"x" * 700_000, confirm=True)
    assert (4, 3, 1, 0) == (receipt.asked, receipt.finished, receipt.failed, receipt.unknown)


def test_a_topic_that_nobody_serves_is_unroutable_at_once_and_waited_for_on_request(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with ExitStack() as apps:
        caller = apps.enter_context(client(a, "caller"))
        with pytest.raises(mesh.Unroutable):
            caller.call("later", b"", timeout_s=60)
        waiting = caller.call_async("later", b"", timeout_s=60, wait=True)
        serve_name(apps, b, "later")
        assert b"b" == waiting.result(60).body


def test_descriptors_follow_peers_not_topics(fleet: Fleet) -> None:
    a, b = fleet.start("a", heat={"hot_at_per_s": 0.01, "cold_at_per_s": 0.001}), fleet.start("b")
    counts = []
    with ExitStack() as apps:
        server = apps.enter_context(client(b, "server"))
        caller = apps.enter_context(client(a, "caller"))
        done = 0
        for topics in (1, 10, 100):
            for number in range(done, topics):
                server.serve(f"topic-{number}", lambda message: b"")
                caller.call(f"topic-{number}", b"", wait=True)
            done = topics
            counts.append(a.settled_descriptors())
    assert counts[0] == counts[1] == counts[2]


def test_a_link_is_persistent_while_its_topic_is_hot_and_closes_when_it_is_idle(fleet: Fleet) -> None:
    options = {"hot_at_per_s": 5, "half_life_s": 0.5, "dwell_s": 0.5}
    a, b = fleet.start("a", heat=options, links={"idle_close_s": 1}), fleet.start("b", links={"idle_close_s": 1})
    with ExitStack() as apps:
        serve_name(apps, b, "tick")
        caller = apps.enter_context(client(a, "caller"))
        caller.call("tick", b"", wait=True)
        link = a.link_to("b")
        assert link is not None
        assert "ephemeral" == link["kind"]

        def hot() -> bool:
            caller.call("tick", b"")
            return all((agent.link_to(peer) or {}).get("kind") == "persistent" for agent, peer in ((a, "b"), (b, "a")))

        until(hot, "both ends keep the link")
        until(lambda: a.link_to("b") is None and b.link_to("a") is None, "it cooled down and closed")
        assert b"b" == caller.call("tick", b"").body


def test_peers_that_were_called_once_cost_nothing_when_they_are_idle(fleet: Fleet) -> None:
    a = fleet.start("a", links={"idle_close_s": 0.5}, heartbeat={"heartbeat_s": 1.0, "dead_after_s": 5.0})
    others = [fleet.start(f"n{number}", links={"idle_close_s": 30.0}) for number in range(6)]
    idle = []
    with ExitStack() as apps:
        caller = apps.enter_context(client(a, "caller"))
        for agent in others:
            serve_name(apps, agent, f"on-{agent.node}")
        for called in (others[:1], others):  # the first call opens the catalogue's connections, once
            for agent in called:
                assert agent.node.encode() == caller.call(f"on-{agent.node}", b"", wait=True).body
            until(lambda: not caller.query("links"), "all links are closed")
            idle.append(a.settled_descriptors())
    assert idle[0] == idle[1]


def test_more_peers_than_the_budget_are_all_served_within_it(fleet: Fleet) -> None:
    a = fleet.start("a", links={"links_max": 2, "idle_close_s": 60.0})
    others = [fleet.start(f"n{number}") for number in range(8)]
    with ExitStack() as apps:
        caller = apps.enter_context(client(a, "caller"))
        for agent in others:
            serve_name(apps, agent, f"on-{agent.node}")
        for agent in others:
            caller.call(f"on-{agent.node}", b"", wait=True, timeout_s=60)
        pending = [caller.call_async(f"on-{o.node}", b"", timeout_s=60) for _ in range(5) for o in others]
        peak = 0
        while not all(future.done() for future in pending):
            peak = max(peak, len(caller.query("links")))
        assert [o.node.encode() for _ in range(5) for o in others] == [future.result().body for future in pending]
    assert peak <= 2


@pytest.mark.parametrize(("killed", "server"), [("a", "b"), ("b", "b"), ("a", "a")], ids=["caller", "server", "both"])
def test_killing_a_reactor_under_load_fails_no_call_and_none_runs_twice(fleet: Fleet, killed: str, server: str) -> None:
    agents = {node: fleet.start(node) for node in "ab"}
    outcomes: Counter[str] = Counter()
    begun: Counter[bytes] = Counter()
    answered: Counter[bytes] = Counter()
    stop = threading.Event()
    with ExitStack() as apps:
        worker = apps.enter_context(client(agents[server], "worker"))
        caller = apps.enter_context(client(agents["a"], "caller"))

        @worker.serve("work", workers=16)
        def work(message: mesh.Message) -> bytes:
            begun.update([message.body])
            return message.body

        caller.call("work", b"first", wait=True)

        def load(thread: int) -> None:
            for number in count():
                if stop.is_set():
                    return
                body = b"%d.%d" % (thread, number)
                try:
                    answered.update([caller.call("work", body, timeout_s=60).body])
                    outcomes["reply"] += 1
                except mesh.MeshError as error:
                    outcomes[repr(error)] += 1

        threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(6):  # one that is killed more often so soon is not started again within resume_grace_s
            target = outcomes["reply"] + 100
            until(lambda target=target: outcomes["reply"] >= target, "calls go on")  # type: ignore[misc]
            agents[killed].kill_reactor()
            agents[killed].expect("reactor_ready")
        target = outcomes["reply"] + 100
        until(lambda: outcomes["reply"] >= target, "calls go on after the last kill")
        stop.set()
        for thread in threads:
            thread.join()
    assert ["reply"] == list(outcomes)
    assert {1} == {*begun.values(), *answered.values()}
    assert {*answered, b"first"} == {*begun}


SLOW_APP = """
import sys, time, mesh
with mesh.connect(app="slow", socket=sys.argv[1]) as app:
    app.serve("slow", lambda message: time.sleep(float(message.body)) or b"done", workers=4)
    print("serving", flush=True)
    time.sleep(600)
"""


def test_a_call_that_is_watched_outlasts_work_and_is_given_up_when_its_server_is_stopped(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    command = [sys.executable, "-c", SLOW_APP, str(b.socket_path)]
    with client(a, "caller") as caller, subprocess.Popen(command, stdout=subprocess.PIPE) as app:
        try:
            assert app.stdout is not None
            assert b"serving\n" == app.stdout.readline()
            assert b"done" == caller.call("slow", b"4", timeout_s=60, wait=True, monitor_s=1.5).body
            pending = caller.call_async("slow", b"600", timeout_s=600, monitor_s=1.5)
            app.send_signal(signal.SIGSTOP)
            with pytest.raises(mesh.Indeterminate, match="its app at b showed no sign of life for 1.5 s"):
                pending.result(WITHIN_S)
        finally:
            app.kill()


def test_heartbeats_pass_between_the_chunks_of_large_bodies(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with ExitStack() as apps:
        server = apps.enter_context(client(b, "server"))
        server.serve("size", lambda message: str(len(message.body)).encode())
        caller = apps.enter_context(client(a, "caller"))
        caller.call("size", b"", wait=True)
        large = [caller.call_async("size", bytes(24 << 20), timeout_s=60) for _ in range(2)]
        small = 0
        while not all(future.done() for future in large):
            caller.call("size", b"x", timeout_s=60)
            small += 1
        assert [str(24 << 20).encode()] * 2 == [future.result().body for future in large]
    assert small > 0
    assert not a.noted("link_lost")
    with pytest.raises(mesh.Rejected), client(a, "greedy") as greedy:
        greedy.call("size", bytes((64 << 20) + 1))


def test_ipv6_carries_a_link(fleet: Fleet) -> None:
    a = fleet.start("a", agent={"bind": ["::1"]})
    b = fleet.start("b", agent={"bind": ["::1", "127.0.0.1"]})
    with ExitStack() as apps:
        serve_name(apps, b, "six")
        caller = apps.enter_context(client(a, "caller"))
        assert b"b" == caller.call("six", b"", wait=True).body
        assert b.query("status")["endpoint"].startswith("[::1]:")


def test_a_service_that_leaves_in_order_is_unroutable_at_once(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with client(a, "caller") as caller:
        with client(b, "server") as server:
            server.serve("brief", lambda message: b"")
            caller.call("brief", b"", wait=True)
        begun = time.monotonic()

        def gone() -> bool:
            try:
                caller.call("brief", b"", timeout_s=60)
            except mesh.Unroutable:
                return True
            return False

        until(gone, "nobody serves it")
        assert time.monotonic() - begun < 60, "within the directory's grace, which is for those who said nothing"
