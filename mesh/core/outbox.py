"""The caller's agent's half of delivery: what was placed where, and how it ended.

An entry is a request that one of our apps has made and that has not ended. It is *waiting* (for an instance, a link
or room), *placed* (handed to a link or to a local app), or *asked* about (its link was lost after it had left). It
ends once: with a reply, with a failure, or, for a cast, when a handler ended it.

An entry that may run twice (a cast that is not ``once``, an idempotent call) is placed again when its target is lost.
Any other is asked about, and is placed again only on the word NEVER.
"""

import enum
from typing import Annotated

from msgspec import Meta, Struct, field

from mesh.core.records import Flag, Kind, Request
from mesh.core.wheel import Wheel
from mesh.types import TopicKey

__all__ = ["Entry", "Key", "Outbox", "OutboxOptions", "Place", "TargetKey"]

Key = tuple[int, int]
"""``(session, seq)``: a request of one of this node's apps."""

TargetKey = tuple[str, int]
"""``(node, session)``: a serving app; session 0 for all those of a node that a fan-out goes to."""


class OutboxOptions(Struct, frozen=True):
    """What an app may have outstanding, and how often work is placed."""

    call_timeout_max_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=86_400,
            description="The longest timeout of a call; ids are remembered that long at the other end.",
        ),
    ] = 3600.0
    outstanding_records: Annotated[
        int,
        Meta(ge=1, le=1 << 20, description="Unsettled records that one app may have; above it: Overloaded, at once."),
    ] = 10_000
    outstanding_bytes: Annotated[
        int, Meta(ge=1 << 20, le=1 << 34, description="Bytes of bodies in them, likewise.")
    ] = 64 << 20
    session_window: Annotated[
        int,
        Meta(
            ge=1024,
            le=1 << 24,
            description="How far an app's newest seq may be ahead of its oldest unsettled one; it bounds what agents "
            "remember of a session. Above it: Overloaded.",
        ),
    ] = 65_536
    attempts_max: Annotated[
        int,
        Meta(
            ge=1,
            le=100,
            description="How often repeatable work is placed when the process that had begun it died. More survives "
            "more crashes, and lets a poisonous message cause more.",
        ),
    ] = 3
    resume_grace_s: Annotated[
        float,
        Meta(
            ge=0,
            le=600,
            description="How long an app, or an agent, that was lost may take to come back before what it held is "
            "given up.",
        ),
    ] = 5.0


class Place(enum.IntEnum):
    """Where an entry is."""

    WAITING = 0
    PLACED = 1
    ASKED = 2


class Entry(Struct):
    """One request that has not ended. ``charged`` is its weight; ``attempts`` counts lost placements."""

    request: Request
    topic: TopicKey
    deadline: float
    charged: int
    place: Place = Place.WAITING
    target: TargetKey = ("", 0)
    attempts: int = 0
    dispatches: int = 0
    ever_placed: bool = False
    asked_at: float = 0.0

    @property
    def key(self) -> Key:
        return self.request.session, self.request.seq

    @property
    def repeatable(self) -> bool:
        """Whether it may be placed again though it may have run."""
        flags = self.request.flags
        if self.request.kind == Kind.CALL:
            return bool(flags & Flag.IDEMPOTENT)
        return not flags & Flag.ONCE


class Outbox(Struct):
    """All entries of this node's apps."""

    entries: dict[Key, Entry] = field(default_factory=dict)
    by_target: dict[TargetKey, dict[Key, None]] = field(default_factory=dict)
    waiting: dict[TopicKey, dict[Key, None]] = field(default_factory=dict)
    wheel: Wheel[Key] = field(default_factory=Wheel)
    question_no: int = 0
    questions: dict[TargetKey, int] = field(default_factory=dict)

    def admit(self, entry: Entry) -> None:
        """Begin to keep an entry; it is due at its deadline."""
        self.entries[entry.key] = entry
        self.wheel.add(entry.key, entry.deadline)

    def wait(self, entry: Entry) -> None:
        """Keep an entry until somebody is ready for its topic."""
        entry.place = Place.WAITING
        self.waiting.setdefault(entry.topic, {})[entry.key] = None

    def unwait(self, topic: TopicKey) -> list[Entry]:
        """Take out and return the entries that wait for this topic, oldest first."""
        return [self.entries[key] for key in self.waiting.pop(topic, {})]

    def placed(self, entry: Entry, target: TargetKey) -> None:
        """The entry now goes to this target."""
        entry.place = Place.PLACED
        entry.target = target
        keys = self.by_target.get(target)
        if keys is None:
            keys = self.by_target[target] = {}
        keys[entry.key] = None

    def unplace(self, entry: Entry) -> None:
        """The entry no longer goes where it was placed, or no longer waits."""
        if entry.place is Place.WAITING:
            keys = self.waiting.get(entry.topic)
            if keys is not None:
                keys.pop(entry.key, None)
                if not keys:
                    del self.waiting[entry.topic]
            return
        keys = self.by_target.get(entry.target)
        if keys is not None:
            keys.pop(entry.key, None)
            if not keys:
                del self.by_target[entry.target]
                self.questions.pop(entry.target, None)

    def end(self, key: Key) -> Entry | None:
        """Take out and return an entry that ended; None: it had ended before."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.wheel.remove(key, entry.deadline)
            self.unplace(entry)
        return entry

    def outstanding(self, target: TargetKey) -> int:
        """Return how many entries are with a target."""
        keys = self.by_target.get(target)
        return len(keys) if keys else 0

    def at_node(self, node: str) -> list[TargetKey]:
        """Return the targets on a node that hold entries."""
        return [target for target in self.by_target if target[0] == node]

    def ask(self, target: TargetKey, now: float) -> tuple[int, list[Key]]:
        """Make the latest question about a target; return its number and the ids to ask for."""
        self.question_no += 1
        self.questions[target] = self.question_no
        keys = [key for key in self.by_target.get(target, {}) if self.entries[key].place is Place.ASKED]
        for key in keys:
            self.entries[key].asked_at = now
        return self.question_no, keys

    def answers(self, target: TargetKey, number: int) -> bool:
        """Return whether an answer is to the latest question about a target."""
        return self.questions.get(target) == number
