"""Topics become hot at once and cold only after a dwell; their rate is the average that the module's formula says."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core.heat import Heat, HeatOptions, Heats, chosen
from mesh.types import TopicKey
from tests.core.builders import ORDERS, STOCK, copied

DEFAULTS = HeatOptions()
"""Hot at 5/s, cold below 1/s for 30 s, half-life 10 s."""

NO_DELAY = HeatOptions(half_life_s=0.1, dwell_s=0.0)


class Clock:
    """Folds once a second, with so many records in each."""

    def __init__(self, options: HeatOptions = DEFAULTS) -> None:
        self.options = options
        self.heats = Heats()
        self.now = 0.0

    def run(self, seconds: int, per_s: int, topic: TopicKey = ORDERS) -> list[tuple[float, bool]]:
        """Return when the topic changed, and to what."""
        changes = []
        for _ in range(seconds):
            for _ in range(per_s):
                self.heats.count(topic)
            self.now += 1.0
            for changed in self.heats.fold(self.options, self.now):
                assert topic == changed
                changes.append((self.now, self.heats.is_hot(changed, self.options)))
        return changes


@given(st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 1_000)), min_size=1, max_size=20))
def test_the_rate_is_the_closed_form(steps: list[tuple[float, int]]) -> None:
    """Unrolled, each fold's own rate n/dt counts by how much of its time is not yet forgotten."""
    heats = Heats()
    now = 0.0
    options = HeatOptions(hot_at_per_s=1e6)
    ends = []
    for dt, n in steps:
        for _ in range(n):
            heats.count(ORDERS)
        ends.append((now, now + dt, n / dt))
        now += dt
        heats.fold(options, now)
    half_life = options.half_life_s
    weights = [2 ** -((now - end) / half_life) - 2 ** -((now - begin) / half_life) for begin, end, _ in ends]
    expected = sum(weight * rate for weight, (_, _, rate) in zip(weights, ends, strict=True))
    assert heats.rate(ORDERS) == pytest.approx(expected, rel=1e-6, abs=2e-3)


def test_a_steady_rate_is_half_known_after_a_half_life_and_then_known() -> None:
    clock = Clock(HeatOptions(hot_at_per_s=1e6))
    clock.run(10, per_s=8)
    assert clock.heats.rate(ORDERS) == pytest.approx(4.0)
    clock.run(90, per_s=8)
    assert clock.heats.rate(ORDERS) == pytest.approx(8.0, rel=0.01)


def test_how_often_it_is_folded_does_not_change_the_rate() -> None:
    often, seldom = Heats(), Heats()
    for step in range(1, 101):
        often.count(ORDERS)
        seldom.count(ORDERS)
        often.fold(DEFAULTS, step * 0.1)
    seldom.fold(DEFAULTS, 10.0)
    assert often.rate(ORDERS) == pytest.approx(seldom.rate(ORDERS))


def test_a_topic_is_hot_as_soon_as_its_rate_is() -> None:
    clock = Clock()
    assert [(10.0, True)] == clock.run(60, per_s=10), "10/s reach 5/s after one half-life"


def test_a_burst_shorter_than_it_takes_makes_nothing_hot() -> None:
    clock = Clock()
    assert [] == clock.run(5, per_s=10) + clock.run(60, per_s=0)


def test_a_hot_topic_is_cold_a_dwell_after_its_rate_fell_below() -> None:
    clock = Clock()
    clock.run(200, per_s=8)
    assert [(260.0, False)] == clock.run(120, per_s=0), "8/s fall below 1/s at 230 s: three half-lives"


def test_a_rate_between_the_thresholds_changes_nothing() -> None:
    hot, cold = Clock(), Clock()
    hot.run(100, per_s=50)
    assert [] == hot.run(600, per_s=3)
    assert [] == cold.run(600, per_s=3)
    assert hot.heats.is_hot(ORDERS, DEFAULTS)
    assert not cold.heats.is_hot(ORDERS, DEFAULTS)


def test_coming_back_above_the_cold_threshold_begins_the_dwell_anew() -> None:
    clock = Clock()
    clock.run(200, per_s=8)
    assert [] == clock.run(55, per_s=0), "25 s below"
    assert [] == clock.run(10, per_s=4), "back above, though not hot by itself"
    changes = clock.run(120, per_s=0)
    assert [False] == [hot for _, hot in changes]
    assert changes[0][0] > 265.0 + DEFAULTS.dwell_s


def test_so_does_a_burst_between_two_folds_however_short() -> None:
    heats, options = Heats(), HeatOptions(dwell_s=150.0)
    changes = []
    for now, count in ((10.0, 10_000), (110.0, 0), (210.0, 10_000), (310.0, 0), (459.0, 0), (460.0, 0)):
        for _ in range(count):
            heats.count(ORDERS)
        changes += [now for _ in heats.fold(options, now)]
    assert [10.0, 460.0] == changes


def test_pauses_within_the_dwell_do_not_make_it_flap() -> None:
    clock = Clock()
    changes = []
    for _ in range(20):
        changes += clock.run(20, per_s=20) + clock.run(40, per_s=0)
    assert [True] == [hot for _, hot in changes]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=300))
def test_it_never_turns_cold_sooner_than_a_dwell_after_it_turned_hot(per_s: list[int]) -> None:
    clock = Clock()
    changes = [change for n in per_s for change in clock.run(1, per_s=n)]
    assert [i % 2 == 0 for i in range(len(changes))] == [hot for _, hot in changes], "it alternates, hot first"
    for (before, was_hot), (after, _) in pairwise(changes):
        assert not was_hot or after - before >= DEFAULTS.dwell_s


def test_topics_are_measured_apart_and_namespaces_too() -> None:
    heats = Heats()
    blue = TopicKey("blue", "orders")
    heats.count(ORDERS)
    heats.count(blue)
    heats.count(blue)
    heats.fold(NO_DELAY, 1.0)
    assert 0.0 == heats.rate(STOCK)
    assert heats.rate(blue) == pytest.approx(2 * heats.rate(ORDERS))


def test_a_pin_decides_whatever_the_rate_is() -> None:
    options = HeatOptions(half_life_s=0.1, pin={"orders": "cold", "stock": "hot"})
    clock = Clock(options)
    clock.run(10, per_s=100)
    assert not clock.heats.is_hot(ORDERS, options)
    assert clock.heats.is_hot(STOCK, options), "even of a topic that was never used"


def test_a_pin_that_is_set_or_lifted_is_a_change() -> None:
    clock = Clock(HeatOptions(half_life_s=0.1))
    clock.run(5, per_s=3)
    clock.options = HeatOptions(half_life_s=0.1, pin={"orders": "hot"})
    assert [(6.0, True)] == clock.run(5, per_s=3)
    clock.options = HeatOptions(half_life_s=0.1, pin={"orders": "cold"})
    assert [(11.0, False)] == clock.run(5, per_s=3)


def test_after_a_pin_the_dwell_begins_anew() -> None:
    """How long the rate had been low before the pin says nothing about the time of the pin."""
    clock = Clock()
    clock.run(100, per_s=8)
    assert [] == clock.run(40, per_s=0), "hot, and below for 10 s"
    clock.options = HeatOptions(pin={"orders": "hot"})
    assert [] == clock.run(60, per_s=0)
    clock.options = DEFAULTS
    assert [(231.0, False)] == clock.run(60, per_s=0)


def test_a_topic_that_is_no_longer_used_is_forgotten() -> None:
    clock = Clock()
    clock.run(10, per_s=1)
    assert [ORDERS] == list(clock.heats.topics)
    clock.run(300, per_s=0)
    assert {} == clock.heats.topics
    assert 0.0 == clock.heats.rate(ORDERS)


def test_a_hot_topic_is_never_forgotten_before_it_was_said_to_be_cold() -> None:
    clock = Clock(HeatOptions(dwell_s=3600.0))
    clock.run(100, per_s=8)
    assert [] == clock.run(1_000, per_s=0)
    assert clock.heats.is_hot(ORDERS, clock.options)


@pytest.mark.parametrize("now", [5.0, 4.0])
def test_a_fold_without_time_keeps_what_was_counted(now: float) -> None:
    heats = Heats(folded_at=5.0)
    heats.count(ORDERS)
    assert [] == heats.fold(DEFAULTS, now)
    assert {ORDERS: 1} == heats.counts
    assert 5.0 == heats.folded_at


def test_its_state_is_data() -> None:
    heats = Heats(topics={ORDERS: Heat(2.0, True, 3.0)}, counts={STOCK: 2}, folded_at=9.0)
    assert heats == copied(heats)


SERVERS = [f"node{number}" for number in range(100)]


def test_a_topic_that_few_serve_keeps_links_to_all_of_them() -> None:
    assert {"b", "c"} == chosen("a", ORDERS, ["b", "c", "b"], 2)
    assert set() == chosen("a", ORDERS, [], 2)


def test_a_node_that_comes_or_goes_changes_no_choice_but_its_own() -> None:
    before = chosen("a", ORDERS, SERVERS, 10)
    assert 10 == len(before)
    assert before == chosen("a", ORDERS, reversed(SERVERS), 10)
    for gone in SERVERS:
        after = chosen("a", ORDERS, [node for node in SERVERS if node != gone], 10)
        assert 10 == len(after)
        assert before - {gone} <= after


def test_callers_and_topics_choose_differently_and_nobody_is_everybodys_choice() -> None:
    counts = dict.fromkeys(SERVERS, 0)
    for caller in range(1000):
        for node in chosen(f"caller{caller}", ORDERS, SERVERS, 10):
            counts[node] += 1
    assert 60 < min(counts.values())
    assert max(counts.values()) < 140
    assert chosen("a", ORDERS, SERVERS, 10) != chosen("a", STOCK, SERVERS, 10)
