"""A run finds what is wrong, is the same for ever, and is fast enough for nights of it."""

import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from mesh.core.calling import Calling
from mesh.core.records import Kind
from mesh.sim.plan import AppPlan, Plan, Step, draw
from mesh.sim.run import play
from mesh.sim.shrink import parts, shrink, signature
from mesh.sim.sweep import Sum, sweep

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAM = """
from mesh.sim.plan import draw
from mesh.sim.run import play
for seed in (3, 37, 130):
    print("\\n".join(play(draw(seed), trace=True).trace))
"""


def trace_of(hash_seed: str) -> str:
    """Play some seeds in a process of its own, under this PYTHONHASHSEED; return their traces."""
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout


@pytest.mark.system
def test_a_seed_has_one_trace_whatever_the_hash_seed() -> None:
    first, second = trace_of("1"), trace_of("4242")
    assert 10_000 < len(first.splitlines())
    assert first == second


def test_a_trace_changes_nothing() -> None:
    plain, traced = play(draw(37)), play(draw(37), trace=True)
    assert (plain.deliveries, plain.outcomes, plain.faults) == (traced.deliveries, traced.outcomes, traced.faults)
    assert ([], True) == (plain.trace, len(traced.trace) > 1000)


def test_an_exception_of_the_core_is_a_finding() -> None:
    with mock.patch.object(Calling, "request", side_effect=KeyError("seq")):
        result = play(draw(3))
    assert "the core broke" in result.findings[0]
    assert "KeyError" in signature(result)


def lost(self: Calling, *arguments: object) -> list[object]:
    """Take a request and forget it."""
    return []


def test_what_is_never_answered_is_found_and_made_small() -> None:
    plan = draw(3)
    with mock.patch.object(Calling, "_place", lost):
        found = signature(play(plan))
        small = shrink(plan)
        assert found == signature(play(small))
    assert "is not answered though all is well" in found
    assert (0, 0) == (len(small.steps), len(small.faults))
    assert parts(small).startswith("1 nodes, 1 apps with ")


def test_a_plan_in_which_nothing_is_found_stays_as_it_is() -> None:
    plan = draw(3)
    assert plan is shrink(plan)


def test_a_run_is_written_by_hand_too() -> None:
    drawn = draw(3)
    apps = (AppPlan("a", drawn.apps[0].services), AppPlan("b"))
    topic = apps[0].services[0].topic
    step = Step(2.0, 1, int(Kind.CALL), topic, 10, 5.0)
    result = play(Plan(1, ("a", "b"), drawn.options, drawn.network, apps, (step,), (), 3.0))
    assert ([], {"call Reply"}) == (result.findings, set(result.outcomes))


def test_many_runs_are_summed_up_in_any_number_of_processes() -> None:
    one, two = sweep(range(12)), sweep(range(12), processes=2)
    assert (one.deliveries, one.outcomes, one.faults) == (two.deliveries, two.outcomes, two.faults)
    assert (12, 12, [], True) == (one.seeds, two.seeds, two.failed, one.deliveries_per_s > 0)


def test_a_sweep_ends_when_it_is_told_to() -> None:
    seen: list[int] = []

    def goes_on(total: Sum) -> bool:
        seen.append(total.seeds)
        return total.seeds < 3

    assert 3 == sweep(range(100), goes_on=goes_on).seeds
    assert [1, 2, 3] == seen
