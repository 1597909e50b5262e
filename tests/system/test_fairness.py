"""One app floods its agent: others complete all they ask for, and how long that takes is printed."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import mesh
from tests.system.agents import ROOT, Agent, Fleet, until

pytestmark = pytest.mark.system

CALLS, CALLERS = 300, 3

FLOOD = """
import socket, sys, threading
from pathlib import Path
from mesh.core.codec import RECORDS_MAX
from mesh.core.records import Kind, Request
from tests.system.raw_app import RawApp

app = RawApp(Path(sys.argv[1]), "flood")

def read():
    while app.socket.recv(1 << 20):
        pass

threading.Thread(target=read, daemon=True).start()
app.socket.settimeout(None)
print("floods", flush=True)
seq = 1
while True:
    app.send(*(Request(int(Kind.CALL), seq + n, "nobody", "", 60_000, b"x" * 64, 0, seq) for n in range(RECORDS_MAX)))
    seq += RECORDS_MAX
"""

BURN = """
print("burns", flush=True)
while True:
    pass
"""

CALLER = f"""
import json, sys, time
import mesh

took, failures = [], []
with mesh.connect(app="caller", socket=sys.argv[1]) as client:
    client.call("work", wait=True, timeout_s=60)
    for _ in range({CALLS}):
        begun = time.monotonic()
        try:
            client.call("work", b"x" * 64, timeout_s=30)
        except mesh.OutcomeError as error:
            failures.append(repr(error))
        took.append(time.monotonic() - begun)
        time.sleep(0.002)
print(json.dumps([took, failures]))
"""


@contextmanager
def program(text: str, agent: Agent) -> Iterator[subprocess.Popen[str]]:
    """A process that has said that it begins."""
    command = [sys.executable, "-c", text, str(agent.socket_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def measure(agent: Agent) -> list[float]:
    """Have callers call at once, each from a process of its own; return how long their calls took, in order."""
    ends: list[tuple[list[float], list[str]]] = []

    def call() -> None:
        command = [sys.executable, "-c", CALLER, str(agent.socket_path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
        ends.append(json.loads(done.stdout))

    threads = [threading.Thread(target=call) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == [failure for _, failures in ends for failure in failures]
    took = sorted(second for times, _ in ends for second in times)
    assert CALLS * CALLERS == len(took)
    return took


def shown(what: str, took: list[float]) -> str:
    p50, p99 = (took[len(took) * part // 100] * 1000 for part in (50, 99))
    return f"{what:<42} p50 {p50:7.2f} ms   p99 {p99:7.2f} ms   longest {took[-1] * 1000:7.2f} ms"


@pytest.mark.timeout(240)
def test_one_app_floods_and_the_others_complete_all(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    a = fleet.start("a")
    lines = []
    with ExitStack() as stack:
        server = stack.enter_context(mesh.connect(app="server", socket=a.socket_path))
        server.serve("work", lambda message: message.body, workers=4)
        lines.append(shown("alone", measure(a)))
        with program(BURN, a):
            lines.append(shown("beside a process that burns a processor", measure(a)))
        with program(FLOOD, a) as flood:
            before = a.query("status")["totals"]["outcomes"].get("2", 0)
            used = cpu_s(flood.pid), a.cpu_s()
            lines.append(shown("beside an app that floods the agent", measure(a)))
            flooded = until(lambda: a.query("status")["totals"]["outcomes"].get("2", 0) - before, "the flood was real")
            used = cpu_s(flood.pid) - used[0], a.cpu_s() - used[1]
    lines.append(f"the flood: {flooded} calls, {used[0]:.1f} s of processor, and {used[1]:.1f} s of the agent's")
    with capsys.disabled():
        print("", *lines, sep="\n")
    assert flooded > 10 * CALLS * CALLERS
