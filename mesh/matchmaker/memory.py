"""A matchmaker in this process's memory, for tests: agents that share a `Catalogue` find each other."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from mesh.core.catalogue import AgentEntry, Health, Instance, Snapshot
from mesh.matchmaker.base import Entry, MatchmakerError, snapshot
from mesh.types import TopicKey

__all__ = ["Catalogue", "MemoryMatchmaker"]

POLL_S = 0.02
"""How soon a waiting ``watch`` notices that the clock ran past a TTL."""

_Key = tuple[str, TopicKey | None, str, str, int]


class _Held(NamedTuple):
    entry: Entry
    health: Health
    expires: float


class Catalogue:
    """What the memory matchmakers of any number of fleets share; ``clock`` gives seconds and decides the TTLs alone."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, ttl_s: float = 15.0) -> None:
        self.clock = clock
        self.ttl_s = ttl_s
        self.changed = threading.Condition()
        self.held: dict[_Key, _Held] = {}

    def put(self, key: _Key, entry: Entry, health: Health) -> None:
        """Store an entry for another TTL; the lock is held by the caller."""
        self.held[key] = _Held(entry, health, self.clock() + self.ttl_s)
        self.changed.notify_all()

    def alive(self, key: _Key) -> _Held | None:
        """Return what is held under a key and within its TTL; the lock is held by the caller."""
        held = self.held.get(key)
        return held if held and self.clock() < held.expires else None

    def clear(self) -> None:
        """Forget everything."""
        with self.changed:
            self.held.clear()
            self.changed.notify_all()


class MemoryMatchmaker:
    """The matchmaker of one agent."""

    def __init__(self, fleet: str, catalogue: Catalogue) -> None:
        self._fleet = fleet
        self._catalogue = catalogue
        self._closed = False

    def register(self, entry: Entry) -> None:
        with self._catalogue.changed:
            self._check_open()
            self._catalogue.put(self._key(entry), entry, Health.PASSING)

    def renew(self, entry: Entry, health: Health, text: str) -> bool:
        with self._catalogue.changed:
            self._check_open()
            held = self._catalogue.alive(self._key(entry))
            if held is None or held.entry != entry:
                return False
            self._catalogue.put(self._key(entry), entry, health)
            return True

    def withdraw(self, entry: Entry) -> None:
        with self._catalogue.changed:
            self._check_open()
            self._catalogue.held.pop(self._key(entry), None)
            if isinstance(entry, AgentEntry):
                for key in [key for key in self._catalogue.held if (key[0], key[2]) == (self._fleet, entry.node)]:
                    del self._catalogue.held[key]
            self._catalogue.changed.notify_all()

    def watch(self, topic: TopicKey, index: int, wait_s: float) -> Snapshot:
        deadline = time.monotonic() + wait_s
        with self._catalogue.changed:
            while True:
                self._check_open()
                seen = self._look(topic)
                left = deadline - time.monotonic()
                if seen.index != index or left <= 0:
                    return seen
                self._catalogue.changed.wait(min(left, POLL_S))

    def agents(self, node: str = "") -> Sequence[AgentEntry]:
        with self._catalogue.changed:
            self._check_open()
            entries = (held.entry for held in self._alive() if held.health != Health.CRITICAL)
            found = [e for e in entries if isinstance(e, AgentEntry) and node in ("", e.node)]
            return sorted(found, key=lambda agent: agent.node)

    def close(self) -> None:
        with self._catalogue.changed:
            self._closed = True
            self._catalogue.changed.notify_all()

    def _look(self, topic: TopicKey) -> Snapshot:
        reachable = {agent.node for agent in self.agents()}
        return snapshot(
            topic,
            (
                replace(entry, health=held.health)
                for held in self._alive()
                if isinstance(entry := held.entry, Instance)
                and entry.topic_key == topic
                and entry.agent.node in reachable
                and held.health != Health.CRITICAL
            ),
        )

    def _alive(self) -> list[_Held]:
        keys = [key for key in self._catalogue.held if key[0] == self._fleet]
        return [held for key in keys if (held := self._catalogue.alive(key))]

    def _key(self, entry: Entry) -> _Key:
        if isinstance(entry, AgentEntry):
            return (self._fleet, None, entry.node, "", 0)
        return (self._fleet, entry.topic_key, *entry.key)

    def _check_open(self) -> None:
        if self._closed:
            raise MatchmakerError("this matchmaker is closed")
