"""Which links should exist: leases, the budget, eviction, redialling.

Each peer that was ever wanted has a slot. A slot takes a place of the budget from its dial until its link is closed.
Whatever is outstanding over a link holds a **lease** on it; a leased link is never evicted. A link that carries a hot
topic is persistent; any other is ephemeral and closes ``idle_close_s`` after its last lease.

When a link is wanted and the budget is spent, room is made: first the ephemeral link that has been idle longest, then
the persistent one whose hottest topic is coldest. If every link is leased, the slot waits its turn; how long a record
may wait for it is its own deadline's business.

Every method that decides returns the actions to carry out, and has already reserved what they use.
"""

import enum
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct, field

from mesh.core.rng import Rng
from mesh.types import TopicKey

__all__ = ["Action", "Close", "Dial", "Pool", "PoolOptions", "Slot", "State"]

YOUNG_SHARE = 0.1
"""A link that breaks before this part of ``redial_max_s`` is over breaks young."""


class PoolOptions(Struct, frozen=True):
    """How many links, and how long they are kept."""

    links_max: Annotated[
        int,
        Meta(
            ge=2,
            le=100_000,
            description="Links at once, both dialled and accepted. A dialled one costs two file descriptors, an "
            "accepted one costs one. With no room, messages wait within their deadline.",
        ),
    ] = 256
    idle_close_s: Annotated[
        float,
        Meta(
            ge=0.05,
            le=86_400,
            description="An ephemeral link closes this long after its last outstanding record. Longer saves dials, "
            "shorter saves descriptors.",
        ),
    ] = 60.0
    redial_min_s: Annotated[
        float,
        Meta(
            ge=0.001, le=60, description="The first redial comes at once, the second after this; it doubles, jittered."
        ),
    ] = 0.05
    redial_max_s: Annotated[
        float, Meta(ge=0.01, le=3600, description="The longest pause between two dials of one peer.")
    ] = 5.0
    waiting_records_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 20,
            description="Records that may wait for links, over all peers; above it the answer is Overloaded at once.",
        ),
    ] = 20_000


class State(enum.IntEnum):
    """What a slot's link is doing."""

    CLOSED = 0
    DIALLING = 1
    OPEN = 2
    CLOSING = 3


class Dial(Struct, frozen=True):
    """Open a link to this node; its place is reserved."""

    node: str


class Close(Struct, frozen=True):
    """Say goodbye on the link to this node; ``final``: whatever its other end has open."""

    node: str
    reason: str
    final: bool = False


Action = Dial | Close


class Slot(Struct):
    """One peer. ``wanted``: somebody waits for a link, since ``wanted_at``; ``used_at``: when a lease last began or
    ended; ``topics``: those of ours that its link carries, and when each last did."""

    node: str
    state: State = State.CLOSED
    leases: int = 0
    wanted: bool = False
    wanted_at: float = 0.0
    persistent: bool = False
    rate: float = 0.0
    used_at: float = 0.0
    retry_at: float = 0.0
    failures: int = 0
    breaks: int = 0
    opened_at: float = 0.0
    topics: dict[TopicKey, float] = field(default_factory=dict)


class Pool(Struct):
    """The slots, and how many take a place of the budget. ``due``: when the first pause before a wanted dial ends."""

    slots: dict[str, Slot] = field(default_factory=dict)
    taken: int = 0
    due: float | None = None

    def slot(self, node: str) -> Slot:
        """Return the slot of a node, making one."""
        slot = self.slots.get(node)
        if slot is None:
            slot = self.slots[node] = Slot(node)
        return slot

    def lease(self, node: str, now: float, topic: TopicKey | None = None) -> None:
        """Something is outstanding over the link to this node: a request of ours to a topic, or one of theirs."""
        slot = self.slot(node)
        slot.leases += 1
        slot.used_at = now
        if topic is not None:
            slot.topics[topic] = now

    def release(self, node: str, now: float, count: int = 1) -> None:
        """That many outstanding things ended; after the last nobody waits for a link."""
        slot = self.slots[node]
        slot.leases -= count
        slot.used_at = now
        slot.wanted = slot.wanted and slot.leases > 0
        assert slot.leases >= 0, f"{node}: released more than was leased"

    def want(self, node: str, options: PoolOptions, now: float) -> list[Action]:
        """Have a link to this node opened as soon as the budget and the redial pause allow."""
        slot = self.slot(node)
        if slot.state in (State.OPEN, State.DIALLING):
            return []
        if not slot.wanted:
            slot.wanted, slot.wanted_at = True, now
        return self._serve_wanted(options, now) if slot.state is State.CLOSED else []

    def opened(self, node: str, now: float) -> None:
        """A link to this node is open, whoever dialled it."""
        slot = self.slot(node)
        if slot.state is State.CLOSED:
            self.taken += 1
        slot.state = State.OPEN
        slot.wanted = False
        slot.failures = 0
        slot.retry_at = 0.0
        slot.opened_at = slot.used_at = now

    def closing(self, node: str) -> None:
        """The link to this node is saying goodbye."""
        self.slots[node].state = State.CLOSING

    def leave(self, nodes: Sequence[str], reason: str) -> list[Action]:
        """Have the links to these nodes say goodbye, whatever is open there."""
        for node in nodes:
            self.closing(node)
        return [Close(node, reason, final=True) for node in nodes]

    def stayed(self, node: str, now: float) -> None:
        """The other end of a link that was saying goodbye still needs it: it is open, and was used now."""
        slot = self.slots[node]
        slot.state, slot.wanted, slot.used_at = State.OPEN, False, now

    def closed(
        self, node: str, options: PoolOptions, now: float, rng: Rng, *, broken: bool, pause_s: float = 0.0
    ) -> list[Action]:
        """The link or dial to this node is gone; ``broken``: it was not closed in order; ``pause_s``: after which its
        other end, which had no room, wants to be dialled again.

        A dial that broke backs off, and so do links that break young, one after the other: they would be dialled
        without end. A link that worked for a while and broke, however often, is dialled again at once.
        """
        slot = self.slots[node]
        if slot.state is State.OPEN:
            is_young = now - slot.opened_at < options.redial_max_s * YOUNG_SHARE
            slot.breaks = slot.breaks + 1 if broken and is_young else 0
        elif broken:
            slot.failures += 1
        if slot.state is not State.CLOSED:
            self.taken -= 1
        slot.state = State.CLOSED
        slot.persistent = False
        if pause_s:
            slot.failures = 0
            slot.retry_at = now + min(pause_s, options.redial_max_s) * rng.uniform(0.5, 1.5)
        elif broken:
            slot.retry_at = now + backoff_s(max(slot.failures, slot.breaks), options, rng)
        return self._serve_wanted(options, now)

    def has_room(self, node: str, options: PoolOptions) -> bool:
        """Return whether a peer that dialled us may have a link now."""
        slot = self.slots.get(node)
        return self.taken < options.links_max or (slot is not None and slot.state is not State.CLOSED)

    def encourage(self, node: str, options: PoolOptions, now: float) -> list[Action]:
        """There is news of this node: if its link is wanted, the pause before the next dial is over."""
        slot = self.slots.get(node)
        if slot is None or slot.state is not State.CLOSED:
            return []
        slot.failures, slot.retry_at = 0, 0.0
        return self._serve_wanted(options, now)

    def make_room(self) -> list[Action]:
        """Return what makes room for a peer that was turned away: nothing, if a place is being freed already."""
        is_closing = any(slot.state is State.CLOSING for slot in self.slots.values())
        return [] if is_closing else self._evict(1)

    def tick(self, options: PoolOptions, now: float) -> list[Action]:
        """Close what has been idle too long, dial what is wanted and may be, forget what is neither."""
        actions: list[Action] = []
        for slot in list(self.slots.values()):
            idle = slot.state is State.OPEN and not slot.leases and not slot.persistent
            if idle and now - slot.used_at >= options.idle_close_s:
                slot.state = State.CLOSING
                actions.append(Close(slot.node, "idle"))
            elif slot.state is State.CLOSED and not slot.leases and not slot.wanted:
                if now >= slot.retry_at + options.redial_max_s:
                    del self.slots[slot.node]
        return actions + self._serve_wanted(options, now)

    def _serve_wanted(self, options: PoolOptions, now: float) -> list[Action]:
        """Dial wanted slots, longest waiting first; evict as many links as there are dials without room."""
        ready = [s for s in self.slots.values() if s.wanted and s.state is State.CLOSED and s.retry_at <= now]
        ready.sort(key=lambda slot: (slot.wanted_at, slot.node))
        actions: list[Action] = []
        while ready and self.taken < options.links_max:
            slot = ready.pop(0)
            slot.state = State.DIALLING
            slot.wanted = False
            self.taken += 1
            actions.append(Dial(slot.node))
        for slot in ready:
            slot.retry_at = 0.0  # its pause is over: it waits for room, which no timer brings
        closing = sum(slot.state is State.CLOSING for slot in self.slots.values()) if ready else 0
        pauses = (slot.retry_at for slot in self.slots.values() if slot.wanted and slot.retry_at)
        self.due = min(pauses, default=None)
        return actions + self._evict(len(ready) - closing)

    def _evict(self, count: int) -> list[Action]:
        """Choose up to ``count`` links to close: idle ephemeral ones first, then the coldest persistent ones."""
        if count <= 0:
            return []
        idle = [slot for slot in self.slots.values() if slot.state is State.OPEN and not slot.leases]
        idle.sort(key=lambda slot: (slot.persistent, slot.rate if slot.persistent else slot.used_at, slot.node))
        for slot in idle[:count]:
            slot.state = State.CLOSING
        return [Close(slot.node, "evicted: links_max") for slot in idle[:count]]


def backoff_s(failures: int, options: PoolOptions, rng: Rng) -> float:
    """Return the pause before the next dial: nothing after the first failure, then doubling, jittered by half.

    ``min(redial_max_s, redial_min_s * 2**(failures - 2)) * uniform(0.5, 1)`` for the second failure and on.
    """
    if failures <= 1:
        return 0.0
    ceiling = min(options.redial_max_s, options.redial_min_s * 2.0 ** min(failures - 2, 30))
    return ceiling * rng.uniform(0.5, 1.0)
