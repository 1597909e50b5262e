"""Faults of what an agent stands on: the matchmaker, the disk, descriptors; and crowds at its doors."""

import contextlib
import os
import resource
import socket
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.consul_server import ConsulServer
from tests.system.agents import Agent, over_consul, until
from tests.system.faults.stage import Result, Stage

__all__ = ["consul_outages", "crowds", "full_disks", "no_descriptors"]

DESCRIPTORS_MAX = 2 * 1000 + 64 + 100
"""Two for each of ``app_connections_max``, one for each of ``inbound_unproven_max``, and those of an agent at work."""

DESCRIPTORS_AFTER_MAX = 100
OUTAGE_S = 3.0
DISK_BYTES = 1 << 20


# Consul


def _is_whole(stage: Stage, consul: ConsulServer) -> bool:
    """Whether Consul knows every instance again, and every agent says that it reaches it."""
    with contextlib.suppress(RuntimeError, OSError):
        known = consul.get("/v1/health/service/heartmesh-topic-work?passing=true")
        reached = [agent.query("status")["matchmaker"]["reachable"] for agent in stage.agents.values()]
        return len(known) == len(stage.servers) and all(reached)
    return False


def consul_outages(directory: Path, seed: int, rounds: int) -> Result:
    """Consul is stopped, or wiped, and comes back; what is known stays in use."""
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        consul = stack.enter_context(ConsulServer(directory / "consul"))
        stage = stack.enter_context(Stage(directory, seed, **over_consul(consul.address)))
        for number in range(rounds):
            is_wiped = number % 2
            stage.fault(f"Consul {'stopped and wiped' if is_wiped else 'stopped'} for {OUTAGE_S:g} s")
            consul.stop()
            if is_wiped:
                consul.wipe()
            time.sleep(OUTAGE_S)
            stage.recovered()
            consul.start()
            until(lambda: _is_whole(stage, consul), "all is registered again")
            stage.recovered()
    return stage.result()


# The disk


@contextmanager
def _small_disk(path: Path) -> Iterator[None]:
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "mesh-test", str(path)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        raise RuntimeError(f"{' '.join(command)}: {mounted.stderr.strip()}; it needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@contextmanager
def _filled(path: Path) -> Iterator[None]:
    """Leave no byte free below a path."""
    filler = path / "filler"
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):
        for size in (65_536, 1):
            with contextlib.suppress(OSError):
                while os.write(fd, b"x" * size):
                    pass
    os.close(fd)
    try:
        yield
    finally:
        filler.unlink()


def full_disks(directory: Path, seed: int, rounds: int) -> Result:
    """The data directory's disk is full while a reactor is killed: the agent lives, and is itself again at once."""
    disks = {node: directory / f"disk-{node}" for node in ("a", "b")}
    with ExitStack() as stack:
        for disk in disks.values():
            stack.enter_context(_small_disk(disk))
        each = {node: {"agent": {"data_dir": str(disk / "data")}} for node, disk in disks.items()}
        stage = stack.enter_context(Stage(directory, seed, each=each))
        for number in range(rounds):
            node = ("b", "a")[number % 2]
            with _filled(disks[node]):
                stage.fault(f"{'caller' if node == 'a' else 'server'}'s disk full, its reactor killed")
                stage.agents[node].kill_reactor()
                stage.agents[node].expect("reactor_ready")
                stage.recovered()
            stage.calm()
    return stage.result()


# Descriptors


def no_descriptors(directory: Path, seed: int, rounds: int) -> Result:
    """A reactor at its limit of open files, with strangers at both doors, goes on with what it has."""
    with Stage(directory, seed, agent={"app_connections_max": 1000}) as stage:
        for number in range(rounds):
            node = stage.nodes[number % 2]
            agent = stage.agents[node]
            pid = agent.reactor_pid
            _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (agent.settled_descriptors() + 10, hard))
            stage.fault(f"{'caller' if node == 'a' else 'server'}'s RLIMIT_NOFILE reached")
            with ExitStack() as crowd:
                for _ in range(40):
                    crowd.enter_context(contextlib.closing(socket.create_connection(agent.links[0])))
                    crowd.enter_context(agent.app(greet=False))
                stage.recovered()
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
            stage.recovered()
            assert pid == agent.reactor_pid, f"{agent} lost its reactor\n{agent.tail()}"
    return stage.result()


# Crowds

CROWD = 10_000
AT_ONCE = 500


def crowds(directory: Path, seed: int, rounds: int) -> Result:
    """Ten thousand connections at both doors that say nothing, or noise; descriptors and calls stay as they are."""
    with Stage(directory, seed) as stage:
        agent = stage.agents["a"]
        pid = agent.reactor_pid
        doors: Mapping[str, tuple[int, Any]] = {
            "app socket": (socket.AF_UNIX, str(agent.socket_path)),
            "link port": (socket.AF_INET, agent.links[0]),
        }
        for number in range(rounds):
            data = (b"", stage.draw.randbytes(300))[number % 2]
            for door, (family, address) in doors.items():
                stage.fault(f"{CROWD} connections say {'noise' if data else 'nothing'} at the {door}")
                peak = _crowd(family, address, data, agent)
                stage.recovered()
                assert peak < DESCRIPTORS_MAX, f"{agent} had {peak} descriptors open"
        until(lambda: agent.descriptors() < DESCRIPTORS_AFTER_MAX, "all descriptors are given back")
        assert pid == agent.reactor_pid, f"{agent} lost its reactor\n{agent.tail()}"
    return stage.result()


def _crowd(family: int, address: Any, data: bytes, agent: Agent) -> int:
    """Connect so often, at most ``AT_ONCE`` at a time; return how many descriptors the agent had open at most."""
    there: deque[socket.socket] = deque()
    peak = 0
    try:
        for number in range(CROWD):
            stranger = socket.socket(family)
            there.append(stranger)
            stranger.connect(address)
            with contextlib.suppress(OSError):
                stranger.sendall(data)
            if len(there) == AT_ONCE:
                there.popleft().close()
            if number % AT_ONCE == 0:
                peak = max(peak, agent.descriptors())
    finally:
        for stranger in there:
            stranger.close()
    return peak
