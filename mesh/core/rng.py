"""A seeded generator whose whole state is one integer, so that a node's state stays data.

SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014), figure 13.
"""

from msgspec import Struct

__all__ = ["Rng"]

_MASK = (1 << 64) - 1


class Rng(Struct):
    """Draws numbers; ``state`` is the 64-bit state, so equal states draw equal numbers."""

    state: int = 0

    def u64(self) -> int:
        """Return the next integer, uniform over 64 bits."""
        self.state = (self.state + 0x9E3779B97F4A7C15) & _MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def below(self, n: int) -> int:
        """Return an integer in [0, n); the bias is below n / 2**64."""
        return (self.u64() * n) >> 64

    def uniform(self, low: float, high: float) -> float:
        """Return a float in [low, high)."""
        return low + (high - low) * ((self.u64() >> 11) * 2.0**-53)
