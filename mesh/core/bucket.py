"""A token bucket: how often something may happen, and how much of it at once.

It holds up to ``burst`` tokens and gains ``per_s`` of them each second; whatever happens takes one. What should not be
refused takes one that is not there yet: the bucket owes it, up to a bound.
"""

from msgspec import Struct

__all__ = ["Bucket"]


class Bucket(Struct):
    """The tokens of one. ``used``: those that are missing, as of ``at`` (s)."""

    used: float = 0.0
    at: float = 0.0

    def settle(self, per_s: float, now: float) -> float:
        """Return the tokens that are missing now."""
        self.used = max(0.0, self.used - (now - self.at) * per_s)
        self.at = now
        return self.used

    def take(self, per_s: float, burst: float, now: float, owing: float = 0.0) -> float:
        """Take a token, though up to ``owing`` be owed; return 0, or the seconds until there is one."""
        missing = self.settle(per_s, now) + 1.0 - burst - owing
        if missing > 0.0:
            return missing / per_s
        self.used += 1.0
        return 0.0
