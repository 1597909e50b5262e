"""The watcher over a matchmaker that comes, goes, forgets and fails."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gevent
import pytest

from mesh.agent.watcher import Watcher
from mesh.config import WatcherOptions
from mesh.core.catalogue import AgentEntry, Health, Instance, Snapshot
from mesh.matchmaker.base import Entry, MatchmakerError
from mesh.matchmaker.memory import Catalogue, MemoryMatchmaker
from mesh.types import TopicKey
from tests.agent.link_ends import until

pytestmark = pytest.mark.io

AGENT = AgentEntry("a", "127.0.0.1", 1, 7)
TOPIC = TopicKey("", "jobs")
WATCH_WAIT_S = 30.0


def instance(server: str = "s", topic: str = "jobs", session: int = 1) -> Instance:
    return Instance("", topic, server, session, AGENT)


class Unsteady:
    """The memory matchmaker, for greenlets; ``failing`` is raised by every verb, ``refuses`` says for which entries."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.steady = MemoryMatchmaker("f", catalogue)
        self.failing: Exception | None = None
        self.refuses: Callable[[Entry], bool] = lambda entry: False
        self.renewed: list[Entry] = []
        self.closed = False

    def _check(self, entry: Entry | None = None) -> None:
        if self.failing is not None:
            raise self.failing
        if entry is not None and self.refuses(entry):
            raise MatchmakerError("this one is not allowed")

    def register(self, entry: Entry) -> None:
        self._check(entry)
        self.steady.register(entry)

    def renew(self, entry: Entry, health: Health, text: str) -> bool:
        self._check(entry)
        self.renewed.append(entry)
        return self.steady.renew(entry, health, text)

    def withdraw(self, entry: Entry) -> None:
        self._check(entry)
        self.steady.withdraw(entry)

    def watch(self, topic: TopicKey, index: int, wait_s: float) -> Snapshot:
        waited_s = 0.0
        while True:
            self._check()
            snapshot = self.steady.watch(topic, index, 0.0)
            if snapshot.index != index or waited_s >= wait_s:
                return snapshot
            gevent.sleep(0.005)
            waited_s += 0.005

    def agents(self, node: str = "") -> list[AgentEntry]:
        self._check()
        return list(self.steady.agents(node))

    def close(self) -> None:
        self.closed = True


class World:
    """A watcher, its matchmaker, and what both told."""

    def __init__(self, directory: Path, fleet: str = "f", failing: Exception | None = None) -> None:
        self.catalogue = Catalogue()
        self.matchmaker = Unsteady(self.catalogue)
        self.matchmaker.failing = failing
        self.told: list[Snapshot] = []
        self.namesakes: list[list[AgentEntry]] = []
        self.claims = True
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.watcher = Watcher(
            self.matchmaker,
            AGENT,
            fleet,
            WatcherOptions(refresh_s=0.05, watch_wait_s=WATCH_WAIT_S, retry_max_s=0.1),
            directory,
            lambda verb, *arguments: verb(*arguments),
            self.told.append,
            self._namesakes,
            self._note,
        )
        self.watcher.start()

    def _namesakes(self, entries: Sequence[AgentEntry]) -> None:
        self.namesakes.append(list(entries))
        if self.claims:
            self.watcher.claim()

    def _note(self, name: str, level: int = logging.INFO, **facts: Any) -> None:
        self.notes.append((name, facts))

    def names(self) -> list[str]:
        return [name for name, _ in self.notes]

    def servers(self) -> list[str]:
        """Return what the matchmaker would tell of the topic now."""
        return [entry.server for entry in self.matchmaker.steady.watch(TOPIC, 0, 0.0).instances]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A watcher at work."""
    world = World(tmp_path)
    yield world
    world.watcher.stop(withdraw=False)


def test_an_agent_and_its_instances_are_registered_renewed_and_withdrawn(world: World) -> None:
    until(lambda: world.matchmaker.agents() == [AGENT], "the agent is registered")
    world.watcher.register(instance())
    until(lambda: world.servers() == ["s"], "the instance is registered")
    until(lambda: {AGENT, instance()} <= set(world.matchmaker.renewed), "both are renewed")
    world.watcher.withdraw(instance())
    until(lambda: world.servers() == [], "it is withdrawn")
    assert [] == world.names()


def test_a_health_is_told_and_kept_through_a_repair(world: World) -> None:
    world.watcher.register(instance())
    until(lambda: world.servers(), "it is registered")
    world.watcher.renew(instance(), Health.MAINTENANCE, "drains")

    def health() -> Health:
        return world.matchmaker.steady.watch(TOPIC, 0, 0.0).instances[0].health

    until(lambda: health() is Health.MAINTENANCE, "its health is told")
    world.catalogue.clear()
    until(lambda: world.servers() and health() is Health.MAINTENANCE, "it is repaired with its health")
    assert {"entry_repaired"} == set(world.names())


def test_how_the_agent_is_doing_is_told_at_once_when_it_changes(world: World) -> None:
    until(lambda: world.matchmaker.agents() == [AGENT], "the agent is registered")
    world.watcher.doing(Health.CRITICAL, "its loop lags")
    until(lambda: world.matchmaker.agents() == [], "it is critical")
    world.watcher.doing(Health.PASSING, "")
    until(lambda: world.matchmaker.agents() == [AGENT], "it passes again")


def test_nothing_is_registered_before_the_node_id_is_claimed(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.claims = False
    other = AgentEntry("a", "127.0.0.2", 1, 6)
    world.matchmaker.register(other)
    world.watcher.register(instance())
    until(lambda: world.namesakes, "who is registered is looked up")
    gevent.sleep(0.2)
    assert [other] == world.matchmaker.agents() == world.namesakes[0]
    world.watcher.claim()
    until(lambda: world.matchmaker.agents() == [AGENT] and world.servers() == ["s"], "both are registered")
    world.watcher.stop(withdraw=False)


def test_an_agent_that_was_replaced_is_registered_again_only_when_it_has_claimed_its_name_again(world: World) -> None:
    until(lambda: world.matchmaker.agents() == [AGENT], "the agent is registered")
    world.claims = False
    other = AgentEntry("a", "127.0.0.2", 1, 8)
    world.matchmaker.register(other)
    until(lambda: [other] in world.namesakes, "it is seen")
    gevent.sleep(0.2)
    assert [other] == world.matchmaker.agents()
    world.watcher.claim()
    until(lambda: world.matchmaker.agents() == [AGENT], "the agent is registered again")


def test_agents_are_looked_up_once_when_asked_and_are_none_while_the_matchmaker_is_away(world: World) -> None:
    until(lambda: world.matchmaker.agents() == [AGENT], "the agent is registered")
    found: list[Sequence[AgentEntry]] = []
    world.watcher.find_agents(found.append)
    until(lambda: found == [[AGENT]], "it is found")
    world.matchmaker.failing = MatchmakerError("it is gone")
    world.watcher.find_agents(found.append)
    until(lambda: len(found) == 2, "an answer comes all the same")
    assert not found[1]


def test_a_matchmaker_that_is_away_is_told_once_and_its_return_too(world: World) -> None:
    world.watcher.register(instance())
    world.watcher.watch(TOPIC, fresh=False)
    until(lambda: world.told and world.told[-1].instances, "the topic is told of")
    world.matchmaker.failing = MatchmakerError("it is gone")
    until(lambda: len(world.watcher.problems) == 2, "both activities notice")
    world.watcher.register(instance("meanwhile", session=2))
    facts = world.watcher.facts()
    assert (False, "it is gone", 2, 3) == tuple(
        facts[name] for name in ("reachable", "problem", "registered", "to_register")
    )
    gevent.sleep(0.2)
    assert ["matchmaker_away"] == world.names()
    world.matchmaker.failing = None
    until(lambda: world.watcher.facts()["reachable"], "it is back, though the topic did not change in between")
    until(lambda: len(world.told[-1].instances) == 2, "what came meanwhile is registered, and told")
    assert ["matchmaker_away", "matchmaker_back"] == world.names()


def test_a_matchmaker_that_has_not_answered_yet_is_neither_there_nor_away(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert world.watcher.facts()["reachable"] is None
    until(lambda: world.watcher.facts()["reachable"] is True, "it has answered")
    world.watcher.stop(withdraw=False)


def test_one_entry_that_is_refused_does_not_keep_the_others_from_being_renewed(world: World) -> None:
    world.matchmaker.refuses = lambda entry: isinstance(entry, Instance) and entry.server == "bad"
    world.watcher.register(instance("bad"))
    world.watcher.register(instance("good", session=2))
    until(lambda: world.servers() == ["good"], "the good one is registered")
    until(lambda: world.matchmaker.renewed.count(AGENT) > 3, "the agent is renewed")
    assert "this one is not allowed" == world.watcher.facts()["problem"]
    assert 2 == world.watcher.facts()["registered"]


def test_a_defect_of_a_matchmaker_is_noted_with_its_traceback_and_tried_again(world: World) -> None:
    world.matchmaker.failing = KeyError("ModifyIndex")
    until(lambda: world.notes, "it is noted")
    name, facts = world.notes[0]
    assert ("matchmaker_away", world.matchmaker.failing) == (name, facts["exc_info"])
    world.matchmaker.failing = None
    until(lambda: "matchmaker_back" in world.names(), "it is back")


def test_a_doubted_topic_is_read_anew_and_told_again(world: World) -> None:
    world.watcher.watch(TOPIC, fresh=False)
    until(lambda: len(world.told) == 1, "it is told")
    world.watcher.watch(TOPIC, fresh=True)
    until(lambda: len(world.told) == 2, "it is told again")
    assert world.told[0] == world.told[1]


def test_a_topic_that_is_watched_no_more_is_not_told(world: World) -> None:
    world.watcher.watch(TOPIC, fresh=False)
    until(lambda: world.told, "it is told")
    world.watcher.unwatch(TOPIC)
    world.watcher.register(instance())
    until(lambda: world.servers(), "it changed")
    gevent.sleep(0.05)
    assert 1 == len(world.told)
    assert 0 == world.watcher.facts()["watched"]


def test_what_the_last_agent_knew_is_told_once_while_the_matchmaker_is_away(tmp_path: Path) -> None:
    last = World(tmp_path)
    last.watcher.register(instance())
    last.watcher.watch(TOPIC, fresh=False)
    known = until(lambda: next((each for each in last.told if each.instances), None), "it is known")
    until(lambda: (tmp_path / "directory.msgpack").exists(), "it is kept")
    last.watcher.stop(withdraw=True)
    away = World(tmp_path, failing=MatchmakerError("away"))
    away.watcher.watch(TOPIC, fresh=False)
    until(lambda: away.told, "it is told")
    gevent.sleep(0.1)
    assert [known] == away.told
    away.matchmaker.failing = None
    until(lambda: len(away.told) == 2, "what is true now is told")
    assert () == away.told[1].instances
    away.watcher.stop(withdraw=False)


def test_a_directory_is_not_told_while_the_matchmaker_answers_nor_in_another_fleet(tmp_path: Path) -> None:
    last = World(tmp_path)
    last.watcher.register(instance())
    last.watcher.watch(TOPIC, fresh=False)
    until(lambda: any(each.instances for each in last.told), "it is known")
    last.watcher.stop(withdraw=False)
    for fleet, failing in (("f", None), ("other", MatchmakerError("away"))):
        world = World(tmp_path, fleet, failing)
        world.watcher.watch(TOPIC, fresh=False)
        gevent.sleep(0.1)
        assert [] == [snapshot for snapshot in world.told if snapshot.instances]
        world.watcher.stop(withdraw=False)


def test_a_directory_that_cannot_be_read_is_set_aside(tmp_path: Path) -> None:
    (tmp_path / "directory.msgpack").write_bytes(b"\xc1")
    world = World(tmp_path)
    assert ["directory_corrupt"] == world.names()
    assert b"\xc1" == (tmp_path / "directory.corrupt").read_bytes()
    world.watcher.stop(withdraw=False)


@pytest.mark.parametrize("withdraw", [True, False])
def test_the_end_withdraws_only_what_will_not_come_back(tmp_path: Path, withdraw: bool) -> None:
    world = World(tmp_path)
    world.watcher.register(instance())
    until(lambda: world.servers(), "it is registered")
    world.watcher.stop(withdraw=withdraw)
    assert ([] if withdraw else ["s"]) == world.servers()
    assert world.matchmaker.closed
