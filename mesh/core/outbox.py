"""The caller's agent's half of delivery: what was placed where, and how it ended.

An entry is a request that one of our apps has made and that has not ended. It is *waiting* (nobody is ready for its
topic), *queued* (its target is chosen, the link has no room or is not open yet), *placed* (it has left), or *asked*
about (its link was lost after it had left). It ends once: with a reply, with a failure, or, for a cast, when a handler
ended it.

An entry that may run twice (a cast that is not ``once``, an idempotent call) is placed again when its target is lost.
Any other is asked about, and is placed again only on the word NEVER.
"""

import enum
from typing import Annotated

from msgspec import Meta, Struct, field

from mesh.core.records import Flag, GiveBack, Kind, Request
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
    QUEUED = 1
    PLACED = 2
    ASKED = 3


class Entry(Struct):
    """One request that has not ended. ``charged`` is its weight; ``reached``: the incarnation it was sent
    to; ``doubtful``: it was lost after it had left, and may have run; ``refusal``: why it was given back last."""

    request: Request
    topic: TopicKey
    deadline: float
    charged: int
    place: Place = Place.WAITING
    target: TargetKey = ("", 0)
    attempts: int = 0
    doubtful: bool = False
    reached: int = 0
    asked_at: float = 0.0
    refusal: GiveBack | None = None

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
    """All entries of this node's apps. ``queues``: what waits for a link to each node, oldest first."""

    entries: dict[Key, Entry] = field(default_factory=dict)
    by_target: dict[TargetKey, dict[Key, None]] = field(default_factory=dict)
    waiting: dict[TopicKey, dict[Key, None]] = field(default_factory=dict)
    queues: dict[str, dict[Key, None]] = field(default_factory=dict)
    queued: int = 0
    asked: dict[Key, None] = field(default_factory=dict)
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
        self.queued += 1

    def unwait(self, topic: TopicKey) -> list[Entry]:
        """Take out and return the entries that wait for this topic, oldest first."""
        keys = self.waiting.pop(topic, {})
        self.queued -= len(keys)
        return [self.entries[key] for key in keys]

    def aim(self, entry: Entry, target: TargetKey) -> None:
        """The entry goes to this target from now on."""
        entry.target = target
        keys = self.by_target.get(target)
        if keys is None:
            keys = self.by_target[target] = {}
        keys[entry.key] = None

    def queue(self, node: str, key: Key) -> None:
        """Keep an aimed entry, or a fan-out's part for a node, until the link to the node takes it."""
        self.queues.setdefault(node, {})[key] = None
        self.queued += 1

    def unqueue(self, node: str, key: Key) -> None:
        """It need not be kept for this node any more."""
        keys = self.queues.get(node)
        if keys is not None and key in keys:
            del keys[key]
            self.queued -= 1
            if not keys:
                del self.queues[node]

    def ask_about(self, entry: Entry, now: float) -> None:
        """The entry had left and its link was lost: whether it runs must be asked."""
        entry.place = Place.ASKED
        entry.asked_at = now
        self.asked[entry.key] = None

    def known(self, entry: Entry) -> None:
        """The question about an entry was answered: it is there."""
        entry.place = Place.PLACED
        self.asked.pop(entry.key, None)

    def unplace(self, entry: Entry) -> None:
        """Take the entry out of wherever it is; it has neither target nor place."""
        key = entry.key
        if entry.place is Place.WAITING:
            keys = self.waiting.get(entry.topic)
            if keys is not None and key in keys:
                del keys[key]
                self.queued -= 1
                if not keys:
                    del self.waiting[entry.topic]
            return
        if entry.place is Place.QUEUED:
            self.unqueue(entry.target[0], key)
        elif entry.place is Place.ASKED:
            self.asked.pop(key, None)
        keys = self.by_target[entry.target]
        del keys[key]
        if not keys:
            del self.by_target[entry.target]
            self.questions.pop(entry.target, None)
        entry.place = Place.WAITING

    def end(self, key: Key) -> Entry | None:
        """Take out and return an entry that ended; None: it had ended before. Its ``place`` is where it was."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.wheel.remove(key, entry.deadline)
            place = entry.place
            self.unplace(entry)
            entry.place = place
        return entry

    def outstanding(self, target: TargetKey) -> int:
        """Return how many entries are with a target."""
        keys = self.by_target.get(target)
        return len(keys) if keys else 0

    def at_node(self, node: str) -> list[Entry]:
        """Return the entries that are aimed at a node."""
        keys = [key for target, keys in self.by_target.items() if target[0] == node for key in keys]
        return [self.entries[key] for key in keys]

    def question(self, target: TargetKey) -> int:
        """Return the number of a new question about a target, which is the latest one from now on."""
        self.question_no += 1
        self.questions[target] = self.question_no
        return self.question_no

    def overdue(self, grace_s: float, now: float) -> list[Entry]:
        """Return the entries that were asked about for longer than ``grace_s``."""
        return [self.entries[key] for key in self.asked if now - self.entries[key].asked_at >= grace_s]
