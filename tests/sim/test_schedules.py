"""The schedules that the rules of delivery are there for: each ends well, and is found again without its rule."""

from collections.abc import Callable

import pytest
from msgspec import structs

from mesh.core.link import LinkOptions
from mesh.core.pool import PoolOptions
from mesh.core.records import Flag, Status
from mesh.sim.exhaustive import OPTIONS, Scenario
from mesh.sim.promises import Broken, judge
from mesh.sim.smallworlds import glare, sending, twins
from mesh.sim.steps import Hand
from tests.core.fabric import assert_quiescent
from tests.sim.mutations import MUTATIONS
from tests.sim.schedule import Schedule


def searched(schedule: Schedule) -> None:
    """Search what comes after the moves that were told; raises Broken."""
    seen = schedule.rest()
    if seen.found is not None:
        raise Broken(seen.found.why)
    assert seen.leaves
    assert not seen.cut_off


def unread_in_the_old_pipe() -> None:
    """A link is lost with a request unread in it; NEVER is said on the next one; then the old pipe is read."""
    s = Schedule(Scenario("", "", sending(0), ("cut a b",)))
    s.hears("a")
    s.reads("a", "b", "a")
    s.told("caller")
    s.fault("cut a b", "a")
    s.reads("a a1:2", "b a1:2", "a a1:2", "b a1:2", "a a1:2")
    searched(s)


def a_request_follows_a_dial_that_lost() -> None:
    """Two nodes dial each other; the one with the lesser name does not wait for its own dial to be decided."""
    searched(Schedule(Scenario("", "", glare, (), 0)))


def a_dead_incarnation_says_hello() -> None:
    """An agent dies; its successor has a link, and loses it; then comes the HELLO of the dead one."""
    s = Schedule(Scenario("", "", sending(0), ("kill a", "cut a b"), 2))
    s.hears("a")
    s.reads("a")
    s.fault("kill a", "a")
    s.told("caller")
    s.starts("a")
    s.dials("caller")
    s.hears("a")
    s.told("caller")
    s.hears("a")
    s.reads("a a2:1", "b a2:1", "a a2:1")
    s.fault("cut a b", "b", "a2:1")
    s.reads("b a1:1")
    searched(s)


def a_batch_is_lost() -> None:
    """A connection loses a batch and delivers the next."""
    s = Schedule(Scenario("", "", sending(0, 0, server="b-server", warm=True), ("gap a b",)))
    s.hears("a", "a")
    s.fault("gap a b", "b")
    searched(s)


def the_callers_agent_dies() -> None:
    """The caller's agent dies; one of two calls has ended, so its successor begins to choose with the other server."""
    s = Schedule(Scenario("", "", sending(0, 0), ("kill a",)))
    s.settle()
    s.ends("server")
    s.settle()
    s.fault("kill a", "a")
    s.told("caller")
    searched(s)


def never_is_late() -> None:
    """Two questions wait for an app, for the link broke between them. The answer to the first, NEVER, must not count:
    what it has placed there again would be placed once more by the answer to the second."""
    at_once = structs.replace(OPTIONS, pool=PoolOptions(redial_min_s=0.0))
    s = Schedule(Scenario("", "", sending(0, 0), ("kill b", "cut a b"), 3, at_once))
    s.hears("a", "a")
    s.reads("a a1:2", "c a1:2", "a a1:2", "c a1:2")
    s.told("other")
    s.ends("other")
    s.hears("c")
    s.reads("a a1:2", "a a1:1", "b a1:1", "a a1:1")
    s.fault("kill b", "b")
    s.starts("b")
    s.reads("a a1:1", "a a1:3", "b a1:3", "a a1:3", "b a1:3")
    s.told("server server:1")
    s.dials("server")
    s.hears("b")
    s.fault("cut a b", "a", "a1:3")
    s.reads("a a1:4", "b a1:4", "a a1:4", "b a1:4")
    s.told("server", "server")
    s.hears("b")
    s.reads("a a1:4")
    s.scenario = structs.replace(s.scenario, faults=("cut a b",))
    searched(s)


def what_runs_is_lost_with_its_app() -> None:
    """An agent dies; its successor asks the app, which says that the call runs; then the app dies."""
    s = Schedule(Scenario("", "", sending(0), ("kill b", "die server"), 2))
    s.settle()
    s.fault("kill b", "b")
    s.settle()
    s.fault("die server", "server")
    searched(s)


def an_answer_is_lost_on_its_way_to_a_new_agent() -> None:
    """An agent dies; its successor asks the app, which says that the call runs; then the answer is lost in a socket."""
    s = Schedule(Scenario("", "", sending(0), ("kill b", "error server"), 2))
    s.settle()
    s.fault("kill b", "b")
    s.settle()
    s.ends("server")
    s.fault("error server", "server")
    searched(s)


def an_app_never_comes_back() -> None:
    """An agent dies, and the app that ran the call does too, before it could be asked."""
    s = Schedule(Scenario("", "", sending(0), ("kill b", "die server"), 2))
    s.settle()
    s.fault("kill b", "b")
    s.fault("die server", "server")
    searched(s)


def work_comes_back_to_its_node() -> None:
    """A server leaves; what it gives back goes to another one of the same node."""
    s = Schedule(Scenario("", "", twins, ("leave server",)))
    s.settle()
    s.fault("leave server", "server")
    searched(s)


def a_floor_rises_past_nothing_open() -> None:
    """A call ended at b, and its answer is on its way; one that ended at c raises the floor; a new one tells b."""
    s = Schedule(Scenario("", "", sending(0, 0, further=1), ("cut a b",)))
    s.settle()
    s.ends("other")
    s.settle()
    searched(s)


def a_call_is_given_up() -> None:
    """A call waits behind another, and its caller gives it up: it never runs, and its place is free."""
    s = Schedule(Scenario("", "", sending(0, 0, server="b-server"), ("cancel caller",)))
    s.settle()
    s.fault("cancel caller", "caller")
    s.settle(ends=True)
    judge(s.world)
    if len(s.world.begun) != 1:
        raise Broken("what was given up ran")


def a_window_is_taken_up() -> None:
    """More calls than a link takes at once, before it is lost and after."""
    narrow = structs.replace(OPTIONS, link=LinkOptions(credit_records=16))
    s = Schedule(Scenario("", "", sending(*[0] * 40, server="b-server", further=20), ("cut a b",), options=narrow))
    s.settle()
    s.fault("cut a b", "a", "a1:1")
    s.settle(ends=True)
    if not s.world.is_over:
        raise Broken(f"{len(s.world.ended)} of 60 calls have ended")
    judge(s.world)


def nobody_serves() -> None:
    """A call waits for somebody to serve, and nobody does: it certainly has not run."""

    def set_up(hand: Hand) -> None:
        hand.start("a")
        hand.open("caller", "a", 10, serves=False)
        hand.send("caller", flags=Flag.WAIT)

    s = Schedule(Scenario("", "", set_up, (), 0))
    s.settle()
    s.wait(40)
    if s.world.ended != {("a", 10, 0): Status.EXPIRED}:
        raise Broken(f"ended {s.world.ended}")


def what_ended_above_the_floor_is_forgotten() -> None:
    """A call runs for long; its agent need not keep the outcome of a later one for which the caller has no more use."""
    s = Schedule(Scenario("", "", sending(0, 0), (), 0))
    s.settle()
    s.ends("other")
    s.settle()
    s.wait(12)
    kept = list(s.node("a").state.apps[10].outcomes)
    if kept:
        raise Broken(f"the outcomes of {kept} are kept, though only 0 runs")


def nothing_is_left() -> None:
    """All that was remembered of requests is forgotten after their time, though their caller is gone."""
    s = Schedule(Scenario("", "", sending(0, Flag.IDEMPOTENT, 0), ("cut a b",)))
    s.settle()
    s.fault("cut a b", "b")
    s.settle(ends=True)
    s.quits("caller")
    s.wait(40)
    for name in "abc":
        try:
            assert_quiescent(s.node(name))
        except AssertionError as error:
            raise Broken(f"{name} keeps {error}") from None


SCHEDULES: list[tuple[Callable[[], None], tuple[str, ...]]] = [
    (unread_in_the_old_pipe, ("replaced_links_are_still_read",)),
    (a_request_follows_a_dial_that_lost, ("a_losing_dial_is_used",)),
    (a_dead_incarnation_says_hello, ("the_past_is_admitted",)),
    (a_batch_is_lost, ("gaps_between_batches_are_ignored",)),
    (the_callers_agent_dies, ("reach_is_not_told", "one_never_is_enough")),
    (never_is_late, ("stale_answers_are_taken",)),
    (what_runs_is_lost_with_its_app, ("what_an_app_says_that_it_runs_is_not_kept",)),
    (an_answer_is_lost_on_its_way_to_a_new_agent, ("answers_are_not_said_again",)),
    (an_app_never_comes_back, ("questions_wait_for_ever",)),
    (work_comes_back_to_its_node, ("what_is_given_back_is_remembered",)),
    (a_floor_rises_past_nothing_open, ("floors_pass_what_is_not_settled",)),
    (a_call_is_given_up, ("what_is_cancelled_stays",)),
    (
        a_window_is_taken_up,
        ("windows_are_never_widened", "windows_go_on_after_a_welcome", "requests_are_charged_twice"),
    ),
    (what_ended_above_the_floor_is_forgotten, ("exceptions_of_the_floor_are_lost",)),
    (nothing_is_left, ("ids_never_expire", "what_has_ended_keeps_its_lease")),
    (nobody_serves, ("requests_never_expire",)),
]
BROKEN = [(schedule, name) for schedule, names in SCHEDULES for name in names]


@pytest.mark.parametrize("schedule", [schedule for schedule, _ in SCHEDULES], ids=lambda one: one.__name__)
def test_a_schedule_breaks_nothing(schedule: Callable[[], None]) -> None:
    schedule()


@pytest.mark.parametrize(("schedule", "mutation"), BROKEN, ids=lambda one: getattr(one, "__name__", one))
def test_a_schedule_is_found_again_without_its_rule(schedule: Callable[[], None], mutation: str) -> None:
    with MUTATIONS[mutation](), pytest.raises(Broken):
        schedule()
