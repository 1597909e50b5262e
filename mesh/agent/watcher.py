"""The matchmaker's side of an agent: entries kept registered, topics watched, the last word kept on disk.

Verbs do their work once; trying again is done here, for ever, with a jittered pause, whatever went wrong. While the
matchmaker is away nothing here fails: what was known stays known, what is to be registered is registered when it is
back. An agent that starts while it is away is told the snapshots that the last one kept on disk.
"""

import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import gevent
import msgspec
import tenacity
from gevent.event import Event
from msgspec import Struct

from mesh.agent.patience import patiently
from mesh.config import WatcherOptions
from mesh.core.catalogue import AgentEntry, Health, Instance, Snapshot
from mesh.matchmaker.base import Entry, Matchmaker, MatchmakerError
from mesh.types import InstanceKey, TopicKey

__all__ = [
    "DIRECTORY_CORRUPT",
    "ENTRY_REPAIRED",
    "MATCHMAKER_AWAY",
    "MATCHMAKER_BACK",
    "Watcher",
]

MATCHMAKER_AWAY = "matchmaker_away"
MATCHMAKER_BACK = "matchmaker_back"
ENTRY_REPAIRED = "entry_repaired"
DIRECTORY_CORRUPT = "directory_corrupt"

CONFIRM_PAUSE_S = 1.0
"""How long a doubted snapshot is left before it is read again."""

SAVE_PAUSE_S = 1.0
"""How often the directory is written at most."""

DIRECTORY_BYTES_MAX = 16 << 20
"""A directory on disk that is larger is not read."""

WITHDRAW_S = 1.0
"""How long the last word to a matchmaker may take."""

NAMESAKES_REFRESHES = 6
"""After so many refreshes it is looked again who else is registered under this node's id."""

REGISTRATION, NAMESAKES = "registration", "node id"
"""What is done beside watching topics, where it fails."""

_Result = TypeVar("_Result")


class _Kept(Struct):
    """What is registered, or is to be: the entry, its health, when that is due to be said, and whether it was ever."""

    entry: Entry
    health: Health = Health.PASSING
    text: str = ""
    due: float = 0.0
    registered: bool = False


class _Remembered(Struct):
    """The directory on disk: when it was written (unix seconds, for people) and the last snapshots."""

    written_at: float
    fleet: str
    snapshots: list[Snapshot]


class Watcher:
    """Keeps one agent and its instances registered and its topics watched.

    ``run`` runs the matchmaker's short verbs, in a thread of its own if they block the process; ``watch`` never does.
    ``told`` gets every snapshot, ``namesakes`` the agents that are registered under the same node id: nothing is
    registered until the answer to that is `claim`.
    """

    def __init__(
        self,
        matchmaker: Matchmaker,
        agent: AgentEntry,
        fleet: str,
        options: WatcherOptions,
        data_dir: Path,
        run: Callable[..., Any],
        told: Callable[[Snapshot], None],
        namesakes: Callable[[Sequence[AgentEntry]], None],
        note: Callable[..., None],
    ) -> None:
        self.matchmaker = matchmaker
        self.options = options
        self.fleet = fleet
        self.run = run
        self.told = told
        self.namesakes = namesakes
        self.note = note
        self.path = data_dir / "directory.msgpack"
        self.agent = agent
        self.own = _Kept(agent)
        self.kept: dict[str | tuple[TopicKey, InstanceKey], _Kept] = {agent.node: self.own}
        self.claimed = Event()
        self.look = Event()
        self.others: Sequence[AgentEntry] = ()
        self.withdrawn: list[Entry] = []
        self.watches: dict[TopicKey, gevent.Greenlet] = {}
        self.latest: dict[TopicKey, Snapshot] = {}
        self.before: dict[TopicKey, Snapshot] = self._load()
        self.problems: dict[object, str] = {}
        self.away_since = 0.0
        self.answered = False
        self.work = Event()
        self.save = Event()
        self.greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        """Begin to register and to save."""
        activities = (self._keep_claimed, self._keep_registered, self._keep_saved)
        self.greenlets = [gevent.spawn(activity) for activity in activities]

    def stop(self, *, withdraw: bool) -> None:
        """End. ``withdraw``: take the agent and all its instances back first, if the matchmaker takes that in time."""
        gevent.killall([*self.greenlets, *self.watches.values()], block=False)
        if withdraw and self.own.registered:
            with contextlib.suppress(MatchmakerError), gevent.Timeout(WITHDRAW_S, exception=False):
                self.run(self.matchmaker.withdraw, self.agent)
        if self.save.is_set():
            self._write(self._encoded())
        self.matchmaker.close()

    # What the node wants

    def claim(self) -> None:
        """Nobody else lives by this node's id: register the agent, again if another was registered in its place."""
        if self.others:
            self.own.registered = False
        self.own.due = 0.0
        self.claimed.set()
        self.work.set()

    def doing(self, health: Health, text: str) -> None:
        """Renew the agent with this health from now on, at once if it is another."""
        if health is not self.own.health:
            self.own.due = 0.0
            self.work.set()
        self.own.health, self.own.text = health, text

    def register(self, instance: Instance) -> None:
        """Keep an instance registered from now on."""
        self.kept[instance.topic_key, instance.key] = _Kept(instance)
        self.work.set()

    def renew(self, instance: Instance, health: Health, text: str) -> None:
        """Renew an instance with this health from now on."""
        kept = self.kept.get((instance.topic_key, instance.key))
        if kept is not None:
            kept.health, kept.text, kept.due = health, text, 0.0
            self.work.set()

    def withdraw(self, instance: Instance) -> None:
        """Take an instance back."""
        kept = self.kept.pop((instance.topic_key, instance.key), None)
        if kept is not None:
            self.withdrawn.append(kept.entry)
            self.work.set()

    def watch(self, topic: TopicKey, *, fresh: bool) -> None:
        """Tell of a topic from now on; ``fresh``: read it anew, because what was read last is doubted."""
        old = self.watches.pop(topic, None)
        if old is not None:
            old.kill(block=False)
        self.watches[topic] = gevent.spawn(self._follow, topic, CONFIRM_PAUSE_S if fresh else 0.0)

    def unwatch(self, topic: TopicKey) -> None:
        """Tell of a topic no more."""
        greenlet = self.watches.pop(topic, None)
        if greenlet is not None:
            greenlet.kill(block=False)
        self.latest.pop(topic, None)
        self._settled(topic)

    def find_agents(self, told: Callable[[Sequence[AgentEntry]], None]) -> None:
        """Look up once, beside all else, which agents there are; tell none if the matchmaker is away."""

        def look() -> None:
            found: Sequence[AgentEntry] = ()
            with contextlib.suppress(MatchmakerError):
                found = self.run(self.matchmaker.agents)
            told(found)

        gevent.spawn(look)

    def facts(self) -> dict[str, object]:
        """Return what the agent's status says of the matchmaker; ``reachable`` is None until it has answered once."""
        problem = next(iter(self.problems.values()), "")
        return {
            "reachable": False if problem else self.answered or None,
            "away_s": round(time.monotonic() - self.away_since, 1) if problem else 0.0,
            "problem": problem,
            "registered": sum(kept.registered for kept in self.kept.values()),
            "to_register": len(self.kept),
            "watched": len(self.watches),
        }

    # Registration

    def _keep_claimed(self) -> None:
        """Have it asked, before this agent is registered and now and then, whether its node id is its alone."""
        while True:
            self.look.clear()
            found = self._patiently(NAMESAKES, lambda _: self.run(self.matchmaker.agents, self.agent.node))
            self.others = [agent for agent in found if agent != self.agent]
            self.namesakes(self.others)
            self.look.wait(NAMESAKES_REFRESHES * self.options.refresh_s)

    def _keep_registered(self) -> None:
        while True:
            self.claimed.wait()
            self.work.clear()
            self._patiently(REGISTRATION, lambda _: self._reconcile())
            self.work.wait(max(0.0, min(kept.due for kept in self.kept.values()) - time.monotonic()))

    def _reconcile(self) -> None:
        """Say what is due, longest due first. Raises at the first that fails; it comes after the others next time."""
        while self.withdrawn:
            self.run(self.matchmaker.withdraw, self.withdrawn[0])
            self.withdrawn.pop(0)
        now = time.monotonic()
        due = sorted((item for item in self.kept.items() if item[1].due <= now), key=lambda item: item[1].due)
        for key, kept in due:
            if self.kept.get(key) is kept and self.claimed.is_set():
                kept.due = now
                self._say(kept)
                if kept.due == now:
                    kept.due = now + self.options.refresh_s

    def _say(self, kept: _Kept) -> None:
        """Renew an entry; register it if it is new or was forgotten, the agent's own not before it is claimed anew."""
        health, text = kept.health, kept.text
        if kept.registered:
            if self.run(self.matchmaker.renew, kept.entry, health, text):
                return
            self.note(ENTRY_REPAIRED, entry=str(kept.entry)[:200])
            if kept is self.own:
                kept.registered = False
                self.claimed.clear()
                self.look.set()
                return
        self.run(self.matchmaker.register, kept.entry)
        kept.registered = True
        if health is not Health.PASSING:
            self.run(self.matchmaker.renew, kept.entry, health, text)

    def _patiently(self, what: object, verb: Callable[[int], _Result]) -> _Result:
        """Do a matchmaker's verb, which gets the number of the try, until it succeeds; keep account of its failing."""
        for attempt in patiently(self.options.retry_max_s, partial(self._failed, what)):
            with attempt:
                result = verb(attempt.retry_state.attempt_number)
        self.answered = True
        self._settled(what)
        return result

    def _failed(self, what: object, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if not self.problems:
            self.away_since = time.monotonic()
            defect = {} if isinstance(error, MatchmakerError) else {"exc_info": error}
            self.note(MATCHMAKER_AWAY, logging.WARNING, what=str(what), why=str(error)[:500], **defect)
        self.problems[what] = str(error)[:500] or repr(error)
        if isinstance(what, TopicKey):
            self._tell_remembered(what)

    def _settled(self, what: object) -> None:
        """This no longer fails, or is of no more interest."""
        if self.problems.pop(what, None) is not None and not self.problems:
            self.note(MATCHMAKER_BACK, away_s=round(time.monotonic() - self.away_since, 1))

    # Watches

    def _follow(self, topic: TopicKey, pause_s: float) -> None:
        """Tell of one topic for as long as it is watched. After a failure it is read anew at once."""
        gevent.sleep(pause_s)
        index = 0
        while True:
            snapshot = self._patiently(topic, partial(self._ask, topic, index))
            if snapshot.index != index:
                index = snapshot.index
                self.latest[topic] = snapshot
                self.save.set()
                self.told(snapshot)

    def _ask(self, topic: TopicKey, index: int, attempt: int) -> Snapshot:
        return self.matchmaker.watch(topic, index if attempt == 1 else 0, self.options.watch_wait_s)

    def _tell_remembered(self, topic: TopicKey) -> None:
        """The matchmaker is away: what the last agent knew of the topic is better than nothing, and told once."""
        snapshot = self.before.pop(topic, None)
        if snapshot is not None and topic not in self.latest:
            self.told(snapshot)

    # The directory on disk

    def _load(self) -> dict[TopicKey, Snapshot]:
        try:
            with self.path.open("rb") as file:
                remembered = msgspec.msgpack.decode(file.read(DIRECTORY_BYTES_MAX), type=_Remembered)
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            aside = self.path.with_suffix(".corrupt")
            with contextlib.suppress(OSError):
                self.path.replace(aside)
            self.note(DIRECTORY_CORRUPT, logging.WARNING, path=str(self.path), why=str(error), aside=str(aside))
            return {}
        if remembered.fleet != self.fleet:
            return {}
        return {snapshot.topic: snapshot for snapshot in remembered.snapshots}

    def _keep_saved(self) -> None:
        while True:
            self.save.wait()
            self.save.clear()
            gevent.get_hub().threadpool.apply(self._write, (self._encoded(),))
            gevent.sleep(SAVE_PAUSE_S)

    def _encoded(self) -> bytes:
        snapshots = [snapshot for snapshot in self.latest.values() if snapshot.instances]
        return msgspec.msgpack.encode(_Remembered(time.time(), self.fleet, snapshots))

    def _write(self, data: bytes) -> None:
        """Replace the file whole; a full disk loses only this copy."""
        temporary = self.path.with_suffix(".new")
        with contextlib.suppress(OSError):
            temporary.write_bytes(data)
            os.replace(temporary, self.path)
