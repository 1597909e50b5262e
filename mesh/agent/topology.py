"""An agent's part in the picture of who calls whom: it tells its edges, and draws all of them if it is the keeper.

Nothing here is needed for messages to pass. What fails is tried again at the next turn, with one note when it begins
to fail and one when it works again.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import gevent

from mesh.config import TopologyOptions
from mesh.core.edges import Caller, Edge
from mesh.core.health import Verdict
from mesh.matchmaker.base import MatchmakerError
from mesh.matchmaker.picture import Pair, Told

__all__ = [
    "TOPOLOGY_AWAY",
    "TOPOLOGY_BACK",
    "TOPOLOGY_DRAWN",
    "TOPOLOGY_KEEPER",
    "TOPOLOGY_UNREAD",
    "Board",
    "Topology",
]

TOPOLOGY_AWAY = "topology_away"
TOPOLOGY_BACK = "topology_back"
TOPOLOGY_DRAWN = "topology_drawn"
TOPOLOGY_KEEPER = "topology_keeper"
TOPOLOGY_UNREAD = "topology_unread"

AUDIT_S = 30.0
"""How often the picture is compared with what it should be, though no edge changed."""

DRAW_PAUSE_S = 1.0
"""How often it is drawn at most."""

FAREWELL_S = 1.0
"""How long taking one's own part back may take."""


class Board(Protocol):
    """Where the picture hangs; `mesh.matchmaker.consul_topology` says what each verb does."""

    def open_session(self, ttl_s: float) -> str: ...
    def keep_session(self, session: str) -> bool: ...
    def end_session(self, session: str) -> None: ...
    def tell(self, session: str, edges: Sequence[Edge]) -> None: ...
    def register(self, caller: Caller) -> None: ...
    def report(self, caller: Caller, verdict: Verdict) -> bool: ...
    def withdraw(self, caller: Caller) -> None: ...
    def lock(self, session: str) -> bool: ...
    def wait_for_lock(self, wait_s: float) -> None: ...
    def told(self, position: int, wait_s: float) -> Told: ...
    def draw(self, pairs: Sequence[Pair]) -> int: ...
    def close(self) -> None: ...


class Topology:
    """Keeps one agent's part of the picture right; ``is_candidate``: it may be the keeper."""

    def __init__(self, board: Board, options: TopologyOptions, is_candidate: bool, note: Callable[..., None]) -> None:
        self.board = board
        self.options = options
        self.note = note
        self.activities = [self._tell, *([self._keep] if is_candidate else [])]
        self.edges: list[Edge] = []
        self.callers: Mapping[Caller, Verdict] = {}
        self.session = ""
        self.told: list[Edge] | None = None
        self.registered: dict[Caller, Verdict] = {}
        self.is_keeper = False
        self.problems: dict[str, str] = {}
        self.away_since = 0.0
        self.greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        """Begin."""
        self.greenlets = [gevent.spawn(self._again, activity) for activity in self.activities]

    def see(self, edges: list[Edge], callers: Mapping[Caller, Verdict]) -> None:
        """This is who calls whom now, and how the apps are that only call."""
        self.edges, self.callers = edges, callers

    def stop(self, *, withdraw: bool) -> None:
        """End. ``withdraw``: take back what was told, if Consul takes that in time."""
        gevent.killall(self.greenlets, block=False)
        if withdraw and self.session:
            with contextlib.suppress(MatchmakerError), gevent.Timeout(FAREWELL_S, exception=False):
                self.board.end_session(self.session)
                for caller in self.registered:
                    self.board.withdraw(caller)
        self.board.close()

    def facts(self) -> dict[str, object]:
        """Return what the agent's status says of this."""
        return {
            "edges": len(self.edges),
            "keeper": self.is_keeper,
            "problem": next(iter(self.problems.values()), ""),
        }

    def _again(self, activity: Callable[[], None]) -> None:
        """Do this for ever, each ``interval_s`` at most."""
        name = activity.__name__
        while True:
            try:
                activity()
            except MatchmakerError as error:
                self._failed(name, str(error))
            else:
                self._worked(name)
            gevent.sleep(self.options.interval_s)

    def _failed(self, name: str, problem: str) -> None:
        if not self.problems:
            self.away_since = time.monotonic()
            self.note(TOPOLOGY_AWAY, logging.WARNING, why=problem[:500])
        self.problems[name] = problem[:500]

    def _worked(self, name: str) -> None:
        if self.problems.pop(name, None) is not None and not self.problems:
            self.note(TOPOLOGY_BACK, away_s=round(time.monotonic() - self.away_since, 1))

    # Every agent

    def _tell(self) -> None:
        """Say that this agent lives, what its edges are, and how its callers are."""
        if not self.session or not self.board.keep_session(self.session):
            self.session, self.told = "", None
            self.session = self.board.open_session(self.options.session_ttl_s)
        edges = self.edges
        if edges != self.told:
            self.board.tell(self.session, edges)
            self.told = edges
        callers = dict(self.callers)
        for caller in [caller for caller in self.registered if caller not in callers]:
            self.board.withdraw(caller)
            del self.registered[caller]
        for caller, verdict in callers.items():
            if caller not in self.registered or not self.board.report(caller, verdict):
                self.board.register(caller)
                self.board.report(caller, verdict)
            self.registered[caller] = verdict

    # The keeper

    def _keep(self) -> None:
        """Draw while this agent holds the lock; wait for it otherwise."""
        session = self.session
        if self.told is None:
            return
        if not self.board.lock(session):
            self.board.wait_for_lock(AUDIT_S)
            if not self.board.lock(session):
                return
        self.is_keeper = True
        self.note(TOPOLOGY_KEEPER)
        try:
            self._draw(session)
        finally:
            self.is_keeper = False

    def _draw(self, session: str) -> None:
        position = unread = 0
        while True:
            told = self.board.told(position, AUDIT_S)
            if self.session != session or not self.board.lock(session):
                return
            position = told.position
            if told.unread != unread:
                unread = told.unread
                self.note(TOPOLOGY_UNREAD, logging.WARNING, agents=unread)
            written = self.board.draw(told.pairs)
            if written:
                self.note(TOPOLOGY_DRAWN, edges=len(told.pairs), written=written)
            self._worked("_keep")
            gevent.sleep(DRAW_PAUSE_S)
