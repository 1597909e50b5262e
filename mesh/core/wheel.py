"""A timer wheel: many keys with deadlines, added and removed in constant time.

Deadlines are rounded up to ``tick_s``, so a key is due at most one tick late and never early.
"""

import heapq
from typing import Generic, TypeVar

from msgspec import Struct, field

__all__ = ["Wheel"]

K = TypeVar("K")

SLACK = 64
"""Numbers of emptied ticks that may lie in ``order``, beside as many as there are ticks with keys."""


class Wheel(Struct, Generic[K]):
    """Keys by the tick in which they are due. The caller keeps each key's deadline, to remove it by.

    ``order`` is a heap of the numbers of ``buckets``, and of some that were emptied since.
    """

    tick_s: float = 0.02
    buckets: dict[int, dict[K, None]] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)

    def add(self, key: K, deadline: float) -> None:
        """Have ``key`` due at ``deadline``."""
        number = -int(-deadline // self.tick_s)
        bucket = self.buckets.get(number)
        if bucket is None:
            bucket = self.buckets[number] = {}
            heapq.heappush(self.order, number)
        bucket[key] = None

    def remove(self, key: K, deadline: float) -> None:
        """Forget ``key``, which was added with this ``deadline``; one that is not there is no error."""
        number = -int(-deadline // self.tick_s)
        bucket = self.buckets.get(number)
        if bucket is None:
            return
        bucket.pop(key, None)
        if not bucket:
            del self.buckets[number]
            if len(self.order) > 2 * len(self.buckets) + SLACK:
                self.order = sorted(self.buckets)

    def due(self, now: float) -> list[K]:
        """Take out and return the keys whose deadline has come, in its order."""
        keys: list[K] = []
        while self.order and self.order[0] * self.tick_s <= now:
            keys.extend(self.buckets.pop(heapq.heappop(self.order), ()))
        return keys

    def deadline(self) -> float | None:
        """Return when the next key is due, or None."""
        while self.order and self.order[0] not in self.buckets:
            heapq.heappop(self.order)
        return self.order[0] * self.tick_s if self.order else None
