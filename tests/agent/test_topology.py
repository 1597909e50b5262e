"""An agent's part in the topology, on a board that comes, goes and forgets."""

from collections.abc import Callable, Sequence
from typing import Any

import gevent
import pytest

from mesh.agent.topology import Topology
from mesh.config import TopologyOptions
from mesh.core.catalogue import Health
from mesh.core.edges import Caller, Edge
from mesh.core.health import Verdict
from mesh.matchmaker.base import MatchmakerError
from mesh.matchmaker.picture import Pair, Told, pair
from tests.agent.link_ends import until

pytestmark = pytest.mark.io

WEB = Caller("", "web", True)
EDGE = Edge(WEB, "orders")
PAIR = pair("f", EDGE)
FINE = Verdict(Health.PASSING)
OPTIONS = TopologyOptions(interval_s=0.02, session_ttl_s=0.1)


class Wall:
    """What all boards share: sessions, edges by session, who holds the lock, what is drawn."""

    def __init__(self) -> None:
        self.sessions: set[str] = set()
        self.edges: dict[str, list[Edge]] = {}
        self.keeper = ""
        self.drawn: list[Pair] = []
        self.version = 1

    def drop(self, session: str) -> None:
        """Consul ends a session."""
        self.sessions.discard(session)
        self.edges.pop(session, None)
        self.keeper = "" if self.keeper == session else self.keeper
        self.version += 1


class FakeBoard:
    """One agent's way to the wall; ``failing``: it is away."""

    def __init__(self, wall: Wall, name: str) -> None:
        self.wall, self.name = wall, name
        self.opened = 0
        self.failing = self.closed = False
        self.apps: dict[Caller, Verdict] = {}

    def _check(self) -> None:
        if self.failing:
            raise MatchmakerError("away")

    def open_session(self, ttl_s: float) -> str:
        self._check()
        self.opened += 1
        session = f"{self.name}{self.opened}"
        self.wall.sessions.add(session)
        return session

    def keep_session(self, session: str) -> bool:
        self._check()
        return session in self.wall.sessions

    def end_session(self, session: str) -> None:
        self._check()
        self.wall.drop(session)

    def tell(self, session: str, edges: Sequence[Edge]) -> None:
        self._check()
        self.wall.edges[session] = list(edges)
        self.wall.version += 1

    def register(self, caller: Caller) -> None:
        self._check()
        self.apps[caller] = FINE

    def report(self, caller: Caller, verdict: Verdict) -> bool:
        self._check()
        if caller in self.apps:
            self.apps[caller] = verdict
        return caller in self.apps

    def withdraw(self, caller: Caller) -> None:
        self._check()
        self.apps.pop(caller, None)

    def lock(self, session: str) -> bool:
        self._check()
        self.wall.keeper = self.wall.keeper or session
        return self.wall.keeper == session

    def wait_for_lock(self, wait_s: float) -> None:
        while self.wall.keeper:
            self._check()
            gevent.sleep(0.005)

    def told(self, position: int, wait_s: float) -> Told:
        while position == self.wall.version:
            self._check()
            gevent.sleep(0.005)
        pairs = sorted({pair("f", edge) for edges in self.wall.edges.values() for edge in edges})
        return Told(pairs, 0, self.wall.version)

    def draw(self, pairs: Sequence[Pair]) -> int:
        self._check()
        written = int(self.wall.drawn != list(pairs))
        self.wall.drawn = list(pairs)
        return written

    def close(self) -> None:
        self.closed = True


class Agent:
    """One agent's topology and what it noted."""

    def __init__(self, wall: Wall, name: str, *, is_candidate: bool = True) -> None:
        self.board = FakeBoard(wall, name)
        self.notes: list[str] = []
        self.topology = Topology(self.board, OPTIONS, is_candidate, self._note)

    def _note(self, name: str, *_: object, **facts: Any) -> None:
        self.notes.append(name)


@pytest.fixture
def wall() -> Wall:
    return Wall()


@pytest.fixture
def start(wall: Wall) -> Any:
    """Starts agents, and stops them at the end."""
    agents: list[Agent] = []

    def starting(name: str, **options: bool) -> Agent:
        agents.append(Agent(wall, name, **options))
        agents[-1].topology.start()
        return agents[-1]

    yield starting
    for agent in agents:
        agent.topology.stop(withdraw=False)


Start = Callable[..., Agent]


def test_edges_and_callers_are_told_drawn_and_taken_back(wall: Wall, start: Start) -> None:
    agent = start("a")
    agent.topology.see([EDGE], {WEB: FINE})
    until(lambda: wall.drawn == [PAIR], "the edge is drawn")
    assert {WEB: FINE} == agent.board.apps
    silent = Verdict(Health.CRITICAL, "silent")
    agent.topology.see([EDGE], {WEB: silent})
    until(lambda: agent.board.apps == {WEB: silent}, "its health is told")
    agent.topology.see([], {})
    until(lambda: (wall.drawn, agent.board.apps) == ([], {}), "all is taken back")
    assert ["topology_keeper", "topology_drawn", "topology_drawn"] == agent.notes
    assert {"edges": 0, "keeper": True, "problem": ""} == agent.topology.facts()


def test_an_agent_that_may_not_keep_only_tells(wall: Wall, start: Start) -> None:
    agent = start("a", is_candidate=False)
    agent.topology.see([EDGE], {})
    until(lambda: list(wall.edges.values()) == [[EDGE]], "its edge is told")
    assert "" == wall.keeper


def test_another_keeper_goes_on_when_one_is_gone(wall: Wall, start: Start) -> None:
    first = start("a")
    until(lambda: wall.keeper == "a1", "the first has the lock")
    second = start("b")
    second.topology.see([EDGE], {})
    until(lambda: wall.drawn == [PAIR], "the first draws")
    gevent.killall(first.topology.greenlets)
    wall.drop("a1")
    until(lambda: wall.keeper == "b1", "the second has the lock")
    second.topology.see([], {})
    until(lambda: wall.drawn == [], "the second draws")


def test_a_session_that_ended_is_opened_again_and_all_is_told_anew(wall: Wall, start: Start) -> None:
    agent = start("a")
    agent.topology.see([EDGE], {WEB: FINE})
    until(lambda: wall.drawn == [PAIR], "the edge is drawn")
    wall.drop("a1")
    agent.board.apps.clear()
    until(lambda: wall.edges.get("a2") == [EDGE] and wall.keeper == "a2", "it is told and kept again")
    until(lambda: agent.board.apps == {WEB: FINE}, "the caller is registered again")


def test_a_board_that_is_away_is_noted_once_and_tried_again(wall: Wall, start: Start) -> None:
    agent = start("a")
    until(lambda: agent.topology.is_keeper, "it is the keeper")
    agent.board.failing = True
    until(lambda: len(agent.topology.problems) == 2, "telling and keeping fail")
    assert "away" == agent.topology.facts()["problem"]
    agent.topology.see([EDGE], {})
    agent.board.failing = False
    until(lambda: wall.drawn == [PAIR], "the edge is drawn")
    until(lambda: not agent.topology.problems, "nothing fails")
    assert (1, 1) == (agent.notes.count("topology_away"), agent.notes.count("topology_back"))


def test_an_agent_that_ends_in_order_takes_its_part_back_at_once(wall: Wall) -> None:
    agent = Agent(wall, "a")
    agent.topology.start()
    agent.topology.see([EDGE], {WEB: FINE})
    until(lambda: agent.board.apps and wall.edges.get("a1") == [EDGE], "it has told")
    agent.topology.stop(withdraw=True)
    assert ({}, {}, "", True) == (wall.edges, agent.board.apps, wall.keeper, agent.board.closed)
