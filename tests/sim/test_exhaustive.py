"""The search of every schedule: it finds nothing in the core as it is, and every rule that is switched off."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import structs

from mesh.core.records import Kind, Status
from mesh.sim.exhaustive import Scenario, play, search, settled, told
from mesh.sim.promises import Broken
from mesh.sim.small import digest, moves
from mesh.sim.smallworlds import SCENARIOS, sending
from mesh.sim.steps import step
from tests.sim.mutations import MUTATIONS
from tests.sim.test_schedules import SCHEDULES

ROOT = Path(__file__).resolve().parent.parent.parent

QUICK = list(SCENARIOS)[: list(SCENARIOS).index("calls")]
"""Scenarios that take a few seconds at most; `make soak` searches all of them."""

FOUND_BY = {
    "replaced_links_are_still_read": "call",
    "gaps_between_batches_are_ignored": "gap",
    "leased_links_are_evicted": "budget",
    "replays_are_taken_for_new": "call",
    "requests_are_not_replayed": "call",
    "outcomes_are_not_kept": "call",
    "lost_links_are_not_noticed": "call",
    "what_had_left_is_placed_again_unasked": "call",
    "agents_say_never_of_what_others_saw": "call",
    "questions_for_apps_that_are_away_are_lost": "call",
    "agents_forget_what_has_ended": "call",
    "apps_forget_what_has_ended": "call",
    "apps_take_copies_for_new": "call",
    "running_is_called_never": "call",
    "a_closed_socket_is_a_death": "call",
    "what_died_with_its_app_is_not_told": "death",
    "more_is_handed_than_can_begin": "death",
}
"""By mutation: the scenario that finds it within `STATES`."""

STATES = 3_000

HELPERS = ("glare_is_not_settled",)
"""Mutations that break nothing alone."""


@pytest.mark.parametrize("name", QUICK)
def test_no_schedule_breaks_a_promise(name: str) -> None:
    seen = search(SCENARIOS[name])
    assert seen.found is None, told(seen)
    assert (0, True) == (seen.cut_off, seen.leaves > 0)


@pytest.mark.parametrize("mutation", FOUND_BY)
def test_a_rule_that_is_switched_off_is_found(mutation: str) -> None:
    with MUTATIONS[mutation]():
        seen = search(SCENARIOS[FOUND_BY[mutation]], states_max=STATES)
    assert seen.found is not None, told(seen)


def test_every_mutation_is_found_by_a_search_or_a_schedule() -> None:
    found = [*FOUND_BY, *HELPERS, *(name for _, names in SCHEDULES for name in names)]
    assert sorted(MUTATIONS) == sorted(set(found))
    assert 25 <= len(MUTATIONS)


def test_a_search_tells_a_shortest_schedule_and_why_it_breaks() -> None:
    with MUTATIONS["apps_take_copies_for_new"]():
        seen = search(SCENARIOS["call"])
    assert seen.found is not None
    lines = told(seen)
    assert len(seen.found.moves) == len([line for line in lines if line.startswith("  ")])
    assert "FAULT error server" in "\n".join(lines)
    assert "('a', 10, 0) runs twice, at server and server" == seen.found.why


def test_what_was_found_happens_again_when_its_moves_are_made_again() -> None:
    scenario = SCENARIOS["call"]
    with MUTATIONS["apps_take_copies_for_new"]():
        seen = search(scenario)
        assert seen.found is not None
        world = play(scenario)
        *most, last = seen.found.moves
        for move in most:
            world = step(world, move, scenario.options)
        with pytest.raises(Broken, match="runs twice"):
            step(world, last, scenario.options)


def test_a_search_ends_at_its_depth_and_says_how_much_it_left() -> None:
    seen = search(SCENARIOS["call"], depth_max=5)
    assert (5, 0) == (seen.depth, seen.leaves)
    assert seen.cut_off
    assert f"cut off: {seen.cut_off} states go on beyond 5 moves" in told(seen)
    assert search(SCENARIOS["call"], states_max=50).cut_off


def test_pruning_hides_no_end_and_no_state_in_which_all_is_told() -> None:
    scenario = Scenario("", "", sending(0), ("kill b",))

    def ends(pruned: bool) -> dict[bytes, None]:
        """Walk every schedule; return the worlds in which every request has ended and nothing is on its way."""
        known: dict[bytes, None] = {}
        over: dict[bytes, None] = {}
        left = [play(scenario)]
        while left:
            world = left.pop()
            for move in moves(world, scenario.faults, pruned=pruned):
                after = step(world, move, scenario.options)
                if (key := digest(after)) in known:
                    continue
                known[key] = None
                if after.is_over:
                    over[digest(structs.replace(after, now=0.0, nodes={}, apps={}, wires={}, sockets={}))] = None
                else:
                    left.append(after)
        return over

    assert ends(pruned=False) == ends(pruned=True)


def test_a_world_goes_on_by_itself_until_its_call_has_ended() -> None:
    scenario = Scenario("", "", sending(0, 1, kind=Kind.CALL), (), 0)
    world = settled(play(scenario), scenario.options, ends=True)
    assert {("a", 10, 0): 0, ("a", 10, 1): 0} == world.ended
    assert {("a", 10, 0): ["server"], ("a", 10, 1): ["other"]} == world.begun


def test_a_request_that_nobody_may_run_ends_at_its_time() -> None:
    scenario = Scenario("", "", sending(0, server="nobody"), (), 0)
    seen = search(scenario)
    assert seen.found is not None
    assert Status.UNROUTABLE.name in seen.found.why


def _states_of(hash_seed: str) -> str:
    program = (
        "from mesh.sim.exhaustive import search; from mesh.sim.smallworlds import SCENARIOS;"
        "seen = search(SCENARIOS['one-node']); print(seen.states, seen.moves, seen.ends)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.system
def test_a_search_sees_the_same_whatever_the_hash_seed() -> None:
    assert "" != _states_of("1") == _states_of("4242")
