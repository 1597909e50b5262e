"""How a process is doing."""

import time

from mesh.agent.condition import Condition


def test_a_lag_lasts_when_beat_after_beat_was_late() -> None:
    condition = Condition(0)
    for lag_s in (2.0, 3.0):
        condition.beat(lag_s)
    assert (3000.0, 0.0) == tuple(condition.facts()[name] for name in ("loop_lag_ms", "lasting_lag_ms"))
    condition.beat(1.5)
    assert (1500.0, 1500.0) == tuple(condition.facts()[name] for name in ("loop_lag_ms", "lasting_lag_ms"))


def test_a_clock_is_behind_when_it_is_before_the_agents_own_start() -> None:
    assert 0.0 == Condition(1).facts()["clock_behind_s"]
    ahead = Condition(round((time.time() + 500) * 1000)).facts()["clock_behind_s"]
    assert isinstance(ahead, float)
    assert 400 < ahead <= 500
