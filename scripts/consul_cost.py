"""What a fleet costs its Consul: ``python -m scripts.consul_cost [SECONDS [AGENTS [TOPICS]]]``.

Ten agents with ten topics each, and everybody calls their neighbour's: once to be seen, then not at all (quiet), then
all the time (busy), and then while all apps are started anew in turn (changing). Of each it prints by the minute what
Consul's log of writes grew by, less what it writes by itself, and what agents asked Consul for.
"""

import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

import mesh
from tests.consul_server import ConsulServer
from tests.system.agents import Agent, Fleet, until

SETTLED_S = 20.0
"""Longer than what is debounced after a change, and than a refresh of the checks."""

PAUSE_S = 0.01

MATCHMAKER = {"kind": "consul", "refresh_s": 5.0}
"""As agents on many machines have it."""


def writes(consul: ConsulServer) -> int:
    """Return how many entries Consul's replicated log has: each is a write at every server."""
    return int(consul.get("/v1/agent/self")["Stats"]["raft"]["last_log_index"])


def asked(consul: ConsulServer) -> Counter[str]:
    """Return how many requests Consul has answered, by method."""
    counts: Counter[str] = Counter()
    with urlopen(f"{consul.address}/v1/agent/metrics?format=prometheus") as told:
        lines = told.read().decode().splitlines()
    for sample in lines:
        if sample.startswith("consul_api_http_count{"):
            counts[sample.partition('method="')[2].partition('"')[0]] += int(float(sample.rpartition(" ")[2]))
    return counts


def over(consul: ConsulServer, seconds: float) -> tuple[float, Counter[str]]:
    """Return by the minute how many writes and requests there were from now on for so long."""
    before = writes(consul), asked(consul)
    time.sleep(seconds)
    made = writes(consul) - before[0]
    return made * 60 / seconds, Counter({way: n * 60 / seconds for way, n in (asked(consul) - before[1]).items()})


class Apps:
    """The apps of one agent: one serves its topics, one calls those of the next."""

    def __init__(self, agent: Agent, mine: list[str], others: list[str]) -> None:
        self.agent, self.mine, self.others = agent, mine, others
        self.calling, self.ending = threading.Event(), threading.Event()
        self.calls = 0
        self.connect()

    def connect(self) -> None:
        self.server, self.client = (
            mesh.connect(app=f"{kind}-{self.agent.node}", socket=self.agent.socket_path) for kind in ("server", "web")
        )
        for topic in self.mine:
            self.server.serve(topic, lambda message: message.body)

    def close(self) -> None:
        self.server.close()
        self.client.close()

    def call_all(self) -> None:
        for topic in self.others:
            self.client.call(topic, b"", wait=True, timeout_s=60)
            self.calls += 1

    def again(self) -> None:
        """End in order, and come back as other processes would."""
        self.close()
        self.connect()
        self.call_all()

    def run(self) -> None:
        while not self.ending.is_set():
            if self.calling.is_set():
                self.call_all()
            self.ending.wait(PAUSE_S)


@contextmanager
def fleet_of(consul: ConsulServer, directory: Path, agents: int, topics: int) -> Iterator[list[Apps]]:
    """Start agents and apps; each has called each topic of its neighbour once."""
    with Fleet(directory, matchmaker=MATCHMAKER, matchmaker__consul={"address": consul.address}) as fleet:
        roles = [{"roles": ["topology_keeper"]} if n < 2 else {} for n in range(agents)]
        started = [fleet.start(f"n{n}", agent=role) for n, role in enumerate(roles)]
        served = [[f"topic-{n}-{k}" for k in range(topics)] for n in range(agents)]
        apps = [Apps(one, served[n], served[(n + 1) % agents]) for n, one in enumerate(started)]
        with ExitStack() as ending:
            for app in apps:
                ending.callback(app.close)
                app.call_all()
            edges = agents * topics
            until(lambda: drawn(consul) >= edges, "the picture is drawn", 60.0)
            yield apps


def drawn(consul: ConsulServer) -> int:
    """Return how many edges are in Consul's picture."""
    found = consul.get("/v1/catalog/node-services/heartmesh-topology") or {}
    return sum(len(service["Proxy"].get("Upstreams") or []) for service in found.get("Services") or [])


def main(seconds: float = 60.0, agents: int = 10, topics: int = 10) -> None:
    """Print the cost of a Consul alone, and of a fleet that is quiet, busy and changing."""
    # On one machine all agents are one client to Consul, which takes 200 connections of each.
    settings = {
        "telemetry": {"prometheus_retention_time": "1h"},
        "limits": {"http_max_conns_per_client": 200 * agents},
    }
    with tempfile.TemporaryDirectory() as made, ConsulServer(Path(made) / "consul", settings=settings) as consul:
        time.sleep(SETTLED_S)
        alone, _ = over(consul, seconds)
        print(f"Consul alone: {alone:.0f} writes a minute by itself")

        def show(what: str) -> None:
            written, counts = over(consul, seconds)
            ways = ", ".join(f"{n:.0f} {way}" for way, n in sorted(counts.items()))
            print(f"{what}: {max(0.0, written - alone):.0f} writes a minute; requests: {ways}", flush=True)

        begun = writes(consul), time.monotonic()
        with fleet_of(consul, Path(made), agents, topics) as apps:
            took_s = time.monotonic() - begun[1]
            print(
                f"{agents} agents with {topics} topics each began: {writes(consul) - begun[0]} writes, {took_s:.0f} s"
            )
            time.sleep(SETTLED_S)
            show("quiet")
            threads = [threading.Thread(target=app.run) for app in apps]
            for thread in threads:
                thread.start()
            for app in apps:
                app.calling.set()
            time.sleep(SETTLED_S)
            before = sum(app.calls for app in apps)
            show("busy")
            print(f"  with {(sum(app.calls for app in apps) - before) / seconds:.0f} calls a second")
            for app in apps:
                app.ending.set()
            for thread in threads:
                thread.join()
            in_turn(apps, seconds, show)


def in_turn(apps: list[Apps], seconds: float, show: Callable[[str], None]) -> None:
    """Have the apps of each agent end and begin anew once in the time that is looked at."""

    def turns() -> None:
        for app in apps:
            app.again()
            time.sleep(max(0.0, 0.8 * seconds / len(apps)))

    thread = threading.Thread(target=turns)
    thread.start()
    show("changing, each app started anew once")
    thread.join()


if __name__ == "__main__":
    main(*(int(text) for text in sys.argv[1:]))
