"""An app's session keeps outcomes exactly until the app's floor has passed them, and counts what is outstanding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.inbox import Service
from mesh.core.session import UNCHARGED, App, Credentials, Pending
from tests.core.builders import copied, reply


def app(*seqs: int, floor: int = 0) -> App:
    """A session that keeps the outcomes of these casts."""
    return App(7, 1, "web", "", None, outcomes=dict.fromkeys(seqs), floor=floor)


@pytest.mark.parametrize("floor", [6, 1_000_000], ids=["a step", "a leap"])
def test_outcomes_below_the_floor_are_forgotten(floor: int) -> None:
    session = app(4, 5, *range(floor, floor + 9))
    session.raise_floor(floor)
    assert list(range(floor, floor + 9)) == list(session.outcomes)
    assert floor == session.floor


def test_a_floor_never_falls() -> None:
    session = app(9, floor=9)
    session.raise_floor(3)
    session.raise_floor(9)
    assert (9, [9]) == (session.floor, list(session.outcomes))


@given(st.sets(st.integers(0, 60)), st.lists(st.integers(0, 60) | st.integers(0, (1 << 63) - 1)))
def test_whatever_the_floors_exactly_those_at_or_above_the_greatest_are_kept(seqs: set[int], floors: list[int]) -> None:
    session = app(*sorted(seqs))
    for floor in floors:
        session.raise_floor(floor)
    greatest = max(floors, default=0)
    assert greatest == session.floor
    assert [seq for seq in sorted(seqs) if seq >= greatest] == list(session.outcomes)


def test_the_bytes_of_replies_are_counted_while_they_are_kept() -> None:
    session = app(floor=1)
    for seq in range(4):
        session.keep(seq, reply(seq, b"four"))
    session.keep(9, None)
    assert (12, [1, 2, 3, 9]) == (session.outcomes_bytes, list(session.outcomes))
    for seq in (2, 2, 9):
        session.forget(seq)
    assert (8, [1, 3]) == (session.outcomes_bytes, list(session.outcomes))
    session.raise_floor(4)
    assert (0, {}) == (session.outcomes_bytes, session.outcomes)


def test_a_leap_of_the_floor_takes_no_time_for_the_numbers_between() -> None:
    session = app(1)
    session.raise_floor((1 << 63) - 1)
    assert {} == session.outcomes


def test_what_is_outstanding_is_counted_in_records_and_bytes() -> None:
    session = app()
    session.admitted(100)
    session.admitted(28)
    assert (2, 128) == (session.records, session.bytes)
    session.ended(100)
    assert (1, 28) == (session.records, session.bytes)


def test_nothing_is_known_of_a_process_that_the_kernel_does_not_name() -> None:
    assert Credentials(uid=-1, pid=0) == Pending(Credentials(), 1.0).credentials
    assert ("uid -1", "ada") == (Credentials().whose, Credentials(1000, 1, "ada").whose)


def test_its_state_is_data() -> None:
    session = app(2, floor=1)
    session.outcomes[1] = reply(1)
    session.services["orders"] = Service("orders", "srv", 1, 256)
    assert session == copied(session)


def test_what_was_never_charged_to_it_gives_nothing_back() -> None:
    session = app()
    session.admitted(128)
    session.ended(UNCHARGED)
    assert (1, 128) == (session.records, session.bytes)
    session.ended(128)
    assert (0, 0) == (session.records, session.bytes)
