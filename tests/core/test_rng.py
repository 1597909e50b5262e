"""The generator is SplitMix64, and what is drawn from it is spread as it says."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.rng import Rng
from tests.core.builders import copied

SEEDS = st.integers(0, (1 << 64) - 1)


def test_it_draws_the_published_numbers() -> None:
    """The sequence that implementations of SplitMix64 in other languages print for this seed."""
    rng = Rng(1234567)
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert expected == [rng.u64() for _ in expected]


@given(SEEDS)
def test_its_whole_state_is_data_so_a_copy_draws_the_same(seed: int) -> None:
    rng = Rng(seed)
    rng.u64()
    twin = copied(rng)
    assert [rng.u64() for _ in range(5)] == [twin.u64() for _ in range(5)]


@given(SEEDS, st.integers(1, 1 << 40))
def test_below_is_below(seed: int, n: int) -> None:
    rng = Rng(seed)
    assert all(0 <= rng.below(n) < n for _ in range(20))


def test_below_reaches_every_number_about_as_often() -> None:
    rng = Rng(1)
    counts = Counter(rng.below(6) for _ in range(6_000))
    assert [0, 1, 2, 3, 4, 5] == sorted(counts)
    assert max(counts.values()) < 1.25 * min(counts.values())


@given(SEEDS, st.floats(0, 1e6), st.floats(0, 1e6))
def test_uniform_stays_within_its_bounds(seed: int, low: float, width: float) -> None:
    rng = Rng(seed)
    assert all(low <= rng.uniform(low, low + width) <= low + width for _ in range(20))


def test_uniform_fills_its_bounds() -> None:
    rng = Rng(2)
    drawn = [rng.uniform(0.5, 1.0) for _ in range(1_000)]
    assert min(drawn) < 0.51
    assert max(drawn) > 0.99
    assert abs(sum(drawn) / len(drawn) - 0.75) < 0.02
