"""The caller's agent's half of delivery: what was placed where, and how it ended.

An entry is a request that one of our apps has made and that has not ended. It is *waiting* (nobody is ready for its
topic), *queued* (its target is chosen, the link has no room or is not open yet), *placed* (it has left), or *asked*
about (its link was lost after it had left, or an earlier agent of ours may have sent it). It ends once: with a reply,
with a failure, or, for a cast, when a handler ended it.

An entry that may run twice (a cast that is not ``once``, an idempotent call) is placed again when its target is lost.
Any other is asked about, at every target that may have it, and is placed again only when all have said NEVER. What is
asked of one target is its **inquiry**; all questions of an inquiry on one link have one number.
"""

import enum
from typing import Annotated

from msgspec import Meta, Struct, field

from mesh.core.records import Request
from mesh.core.vocabulary import CALL, FANOUT, IDEMPOTENT, ONCE
from mesh.core.wheel import Wheel
from mesh.types import TopicKey

__all__ = [
    "ASKED",
    "PLACED",
    "QUEUED",
    "WAITING",
    "Entry",
    "Inquiry",
    "Key",
    "Outbox",
    "OutboxOptions",
    "Place",
    "TargetKey",
]

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
    reach_max: Annotated[
        int,
        Meta(
            ge=16,
            le=16_384,
            description="Serving apps that requests of one app may be with at once. The agent that succeeds a killed "
            "one asks each of them. At the limit requests go only to those; where none serves the topic: Overloaded.",
        ),
    ] = 1024
    outcomes_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 34,
            description="Bytes of replies kept for one app until it says that it has them; above it: Overloaded.",
        ),
    ] = 64 << 20
    rate_records_per_s: Annotated[
        float,
        Meta(
            ge=0,
            le=1e9,
            description="Requests that one app may make in a second, on average; 0: as many as it can. Above it: "
            "Overloaded, with the time after which there is room. It bounds what an app that runs wild takes of the "
            "agent's time, and slows one that is only busy.",
        ),
    ] = 0.0
    rate_burst_records: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 24,
            description="Requests that an app may make at once before rate_records_per_s holds it. More lets bursts "
            "through that are followed by silence.",
        ),
    ] = 1000
    floor_pull_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=3600,
            description="How often sessions that ask for nothing more are asked how far they have settled. More often "
            "frees memory sooner.",
        ),
    ] = 10.0
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


WAITING, QUEUED, PLACED, ASKED = Place
"""By names of their own, as in `mesh.core.vocabulary`, for they are asked for with every message."""


class Entry(Struct):
    """One request that has not ended, by its ``key``. ``charged``: the bytes it holds; ``number``: how many were
    admitted before it; ``reached``: the incarnation it was sent to; ``asked``: targets that have not said what became
    of it, and the incarnation that it had been sent to there; ``lost``: one that cannot say; ``targets``: the nodes
    that an earlier agent chose for a fan-out; ``doubtful``: it was lost after it had left, and may have run; ``kept``:
    a cast for which somebody was expected once, so that it waits until its time is over; ``seen_at``: when it last
    showed that it is worked at, if it is watched, ``looked_at``: and when that was last asked."""

    request: Request
    topic: TopicKey
    deadline: float
    charged: int
    number: int = 0
    place: Place = WAITING
    target: TargetKey = ("", 0)
    attempts: int = 0
    doubtful: bool = False
    reached: int = 0
    asked: dict[TargetKey, int] = field(default_factory=dict)
    lost: str = ""
    targets: dict[str, int] | None = None
    kept: bool = False
    seen_at: float = 0.0
    looked_at: float = 0.0
    key: Key = (0, 0)

    def __post_init__(self) -> None:
        self.key = self.request.session, self.request.seq

    @property
    def repeatable(self) -> bool:
        """Whether it may be placed again though it may have run: a fan-out goes to the same, who know a copy."""
        flags = self.request.flags
        if self.request.kind == CALL:
            return bool(flags & IDEMPOTENT)
        return self.request.kind == FANOUT or not flags & ONCE

    @property
    def nodes(self) -> list[str]:
        """The nodes that may have it."""
        if self.place is ASKED:
            return list(dict.fromkeys(node for node, _ in self.asked))
        return [self.target[0]] if self.place is PLACED else []


class Inquiry(Struct):
    """What is asked of one target. ``since``: when it could last be expected to begin to answer; ``number``: that of
    the questions on the live link, 0 before the first; ``unasked``: keys that none of those was about yet."""

    since: float
    number: int = 0
    keys: dict[Key, None] = field(default_factory=dict)
    unasked: dict[Key, None] = field(default_factory=dict)


class Outbox(Struct):
    """All entries of this node's apps. ``queues``: what waits for a link to each node, oldest first; ``held``: what
    waits until its app was told that it goes where it goes, by app; ``unasked``: the targets of inquiries that have
    something new to ask."""

    entries: dict[Key, Entry] = field(default_factory=dict)
    by_target: dict[TargetKey, dict[Key, None]] = field(default_factory=dict)
    waiting: dict[TopicKey, dict[Key, None]] = field(default_factory=dict)
    queues: dict[str, dict[Key, None]] = field(default_factory=dict)
    held: dict[int, dict[tuple[str, Key], None]] = field(default_factory=dict)
    queued: int = 0
    admitted: int = 0
    wheel: Wheel[Key] = field(default_factory=Wheel)
    inquiries: dict[TargetKey, Inquiry] = field(default_factory=dict)
    unasked: dict[TargetKey, None] = field(default_factory=dict)
    question_no: int = 0
    monitored: dict[Key, None] = field(default_factory=dict)

    def admit(self, entry: Entry) -> None:
        """Begin to keep an entry; it is due at its deadline."""
        self.entries[entry.key] = entry
        entry.number = self.admitted
        self.admitted += 1
        if entry.request.monitor_ms:
            self.monitored[entry.key] = None
        self.wheel.add(entry.key, entry.deadline)

    def wait(self, entry: Entry) -> None:
        """Keep an entry until somebody is ready for its topic."""
        entry.place = WAITING
        self.waiting.setdefault(entry.topic, {})[entry.key] = None
        self.queued += 1

    def unwait(self, topic: TopicKey) -> list[Entry]:
        """Take out and return the entries that wait for this topic, oldest first, whenever they began to wait."""
        keys = self.waiting.pop(topic, {})
        self.queued -= len(keys)
        return sorted((self.entries[key] for key in keys), key=lambda entry: entry.number)

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

    def hold(self, node: str, key: Key) -> None:
        """Keep an aimed entry, or a fan-out's part for a node, until its app is told that it goes there."""
        self.held.setdefault(key[0], {})[node, key] = None
        self.queued += 1

    def release(self, session: int) -> list[tuple[str, Key]]:
        """Take out and return what is held for an app, oldest first."""
        held = list(self.held.pop(session, ()))
        self.queued -= len(held)
        return held

    def is_held(self, node: str, key: Key) -> bool:
        return (node, key) in self.held.get(key[0], ())

    def unqueue(self, node: str, key: Key) -> None:
        """It need not be kept for this node any more."""
        if self.is_held(node, key):
            held = self.held[key[0]]
            del held[node, key]
            self.queued -= 1
            if not held:
                del self.held[key[0]]
            return
        keys = self.queues.get(node)
        if keys is not None and key in keys:
            del keys[key]
            self.queued -= 1
            if not keys:
                del self.queues[node]

    def ask(self, entry: Entry, targets: dict[TargetKey, int], now: float) -> None:
        """An unplaced entry may be with any of these targets: whether it is must be asked of each."""
        entry.place, entry.asked, entry.lost = ASKED, targets, ""
        for target in targets:
            inquiry = self.inquiries.setdefault(target, Inquiry(now))
            inquiry.since = now
            inquiry.keys[entry.key] = inquiry.unasked[entry.key] = None
            self.unasked[target] = None

    def ask_anew(self, node: str, now: float) -> None:
        """The link to a node is another one: what was asked by the last must be asked again."""
        for target, inquiry in self.inquiries.items():
            if target[0] == node:
                inquiry.since, inquiry.number, inquiry.unasked = now, 0, dict(inquiry.keys)
                self.unasked[target] = None

    def question(self, target: TargetKey) -> tuple[int, list[Key]]:
        """Return the number of the questions to a target, and what is to be asked now."""
        self.unasked.pop(target, None)
        inquiry = self.inquiries[target]
        if not inquiry.number:
            self.question_no += 1
            inquiry.number = self.question_no
        keys, inquiry.unasked = list(inquiry.unasked), {}
        return inquiry.number, keys

    def answered(self, entry: Entry, target: TargetKey) -> None:
        """A target that was asked about an entry is not waited for any more."""
        del entry.asked[target]
        inquiry = self.inquiries[target]
        del inquiry.keys[entry.key]
        inquiry.unasked.pop(entry.key, None)
        if not inquiry.keys:
            del self.inquiries[target]
            self.unasked.pop(target, None)

    def unplace(self, entry: Entry) -> None:
        """Take the entry out of wherever it is; it has neither target nor place."""
        key = entry.key
        if entry.place is WAITING:
            keys = self.waiting.get(entry.topic)
            if keys is not None and key in keys:
                del keys[key]
                self.queued -= 1
                if not keys:
                    del self.waiting[entry.topic]
            return
        if entry.place is ASKED:
            for target in list(entry.asked):
                self.answered(entry, target)
            entry.place = WAITING
            return
        if entry.place is QUEUED:
            self.unqueue(entry.target[0], key)
        keys = self.by_target[entry.target]
        del keys[key]
        if not keys:
            del self.by_target[entry.target]
        entry.place = WAITING

    def end(self, key: Key) -> Entry | None:
        """Take out and return an entry that ended; None: it had ended before."""
        entry = self.entries.pop(key, None)
        if entry is not None:
            self.wheel.remove(key, entry.deadline)
            if entry.place is not WAITING or self.waiting:
                self.unplace(entry)
            if entry.request.monitor_ms:
                del self.monitored[key]
        return entry

    def outstanding(self, target: TargetKey) -> int:
        """Return how many entries are with a target."""
        keys = self.by_target.get(target)
        return len(keys) if keys else 0

    def unsent(self, node: str) -> int:
        """Return how much waits for the link to a node, or is asked there: what is lost with no link."""
        held = sum(to == node for parts in self.held.values() for to, _ in parts)
        asked = sum(len(inquiry.keys) for target, inquiry in self.inquiries.items() if target[0] == node)
        return len(self.queues.get(node, ())) + held + asked

    def at_node(self, node: str) -> list[Entry]:
        """Return the entries that are aimed at a node."""
        keys = [key for target, keys in self.by_target.items() if target[0] == node for key in keys]
        return [self.entries[key] for key in keys]

    def overdue(self, grace_s: float, now: float) -> list[TargetKey]:
        """Return the targets that have not answered for ``grace_s``."""
        return [target for target, inquiry in self.inquiries.items() if now - inquiry.since >= grace_s]
