"""The three matchmakers under one handle, so that one suite holds all of them to the same contract."""

import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from mesh.core.catalogue import AgentEntry, Health, Instance, Snapshot
from mesh.matchmaker.base import Entry, Matchmaker
from mesh.matchmaker.consul import ConsulMatchmaker, ConsulOptions
from mesh.matchmaker.memory import Catalogue, MemoryMatchmaker
from mesh.matchmaker.sqlite import SqliteMatchmaker, SqliteOptions
from mesh.types import TopicKey
from tests.consul_server import ConsulServer

__all__ = ["ORDERS", "ConsulWorld", "MemoryWorld", "SqliteWorld", "World", "agent", "eventually", "instance", "until"]

ORDERS = TopicKey("", "orders")
SETTLED_S = 20.0


def agent(node: str = "node1", port: int = 7000, incarnation: int = 1) -> AgentEntry:
    return AgentEntry(node, "127.0.0.1", port, incarnation)


def instance(at: AgentEntry, session: int = 1, *, topic: TopicKey = ORDERS, server: str = "srv") -> Instance:
    return Instance(topic.namespace, topic.topic, server, session, at)


def until(matchmaker: Matchmaker, wanted: Callable[[Snapshot], bool], topic: TopicKey = ORDERS) -> Snapshot:
    """Watch until a snapshot is as wanted; what was registered may take a moment to be seen."""
    deadline = time.monotonic() + SETTLED_S
    seen = matchmaker.watch(topic, 0, 0)
    while not wanted(seen):
        assert time.monotonic() < deadline, f"never as wanted, last: {seen}"
        seen = matchmaker.watch(topic, seen.index, 1.0)
    return seen


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + SETTLED_S
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


class World(Protocol):
    """A place where matchmakers find each other, and what can befall it."""

    def matchmaker(self, fleet: str = "one") -> Matchmaker:
        """Return a matchmaker of an agent of the fleet, as an agent process of its own would have it."""

    def lapse(self, *kept: tuple[Matchmaker, Entry]) -> None:
        """Let the TTL of everything pass but of what is kept, which is renewed meanwhile."""

    def forget(self) -> None:
        """Lose all entries, as a matchmaker does that was wiped."""

    def close(self) -> None:
        """Close all matchmakers."""


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def lapse(self, ttl_s: float, *kept: tuple[Matchmaker, Entry]) -> None:
        for _ in range(3):
            self.now += ttl_s * 0.4
            for matchmaker, entry in kept:
                assert matchmaker.renew(entry, Health.PASSING, "")


class MemoryWorld:
    def __init__(self) -> None:
        self._clock = _Clock()
        self._catalogue = Catalogue(self._clock)
        self._made: list[Matchmaker] = []

    def matchmaker(self, fleet: str = "one") -> Matchmaker:
        self._made.append(MemoryMatchmaker(fleet, self._catalogue))
        return self._made[-1]

    def lapse(self, *kept: tuple[Matchmaker, Entry]) -> None:
        self._clock.lapse(self._catalogue.ttl_s, *kept)

    def forget(self) -> None:
        self._catalogue.clear()

    def close(self) -> None:
        for matchmaker in self._made:
            matchmaker.close()


class SqliteWorld:
    """A file for each fleet."""

    def __init__(self, directory: Path) -> None:
        self._clock = _Clock()
        self._directory = directory
        self._made: list[Matchmaker] = []

    def matchmaker(self, fleet: str = "one") -> Matchmaker:
        options = SqliteOptions(path=str(self._directory / f"{fleet}.sqlite"))
        self._made.append(SqliteMatchmaker(fleet, options, clock=self._clock))
        return self._made[-1]

    def lapse(self, *kept: tuple[Matchmaker, Entry]) -> None:
        self._clock.lapse(SqliteOptions().ttl_s, *kept)

    def forget(self) -> None:
        for file in self._directory.glob("*.sqlite"):
            file.unlink()

    def close(self) -> None:
        for matchmaker in self._made:
            matchmaker.close()


class ConsulWorld:
    """Fleets of its own in a Consul that others use too."""

    def __init__(self, server: ConsulServer, ttl_s: float) -> None:
        self._server = server
        self._ttl_s = ttl_s
        self._suffix = uuid.uuid4().hex[:8]
        self._made: list[Matchmaker] = []

    def matchmaker(self, fleet: str = "one") -> Matchmaker:
        options = ConsulOptions(address=self._server.address, ttl_s=self._ttl_s)
        self._made.append(ConsulMatchmaker(f"{fleet}-{self._suffix}", options))
        return self._made[-1]

    def lapse(self, *kept: tuple[Matchmaker, Entry]) -> None:
        deadline = time.monotonic() + self._ttl_s * 1.5
        while time.monotonic() < deadline:
            for matchmaker, entry in kept:
                assert matchmaker.renew(entry, Health.PASSING, "")
            time.sleep(self._ttl_s / 8)

    def forget(self) -> None:
        for id, service in self._server.get("/v1/agent/services").items():
            if service["Meta"].get("fleet", "").endswith(self._suffix):
                self._server.put(f"/v1/agent/service/deregister/{id}")

    def close(self) -> None:
        for matchmaker in self._made:
            matchmaker.close()
        self.forget()
