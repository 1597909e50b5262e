"""The serving agent's half of delivery: ids handed out, queues, credit.

Every request that reaches an app of this node is kept by its identity, until the caller's floor passes it or it
expires: a copy that comes again (its link was replaced, its caller replayed it) must find the first. What has ended
keeps its answer, within ``answers_bytes``, so that the copy is answered and not run.

Each service of each app has a queue. A call is handed out only when one of the service's workers can begin it: what
is handed is begun, so nothing needs to be said about which of the handed had started when an app dies. Repeatable
work is handed out ahead, up to ``prefetch``; neither goes beyond ``handed_bytes``.
"""

import enum
from typing import Annotated

from msgspec import Meta, Struct, field, structs

from mesh.core.records import Failure, Receipt, Reply, Request
from mesh.core.vocabulary import CALL, CAST, IDEMPOTENT, ONCE
from mesh.core.wheel import Wheel

__all__ = ["ENDED", "HANDED", "QUEUED", "Caller", "Fifo", "Handed", "Id", "Inbox", "InboxOptions", "Service", "Stage"]

Id = tuple[str, int, int]
"""``(node, session, seq)``: the identity of a request, from end to end."""

EXPIRY_MARGIN_S = 1.0
"""How much longer than its deadline an id is remembered, for clocks that run at different rates."""


class InboxOptions(Struct, frozen=True):
    """What may wait for an app of this node."""

    queue_records: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 20,
            description="Requests that may wait for one instance; above it they are given back as Overloaded.",
        ),
    ] = 10_000
    queue_bytes: Annotated[int, Meta(ge=1 << 10, le=1 << 34, description="Bytes of their bodies, likewise.")] = 64 << 20
    ids_max: Annotated[
        int,
        Meta(
            ge=1024,
            le=1 << 24,
            description="Requests remembered at once, until their caller has settled them or they expire; above it new "
            "ones are given back as Overloaded. Each takes about half a kilobyte.",
        ),
    ] = 1 << 18
    handed_bytes: Annotated[
        int,
        Meta(
            ge=1 << 10,
            le=1 << 34,
            description="Bytes of bodies that one instance is handed before it has ended some; a single larger one is "
            "handed alone. Keep it below app_unread_bytes_max, which cuts off an app that reads nothing.",
        ),
    ] = 64 << 20
    close_grace_s: Annotated[
        float,
        Meta(
            ge=0,
            le=60,
            description="How long the goodbye of an app waits for its callers to have settled what it answered. "
            "Shorter ends apps sooner, and leaves the kept answers to this agent alone.",
        ),
    ] = 2.0
    answers_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 34,
            description="Bytes of reply bodies kept for copies that come again. When full, the id is kept without "
            "its reply, and a copy is answered as Indeterminate.",
        ),
    ] = 64 << 20


class Stage(enum.IntEnum):
    """How far a request has come here."""

    QUEUED = 0
    HANDED = 1
    ENDED = 2


QUEUED, HANDED, ENDED = Stage
"""By names of their own, as in `mesh.core.vocabulary`, for they are asked for with every message."""


class Handed(Struct):
    """One request of a remote or local caller, by its ``id``. ``charged``: the bytes it holds; ``parts``: for a
    fan-out, what each serving session made of it, of which ``failed`` did and ``unknown`` were lost."""

    request: Request
    expires: float
    charged: int
    stage: Stage = QUEUED
    target: int = 0
    cancelled: bool = False
    answer: Reply | Failure | Receipt | None = None
    parts: dict[int, Stage] = field(default_factory=dict)
    failed: int = 0
    unknown: int = 0
    id: Id = ("", 0, 0)

    def __post_init__(self) -> None:
        self.id = self.request.node, self.request.session, self.request.seq

    @property
    def is_call(self) -> bool:
        """Whether it must not run twice, and so is not handed out before a worker can begin it: a call that is not
        idempotent, a cast that is ``once``."""
        flags = self.request.flags
        if self.request.kind == CALL:
            return not flags & IDEMPOTENT
        return self.request.kind == CAST and bool(flags & ONCE)


class Caller(Struct):
    """What is remembered of one calling session: requests by seq, all of them at or above its floor."""

    floor: int = 0
    handed: dict[int, Handed] = field(default_factory=dict)
    heard_at: float = 0.0


class Fifo(Struct):
    """A queue of ids, first in first out; those that left otherwise are skipped by the reader."""

    items: list[Id] = field(default_factory=list)
    head: int = 0

    def push(self, item: Id) -> None:
        """Append."""
        self.items.append(item)

    def pop(self) -> Id | None:
        """Take out and return the oldest, or None."""
        if self.head == len(self.items):
            return None
        item = self.items[self.head]
        self.head += 1
        if self.head > 64 and 2 * self.head > len(self.items):
            del self.items[: self.head]
            self.head = 0
        return item

    def peek(self) -> Id | None:
        """Return the oldest, or None."""
        return self.items[self.head] if self.head < len(self.items) else None


class Service(Struct):
    """One topic that an app serves: its queue, and how much of it is with the app. ``running``: what it holds, and the
    bytes of each; ``overrun``: what of that was forgotten when its time was over, and when that was; ``pace_s``: the
    time from one end to the next while work waits, of late."""

    topic: str
    server: str
    workers: int
    prefetch: int
    queue: Fifo = field(default_factory=Fifo)
    queued: int = 0
    queued_bytes: int = 0
    running: dict[Id, int] = field(default_factory=dict)
    running_bytes: int = 0
    overrun: dict[Id, float] = field(default_factory=dict)
    leaving: bool = False
    pace_s: float = 0.0
    paced_at: float = 0.0

    def enqueue(self, handed: Handed, now: float) -> None:
        """A request waits."""
        if not self.queued:
            self.paced_at = now
        self.queued += 1
        self.queued_bytes += handed.charged
        self.queue.push(handed.id)

    def unqueue(self, handed: Handed) -> None:
        """A request waits no more; its id stays in ``queue`` until the reader passes it."""
        self.queued -= 1
        self.queued_bytes -= handed.charged

    def begin(self, handed: Handed) -> None:
        """A request is with the app, and does not wait."""
        self.running[handed.id] = handed.charged
        self.running_bytes += handed.charged

    def end(self, id: Id, now: float) -> None:
        """The app is done with a request."""
        self.running_bytes -= self.running.pop(id)
        if self.queued:
            self.pace_s += (now - self.paced_at - self.pace_s) / 8
        self.paced_at = now

    def may_begin(self, handed: Handed, options: InboxOptions) -> bool:
        """Return whether the app has room for this request: what must not run twice needs a worker that is free."""
        if self.running and self.running_bytes + handed.charged > options.handed_bytes:
            return False
        if handed.is_call:
            return len(self.running) < self.workers
        return len(self.running) < max(self.prefetch, self.workers)

    def retry_after_ms(self, now: float) -> int:
        """Return when to come back after this queue was full: when an eighth of it is worked off, at its pace of late,
        and not sooner than it has now stood still; between 20 ms and 5 s, 100 ms while no pace is known."""
        wait_s = max(self.pace_s * self.queued / 8 if self.pace_s else 0.1, now - self.paced_at)
        return round(1000 * min(5.0, max(0.02, wait_s)))

    def full(self, options: InboxOptions, charged: int) -> str | None:
        """Return the limit that one more queued request would break, or None."""
        if self.queued >= options.queue_records:
            return "queue_records"
        if self.queued and self.queued_bytes + charged > options.queue_bytes:
            return "queue_bytes"
        return None


class Inbox(Struct):
    """All requests that have reached this node's apps and are not forgotten."""

    callers: dict[tuple[str, int], Caller] = field(default_factory=dict)
    wheel: Wheel[Id] = field(default_factory=lambda: Wheel(tick_s=0.25))
    answers_bytes: int = 0
    ids: int = 0

    def find(self, id: Id) -> Handed | None:
        """Return what is remembered of an id."""
        caller = self.callers.get((id[0], id[1]))
        return caller.handed.get(id[2]) if caller else None

    def caller(self, node: str, session: int, now: float) -> Caller:
        """Return what is remembered of a calling session, making it; it was heard of now."""
        caller = self.callers.get((node, session))
        if caller is None:
            caller = self.callers[node, session] = Caller()
        caller.heard_at = now
        return caller

    def keep(self, caller: Caller, handed: Handed) -> None:
        """Remember a request."""
        self.ids += 1
        caller.handed[handed.request.seq] = handed
        self.wheel.add(handed.id, handed.expires)

    def full(self, options: InboxOptions) -> str | None:
        """Return the limit that one more request would break, or None."""
        return "ids_max" if self.ids >= options.ids_max else None

    def raise_floor(self, caller: Caller, floor: int) -> None:
        """Everything of this session below ``floor`` is settled: forget what has ended of it."""
        if floor <= caller.floor:
            return
        span = floor - caller.floor
        seqs = range(caller.floor, floor) if span < len(caller.handed) else [s for s in caller.handed if s < floor]
        caller.floor = floor
        for seq in seqs:
            self.settle(caller, seq)

    def settle(self, caller: Caller, seq: int) -> None:
        """One of this session above its floor is settled too."""
        handed = caller.handed.get(seq)
        if handed is not None and handed.stage is ENDED:
            self._drop(caller, handed)

    def end(self, handed: Handed, answer: Reply | Failure | Receipt | None, options: InboxOptions) -> None:
        """The request has ended here; its answer is kept for copies, within the limit, and its body is not."""
        handed.stage = ENDED
        if handed.request.body or handed.request.headers:
            handed.request = structs.replace(handed.request, body=b"", headers=None)
        if isinstance(answer, Reply):
            if self.answers_bytes + len(answer.body) > options.answers_bytes:
                answer = None
            else:
                self.answers_bytes += len(answer.body)
        handed.answer = answer
        caller = self.callers.get((handed.request.node, handed.request.session))
        if caller is not None and handed.request.seq < caller.floor:
            self._drop(caller, handed)

    def erase(self, handed: Handed) -> None:
        """Forget a request as though it had never come: it was given back."""
        caller = self.callers[handed.request.node, handed.request.session]
        self._drop(caller, handed)

    def _drop(self, caller: Caller, handed: Handed) -> None:
        self.ids -= caller.handed.pop(handed.request.seq, None) is not None
        self.wheel.remove(handed.id, handed.expires)
        if isinstance(handed.answer, Reply):
            self.answers_bytes -= len(handed.answer.body)

    def expired(self, now: float) -> list[Handed]:
        """Take out and return what is not to be remembered any longer."""
        gone = []
        for id in self.wheel.due(now):
            caller = self.callers[id[0], id[1]]
            handed = caller.handed[id[2]]
            self._drop(caller, handed)
            gone.append(handed)
        return gone

    def forget_idle(self, idle_s: float, now: float) -> None:
        """Forget the floors of sessions with nothing remembered that were not heard of for ``idle_s``."""
        for key, caller in list(self.callers.items()):
            if not caller.handed and now - caller.heard_at >= idle_s:
                del self.callers[key]
