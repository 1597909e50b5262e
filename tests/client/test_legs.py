"""A traced call in legs."""

import pytest

from mesh.client.legs import Leg, legs_of


def test_the_legs_are_all_of_a_calls_time() -> None:
    stamps = [
        ("web", 1_000, 1_010, 2_000),
        ("a", 500_000, 500_020, 500_900),
        ("b", 70, 100, 700),
        ("shop", 9_000, 9_005, 9_400),
    ]
    legs = legs_of(stamps)
    assert (
        Leg("web", "until it was written", 10e-6),
        Leg("web ↔ a", "there and back", 90e-6),
        Leg("a", "until it could be sent on", 20e-6),
        Leg("a ↔ b", "there and back", 250e-6),
        Leg("b", "until a worker was free", 30e-6),
        Leg("b ↔ shop", "there and back", 200e-6),
        Leg("shop", "until it began", 5e-6),
        Leg("shop", "until it had answered", 395e-6),
    ) == legs
    assert 1_000e-6 == pytest.approx(sum(leg.took_s for leg in legs))


def test_a_call_that_was_not_traced_has_no_legs() -> None:
    assert () == legs_of(None) == legs_of([])


def test_stamps_that_cannot_be_are_no_negative_time() -> None:
    assert [0.0] * 4 == [leg.took_s for leg in legs_of([("web", 9, 5, 1), ("a", 3, 2, 1)])]
