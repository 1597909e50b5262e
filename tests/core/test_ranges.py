"""Sets of numbers go into ranges and come back, and ranges from outside cannot be larger than they may."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.ranges import expand, to_ranges

NUMBERS = st.lists(st.integers(0, 40) | st.integers(0, (1 << 63) - 1))


@given(NUMBERS)
def test_a_set_comes_back_as_it_was(numbers: list[int]) -> None:
    assert sorted(set(numbers)) == list(expand(to_ranges(numbers), len(numbers)))


@given(NUMBERS)
def test_ranges_are_sorted_apart_and_as_few_as_can_be(numbers: list[int]) -> None:
    ranges = to_ranges(numbers)
    assert all(first <= last for first, last in ranges)
    assert all(before[1] + 1 < after[0] for before, after in pairwise(ranges))


def test_order_and_repetition_mean_nothing() -> None:
    assert [(0, 2), (5, 5), (9, 10)] == to_ranges([10, 0, 5, 1, 2, 9, 1, 0])
    assert [] == to_ranges([])


@pytest.mark.parametrize(
    ("ranges", "limit"),
    [
        ([(0, 10)], 10),
        ([(0, 4), (6, 10)], 9),
        ([(0, 4), (0, 4)], 9),
        ([(5, 4)], 10),
        ([(9, 0), (0, 9)], 10),
        ([(0, (1 << 63) - 1)], 1 << 16),
    ],
)
def test_more_than_the_limit_or_a_reversed_range_is_an_error(ranges: list[tuple[int, int]], limit: int) -> None:
    with pytest.raises(ValueError, match=f"reversed, or the ranges hold more than {limit} numbers"):
        list(expand(ranges, limit))


def test_a_huge_range_yields_nothing_before_it_is_refused() -> None:
    numbers = expand([(0, (1 << 63) - 1)], 10)
    with pytest.raises(ValueError):
        next(numbers)


def test_exactly_the_limit_is_let_through() -> None:
    assert [3, 4, 5, 9] == list(expand([(3, 5), (9, 9)], 4))
