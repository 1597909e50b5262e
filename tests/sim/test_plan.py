"""A seed decides everything, and always the same."""

from collections import Counter

import msgspec

from mesh.core.records import Flag, Kind
from mesh.sim.faults import KINDS, LATER
from mesh.sim.plan import Plan, draw


def test_a_seed_has_one_plan_and_another_seed_another() -> None:
    assert draw(7) == draw(7) != draw(8)


def test_a_plan_is_data() -> None:
    plan = draw(7)
    assert plan == msgspec.json.decode(msgspec.json.encode(plan), type=Plan)


def test_seeds_draw_every_kind_of_fault_and_message_and_fleets_of_one_to_seven() -> None:
    plans = [draw(seed) for seed in range(300)]
    faults = Counter(fault.kind for plan in plans for fault in plan.faults)
    assert sorted(KINDS) == sorted(faults)
    assert 20 < sum(not plan.faults for plan in plans) < 80
    assert [1, 2, 3, 4, 5, 7] == sorted({len(plan.nodes) for plan in plans})
    steps = [step for plan in plans for step in plan.steps]
    assert {Kind.CALL, Kind.CAST, Kind.FANOUT} == {step.kind for step in steps}
    calls = {step.flags for step in steps if step.kind == Kind.CALL}
    casts = {step.flags for step in steps if step.kind == Kind.CAST}
    assert {flag | room for flag in (0, Flag.IDEMPOTENT, Flag.WAIT) for room in (0, Flag.ROOM)} == calls
    assert {flag | durable for flag in (0, Flag.ONCE, Flag.CONFIRM) for durable in (0, Flag.DURABLE)} == casts
    assert any(step.monitor_s for step in steps)
    assert any(step.cancel_s for step in steps)
    assert any(step.server_of >= 0 for step in steps)


def test_half_of_all_seeds_draw_nothing_that_came_later() -> None:
    plans = [draw(seed) for seed in range(300)]
    is_first = [not plan.has_disks and not any(step.monitor_s for step in plan.steps) for plan in plans]
    assert 120 < sum(is_first) < 220
    assert not any(
        fault.kind in ("lose-disk", "bad-disk") for plan in plans if not plan.has_disks for fault in plan.faults
    )
    assert all(draw(seed, (kind,)).has_disks for kind in LATER for seed in range(5))


def test_no_fault_lasts_beyond_the_calm() -> None:
    for seed in range(100):
        plan = draw(seed)
        assert all(fault.at + fault.for_s <= plan.calm_at for fault in plan.faults)


def test_faults_may_be_narrowed_to_some_kinds() -> None:
    assert {"kill"} == {fault.kind for seed in range(20) for fault in draw(seed, ("kill",)).faults}
