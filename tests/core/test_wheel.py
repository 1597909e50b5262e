"""Keys fall due: never early, at most one tick late, in order, and what was removed leaves nothing behind."""

from hypothesis import given
from hypothesis import strategies as st

from mesh.core.wheel import SLACK, Wheel
from tests.core.builders import copied

ULPS_S = 1e-7
"""What the rounding of seconds near 1e8 may amount to."""

DEADLINES = st.floats(0, 100) | st.floats(0, 1e8) | st.integers(0, 5_000).map(lambda n: n * 0.02)
TICKS = st.sampled_from([0.02, 0.25])


@given(TICKS, st.lists(DEADLINES, min_size=1, max_size=20), st.lists(DEADLINES, max_size=20))
def test_keys_are_due_never_early_and_at_most_a_tick_late(tick_s: float, due: list[float], looks: list[float]) -> None:
    wheel: Wheel[int] = Wheel(tick_s)
    for key, deadline in enumerate(due):
        wheel.add(key, deadline)
    left = set(range(len(due)))
    for now in [*sorted(looks), 2e8]:
        came = wheel.due(now)
        assert set(came) <= left
        left -= set(came)
        assert all(due[key] <= now + ULPS_S for key in came), "early"
        assert all(due[key] + tick_s >= now - ULPS_S for key in left), "late"
    assert not left


@given(st.lists(DEADLINES, min_size=1, max_size=20))
def test_its_deadline_is_when_the_next_key_is_due(due: list[float]) -> None:
    wheel: Wheel[int] = Wheel()
    for key, deadline in enumerate(due):
        wheel.add(key, deadline)
    at = wheel.deadline()
    assert at is not None
    assert min(due) - ULPS_S <= at <= min(due) + wheel.tick_s + ULPS_S
    assert [] != wheel.due(at), "who sleeps until then must find something to do"


def test_keys_come_in_the_order_of_their_ticks_and_then_of_their_adding() -> None:
    wheel: Wheel[str] = Wheel(1.0)
    for key, deadline in (("late", 9.0), ("b", 4.5), ("a", 4.1), ("first", 1.0)):
        wheel.add(key, deadline)
    assert ["first", "b", "a"] == wheel.due(5.0)
    assert [] == wheel.due(5.0)
    assert 9.0 == wheel.deadline()


def test_what_was_removed_is_never_due_and_asks_for_no_wake_up() -> None:
    wheel: Wheel[str] = Wheel(1.0)
    wheel.add("gone", 1.0)
    wheel.add("kept", 2.0)
    wheel.add("beside", 2.0)
    wheel.remove("gone", 1.0)
    wheel.remove("beside", 2.0)
    assert 2.0 == wheel.deadline()
    assert ["kept"] == wheel.due(10.0)
    assert None is wheel.deadline()


def test_removing_what_is_not_there_is_no_error() -> None:
    wheel: Wheel[str] = Wheel(1.0)
    wheel.remove("never", 1.0)
    wheel.add("other", 1.0)
    wheel.remove("never", 1.0)
    assert ["other"] == wheel.due(1.0)


def test_a_tick_may_be_emptied_and_filled_again() -> None:
    wheel: Wheel[str] = Wheel(1.0)
    wheel.add("first", 3.0)
    wheel.remove("first", 3.0)
    wheel.add("second", 3.0)
    assert ["second"] == wheel.due(3.0)
    assert [] == wheel.due(4.0)


def test_distant_deadlines_that_were_removed_take_no_memory() -> None:
    """A cast that may live a day and settles in a second must not leave its tick behind for that day."""
    wheel: Wheel[int] = Wheel()
    wheel.add(-1, 5.0)
    for key in range(5_000):
        wheel.add(key, 86_400.0 + key)
        wheel.remove(key, 86_400.0 + key)
    assert 1 == len(wheel.buckets)
    assert len(wheel.order) <= 2 + SLACK
    assert [-1] == wheel.due(5.1)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 300)), max_size=300))
def test_it_holds_what_a_plain_dict_would(steps: list[tuple[bool, int]]) -> None:
    wheel: Wheel[int] = Wheel(1.0)
    model: dict[int, float] = {}
    for added, key in steps:
        if added:
            wheel.add(key, float(key))
            model[key] = float(key)
        else:
            wheel.remove(key, float(key))
            model.pop(key, None)
    twin = copied(wheel)
    assert wheel == twin
    assert sorted(model) == wheel.due(1_000.0)
    assert {} == wheel.buckets
    assert [] == wheel.order
