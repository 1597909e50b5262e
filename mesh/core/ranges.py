"""Sets of numbers as ranges ``(first, last)``, both ends included: how seqs are told in bulk."""

from collections.abc import Iterable, Iterator

__all__ = ["expand", "to_ranges"]


def to_ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the numbers as sorted, disjoint, maximal ranges."""
    ranges: list[tuple[int, int]] = []
    first = last = -2
    for number in sorted(numbers):
        if number <= last:
            continue
        if number == last + 1:
            last = number
            continue
        if last >= 0:
            ranges.append((first, last))
        first = last = number
    if last >= 0:
        ranges.append((first, last))
    return ranges


def expand(ranges: Iterable[tuple[int, int]], limit: int) -> Iterator[int]:
    """Yield the numbers of ranges from outside; raises ValueError once they are more than ``limit``."""
    left = limit
    for first, last in ranges:
        left -= last - first + 1
        if last < first or left < 0:
            raise ValueError(f"range {first}..{last} is reversed, or the ranges hold more than {limit} numbers")
        yield from range(first, last + 1)
