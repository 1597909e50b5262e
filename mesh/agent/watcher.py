"""The matchmaker's side of an agent: entries kept registered, topics watched, the last word kept on disk.

Verbs do their work once; trying again is done here, for ever, with a jittered pause. While the matchmaker is away
nothing here fails: what was known stays known, what is to be registered is registered when it is back. An agent that
starts while it is away is told the snapshots that the last one kept (`remembered`).
"""

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import gevent
import msgspec
import tenacity
from gevent.event import Event
from msgspec import Meta, Struct

from mesh.core.catalogue import AgentEntry, Health, Instance, Snapshot
from mesh.matchmaker.base import Entry, Matchmaker, MatchmakerError
from mesh.types import InstanceKey, TopicKey

__all__ = [
    "DIRECTORY_CORRUPT",
    "ENTRY_REPAIRED",
    "MATCHMAKER_AWAY",
    "MATCHMAKER_BACK",
    "Watcher",
    "WatcherOptions",
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


class WatcherOptions(Struct, frozen=True):
    """How the matchmaker is spoken to."""

    refresh_s: Annotated[
        float,
        Meta(
            ge=0.05,
            le=600,
            description="How often entries are renewed; at most a third of their TTL. More often notices a wiped "
            "matchmaker sooner and costs it a write each time.",
        ),
    ] = 5.0
    watch_wait_s: Annotated[
        float,
        Meta(ge=1, le=540, description="How long one question for changes stays open. Longer costs fewer requests."),
    ] = 60.0
    retry_max_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=300,
            description="The longest pause between two tries while the matchmaker is away, so also how late its "
            "return is noticed.",
        ),
    ] = 5.0


class _Kept(Struct):
    """What is registered, or is to be: the entry, its health, and whether the matchmaker has it."""

    entry: Entry
    health: Health = Health.PASSING
    text: str = ""
    registered: bool = False


class _Remembered(Struct):
    """The directory on disk: when it was written (unix seconds, for people) and the last snapshots."""

    written_at: float
    fleet: str
    snapshots: list[Snapshot]


class Watcher:
    """Keeps one agent and its instances registered and its topics watched. ``told`` gets every snapshot."""

    def __init__(
        self,
        matchmaker: Matchmaker,
        agent: AgentEntry,
        fleet: str,
        options: WatcherOptions,
        data_dir: Path,
        told: Callable[[Snapshot], None],
        note: Callable[..., None],
    ) -> None:
        self.matchmaker = matchmaker
        self.options = options
        self.fleet = fleet
        self.told = told
        self.note = note
        self.path = data_dir / "directory.msgpack"
        self.kept: dict[str | tuple[TopicKey, InstanceKey], _Kept] = {agent.node: _Kept(agent)}
        self.withdrawn: list[Entry] = []
        self.watches: dict[TopicKey, gevent.Greenlet] = {}
        self.latest: dict[TopicKey, Snapshot] = {}
        self.before: dict[TopicKey, Snapshot] = self._load()
        self.away_since: float | None = None
        self.problem = ""
        self.work = Event()
        self.save = Event()
        self.greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        """Begin to register and to save."""
        self.greenlets = [gevent.spawn(self._keep_registered), gevent.spawn(self._keep_saved)]

    def stop(self) -> None:
        """Withdraw what is registered, if the matchmaker takes it at once, and end."""
        gevent.killall([*self.greenlets, *self.watches.values()], block=False)
        with contextlib.suppress(MatchmakerError, gevent.Timeout), gevent.Timeout(1.0):
            for kept in list(self.kept.values()):
                self.matchmaker.withdraw(kept.entry)
        self.matchmaker.close()

    # What the node wants

    def register(self, instance: Instance) -> None:
        """Keep an instance registered from now on."""
        self.kept[instance.topic_key, instance.key] = _Kept(instance)
        self.work.set()

    def renew(self, instance: Instance, health: Health, text: str) -> None:
        """Renew an instance with this health from now on."""
        kept = self.kept.get((instance.topic_key, instance.key))
        if kept is not None:
            kept.health, kept.text = health, text
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

    def facts(self) -> dict[str, object]:
        """Return what the agent's status says of the matchmaker."""
        away = self.away_since
        return {
            "reachable": away is None,
            "away_s": round(time.monotonic() - away, 1) if away is not None else 0.0,
            "problem": self.problem if away is not None else "",
            "registered": sum(kept.registered for kept in self.kept.values()),
            "to_register": len(self.kept),
            "watched": len(self.watches),
        }

    # Registration

    def _keep_registered(self) -> None:
        while True:
            self.work.clear()
            self._patiently(self._reconcile)
            self.work.wait(self.options.refresh_s)

    def _reconcile(self) -> None:
        """Make the matchmaker's entries what they should be. Raises MatchmakerError at the first that fails."""
        while self.withdrawn:
            self.matchmaker.withdraw(self.withdrawn[0])
            self.withdrawn.pop(0)
        for kept in list(self.kept.values()):
            if kept.registered and self.matchmaker.renew(kept.entry, kept.health, kept.text):
                continue
            if kept.registered:
                self.note(ENTRY_REPAIRED, entry=str(kept.entry)[:200])
            self.matchmaker.register(kept.entry)
            kept.registered = True
            if kept.health is not Health.PASSING:
                self.matchmaker.renew(kept.entry, kept.health, kept.text)

    def _patiently(self, verb: Callable[[], None]) -> None:
        """Do a matchmaker's verb until it succeeds, and keep account of whether it is away."""
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(MatchmakerError),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=self.options.retry_max_s),
            after=self._failed,
            sleep=gevent.sleep,
        ):
            with attempt:
                verb()
        if self.away_since is not None:
            self.note(MATCHMAKER_BACK, away_s=round(time.monotonic() - self.away_since, 1))
            self.away_since = None

    def _failed(self, state: tenacity.RetryCallState) -> None:
        self.problem = str(state.outcome.exception())[:500] if state.outcome else ""
        if self.away_since is None:
            self.away_since = time.monotonic()
            self.note(MATCHMAKER_AWAY, problem=self.problem)

    # Watches

    def _follow(self, topic: TopicKey, pause_s: float) -> None:
        """Tell of one topic for as long as it is watched."""
        gevent.sleep(pause_s)
        index = 0

        def once() -> None:
            nonlocal index
            try:
                snapshot = self.matchmaker.watch(topic, index, self.options.watch_wait_s)
            except MatchmakerError:
                self._tell_remembered(topic)
                raise
            changed = snapshot.index != index
            index = snapshot.index
            if changed:
                self.latest[topic] = snapshot
                self.save.set()
                self.told(snapshot)

        while True:
            self._patiently(once)

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
            self.note(DIRECTORY_CORRUPT, path=str(self.path), why=str(error), aside=str(aside))
            return {}
        if remembered.fleet != self.fleet:
            return {}
        return {snapshot.topic: snapshot for snapshot in remembered.snapshots}

    def _keep_saved(self) -> None:
        while True:
            self.save.wait()
            self.save.clear()
            snapshots = [snapshot for snapshot in self.latest.values() if snapshot.instances]
            data = msgspec.msgpack.encode(_Remembered(time.time(), self.fleet, snapshots))
            gevent.get_hub().threadpool.apply(self._write, (data,))
            gevent.sleep(SAVE_PAUSE_S)

    def _write(self, data: bytes) -> None:
        """Replace the file whole; a full disk loses only this copy."""
        temporary = self.path.with_suffix(".new")
        with contextlib.suppress(OSError):
            temporary.write_bytes(data)
            os.replace(temporary, self.path)
