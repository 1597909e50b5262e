"""Flow control, serving apps that die, and drains, with real agents and real apps."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import mesh
from tests.system.agents import ROOT, Agent, Fleet, until

pytestmark = pytest.mark.system

SERVER = """
import os, sys, time, mesh
client = mesh.connect(app="server", socket=sys.argv[1])
log = open(sys.argv[2], "a", buffering=1)

@client.serve("work", workers=2)
def work(message):
    print(message.kind, message.body.decode(), os.getpid(), file=log)
    time.sleep(float(sys.argv[3]))
    return message.body

client.run()
"""


@contextmanager
def server(agent: Agent, log: Path, takes_s: float) -> Iterator[subprocess.Popen[bytes]]:
    """A process that serves ``work``, writes down what it begins, and takes so long for each."""
    log.touch()
    command = [sys.executable, "-c", SERVER, str(agent.socket_path), str(log), str(takes_s)]
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def begun(log: Path) -> list[tuple[str, str]]:
    """The kind and body of what a server has begun."""
    return [(line.split()[0], line.split()[1]) for line in log.read_text().splitlines()]


def behind(gate: threading.Event) -> Callable[[mesh.Message], bytes]:
    """A handler that ends when the gate is open."""

    def handle(message: mesh.Message) -> bytes:
        assert gate.wait(30)
        return b"done"

    return handle


def echo_soon(message: mesh.Message) -> bytes:
    """A handler that takes a little while."""
    time.sleep(0.002)
    return message.body


def rss_mib(pid: int) -> float:
    """Return the memory that a process has in use."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def test_a_serving_app_that_is_killed_fails_what_it_had_begun_at_once_and_nothing_else(
    fleet: Fleet, tmp_path: Path
) -> None:
    a, b, c = (fleet.start(node) for node in "abc")
    with ExitStack() as stack:
        doomed = stack.enter_context(server(b, tmp_path / "b.begun", 60.0))
        until(lambda: a.query("topics") is not None, "the agent answers")
        caller = stack.enter_context(mesh.connect(app="caller", socket=a.socket_path))
        calls = [caller.call_async("work", b"call%d" % n, timeout_s=60, wait=True) for n in range(6)]
        until(lambda: len(begun(tmp_path / "b.begun")) == 2, "both workers are busy")
        idempotent = caller.call_async("work", b"again", timeout_s=60, idempotent=True)
        casts = [caller.cast_async("work", b"cast%d" % n, ttl_s=60, confirm=True) for n in range(3)]
        caller.flush()
        stack.enter_context(server(c, tmp_path / "c.begun", 0.01))
        until(lambda: any(row["instances"][1:] for row in a.query("topics")), "the second is known")
        killed_at = time.monotonic()
        doomed.kill()
        lost = [call for call in calls if isinstance(call.exception(30), mesh.Indeterminate)]
        noticed_s = time.monotonic() - killed_at
        assert 2 == len(lost), [call.exception() for call in calls]
        assert noticed_s < 30, "not at the timeout of 60 s"
        answered = {call.result(0).body for call in calls if call not in lost}
        assert 4 == len(answered)
        assert b"again" == idempotent.result(30).body
        for cast in casts:
            cast.result(30)
    ran = Counter(begun(tmp_path / "b.begun") + begun(tmp_path / "c.begun"))
    assert all(count == 1 for (kind, body), count in ran.items() if kind == "call" and body != "again")


@pytest.mark.alone
def test_an_app_that_never_reads_costs_bounded_memory_and_nobody_elses_latency(fleet: Fleet) -> None:
    mib = 1 << 20
    limits = {"queue_bytes": 8 * mib, "handed_bytes": 4 * mib, "outstanding_bytes": 16 * mib}
    a, b = (fleet.start(node, delivery=limits, recorder={"recorder_on": False}) for node in "ab")
    with ExitStack() as stack:
        stuck = stack.enter_context(b.app("stuck"))
        stuck.serve("stuck", "s", prefetch=100_000)
        stack.enter_context(b.echo("echo"))
        flood = stack.enter_context(mesh.connect(app="flood", socket=a.socket_path, wait_for_room=False))
        traffic = stack.enter_context(a.traffic("echo"))
        before = [rss_mib(agent.reactor_pid) for agent in (a, b)]
        ending = threading.Event()
        sent = Counter[str]()

        def send() -> None:
            while not ending.is_set():
                try:
                    flood.cast("stuck", bytes(64 << 10), ttl_s=60, wait=True)
                    sent["held"] += 1
                except mesh.Overloaded as error:
                    sent[error.limit] += 1
                    time.sleep(0.001)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            until(lambda: sent["outstanding_bytes"] > 200, "the limit of the app is reached")
            served = traffic.answered
            until(lambda: traffic.answered > served + 200, "others are answered meanwhile")
        finally:
            ending.set()
            thread.join()
        grown = [rss_mib(agent.reactor_pid) - was for agent, was in zip((a, b), before, strict=True)]
        assert [] == traffic.failures
        assert traffic.slowest_s < 5
        # Each body is held once at its caller's agent, and at the other in the queue, or handed and in the socket.
        assert grown[0] < 3 * 16, (grown, sent)
        assert grown[1] < 3 * (8 + 4), (grown, sent)


def test_a_full_queue_is_told_at_once_with_a_hint_and_waited_for_on_request(fleet: Fleet) -> None:
    a, b = fleet.start("a", delivery={"queue_records": 4}), fleet.start("b", delivery={"queue_records": 4})
    gate = threading.Event()
    with ExitStack() as stack:
        app = stack.enter_context(mesh.connect(app="slow", socket=b.socket_path))
        app.serve("slow", behind(gate), workers=1)
        caller = stack.enter_context(mesh.connect(app="caller", socket=a.socket_path))
        calls = [caller.call_async("slow", timeout_s=60, wait=True) for _ in range(5)]
        until(lambda: b.query("status")["unfinished"] == 5, "one runs and four wait")
        with pytest.raises(mesh.Overloaded) as raised:
            caller.call("slow", timeout_s=60)
        assert ("queue_records", True) == (raised.value.limit, 0 < raised.value.retry_after_s <= 6.5)
        patient = caller.call_async("slow", timeout_s=60, wait_for_room=True)
        patient_cast = caller.cast_async("slow", ttl_s=60, confirm=True)
        caller.flush()
        gate.set()
        assert b"done" == patient.result(60).body
        patient_cast.result(60)
        assert [b"done"] * 5 == [call.result(60).body for call in calls]


def test_every_agent_of_a_fleet_is_restarted_in_turn_and_no_call_fails(fleet: Fleet) -> None:
    agents = [fleet.start(node) for node in "abcde"]
    failures: list[BaseException] = []
    done = Counter[str]()
    ending = threading.Event()
    with ExitStack() as stack:
        for agent in agents:
            app = stack.enter_context(mesh.connect(app="server", socket=agent.socket_path))
            app.serve("work", echo_soon)
            app.serve(f"only-{agent.node}", lambda message: message.body)
        callers = [stack.enter_context(mesh.connect(app="caller", socket=agent.socket_path)) for agent in agents]
        for caller in callers:
            caller.call("work", wait=True)
            for other in agents:
                caller.call(f"only-{other.node}", wait=True)

        def load(caller: mesh.Client, number: int) -> None:
            topics = ["work", "work"] + [f"only-{agent.node}" for agent in agents]
            while not ending.is_set():
                topic = topics[sum(done.values()) % len(topics)]
                try:
                    caller.call(topic, b"x", timeout_s=30)
                    done[f"{number}"] += 1
                except mesh.MeshError as error:
                    failures.append(error)
                time.sleep(0.005)

        threads = [threading.Thread(target=load, args=pair) for pair in zip(callers, range(5), strict=True)]
        for thread in threads:
            thread.start()
        try:
            for agent in agents:
                before = dict(done)
                assert 0 == agent.stop(60)
                agent.spawn()
                agent.expect("reactor_ready")
                until(lambda b=before: all(done[n] > b.get(n, 0) + 5 for n in map(str, range(5))), "all go on")  # type: ignore[misc]
        finally:
            ending.set()
            for thread in threads:
                thread.join()
    assert [] == failures, (failures[:3], done)


def mesh_command(agent: Agent, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command against an agent."""
    command = [sys.executable, "-m", "mesh.cli", *arguments, "--socket", str(agent.socket_path)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)


def test_an_agent_is_drained_and_takes_work_again_by_command(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with ExitStack() as stack:
        app = stack.enter_context(mesh.connect(app="server", socket=b.socket_path))
        gate = threading.Event()
        app.serve("work", behind(gate), workers=1)
        caller = stack.enter_context(mesh.connect(app="caller", socket=a.socket_path))
        running = caller.call_async("work", timeout_s=60, wait=True)
        until(lambda: b.query("status")["unfinished"] == 1, "it runs")
        waited = mesh_command(b, "drain", "--wait", "--timeout-s", "0.5")
        assert (1, "") == (waited.returncode, waited.stdout)
        assert "1 of what runs there has not ended" in waited.stderr
        assert b.query("status")["draining"]
        later = caller.call_async("work", timeout_s=60)
        gate.set()
        assert b"done" == running.result(60).body
        assert 0 == mesh_command(b, "drain", "--wait").returncode
        assert json.loads(mesh_command(b, "status", "--json").stdout)["draining"]
        assert not later.done()
        assert 0 == mesh_command(b, "drain", "--resume").returncode
        assert b"done" == later.result(60).body
        assert not b.query("status")["draining"]


def test_only_its_own_user_and_root_drain_an_agent(fleet: Fleet) -> None:
    a = fleet.start("a")
    fleet.directory.chmod(0o755)
    a.socket_path.chmod(0o666)
    program = """
import os, sys
from pathlib import Path
from tests.system.raw_app import RawApp
os.chdir(sys.argv[1])
os.setgid(65_534)
os.setuid(65_534)
try:
    RawApp(Path("a.sock")).query("drain")
except AssertionError as error:
    print(error)
"""
    command = [sys.executable, "-c", program, str(fleet.directory)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    assert "only root and the agent's own user (0) may give it orders, and you are user 65534" in done.stdout
    assert not a.query("status")["draining"]


def test_two_signals_in_one_moment_are_one(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with ExitStack() as stack:
        app = stack.enter_context(mesh.connect(app="server", socket=b.socket_path))
        gate = threading.Event()
        app.serve("work", behind(gate))
        caller = stack.enter_context(mesh.connect(app="caller", socket=a.socket_path))
        running = caller.call_async("work", timeout_s=60, wait=True)
        until(lambda: b.query("status")["unfinished"] == 1, "it runs")
        b.send(signal.SIGTERM)
        time.sleep(0.1)
        b.send(signal.SIGTERM)
        b.expect("draining")
        gate.set()
        assert b"done" == running.result(60).body
        assert 0 == b.wait()
