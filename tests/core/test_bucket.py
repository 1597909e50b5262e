"""The token bucket, with time a local variable."""

import pytest

from mesh.core.bucket import Bucket


def test_a_burst_passes_at_once_and_then_the_rate() -> None:
    bucket = Bucket()
    assert [0.0] * 3 == [bucket.take(2.0, 3.0, 1.0) for _ in range(3)]
    assert 0.5 == bucket.take(2.0, 3.0, 1.0)
    assert 0.25 == pytest.approx(bucket.take(2.0, 3.0, 1.25))
    assert 0.0 == bucket.take(2.0, 3.0, 1.5)
    assert 0.5 == pytest.approx(bucket.take(2.0, 3.0, 1.5))


def test_over_any_time_no_more_passes_than_burst_and_rate_allow() -> None:
    bucket = Bucket()
    passed = sum(bucket.take(10.0, 5.0, step / 1000) == 0.0 for step in range(10_000))
    assert 5 + 10 * 10 - 1 <= passed <= 5 + 10 * 10


def test_a_refusal_takes_nothing_and_idle_time_gives_no_more_than_a_burst() -> None:
    bucket = Bucket()
    for _ in range(9):
        bucket.take(1.0, 1.0, 5.0)
    assert 1.0 == bucket.settle(1.0, 5.0)
    assert 0.0 == bucket.settle(1.0, 1000.0)
    assert [0.0, 1.0] == [bucket.take(1.0, 1.0, 1000.0) for _ in range(2)]


def test_what_cannot_be_refused_owes_tokens_up_to_a_bound() -> None:
    bucket = Bucket()
    assert [0.0, 0.0, 0.0, 1.0] == [bucket.take(1.0, 1.0, 1.0, owing=2.0) for _ in range(4)]
    assert 3.0 == bucket.take(1.0, 1.0, 1.0)
    assert 0.0 == bucket.take(1.0, 1.0, 4.0)
