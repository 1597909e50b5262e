"""What checks say, and why."""

import pytest

from mesh.core.catalogue import Health
from mesh.core.health import HealthOptions, Verdict, Vitals, agent_health, beat_s, service_health
from mesh.core.inbox import Handed, InboxOptions, Service
from mesh.core.records import Kind, Request

OPTIONS = HealthOptions(app_silent_s=9.0, hung_after_s=5.0)
INBOX = InboxOptions(queue_records=2)


def service(workers: int = 2, waiting: int = 0, since: float = 100.0) -> Service:
    """A service with requests that wait."""
    made = Service("jobs", "s", workers, 1)
    for seq in range(waiting):
        request = Request(int(Kind.CAST), seq, "jobs", "", 60_000, b"", node="a", session=1)
        made.enqueue(Handed(request, since + 60, 1), since)
    return made


def check(service: Service, now: float, heard_at: float = 100.0) -> Verdict:
    return service_health(service, heard_at, OPTIONS, INBOX, now)


def test_a_service_passes_while_its_app_is_heard_and_is_pinged_in_time() -> None:
    assert Verdict(Health.PASSING, "") == check(service(), 108.9)
    assert beat_s(OPTIONS) == 3.0


def test_a_silent_app_is_critical() -> None:
    verdict = check(service(), 109.0)
    assert (Health.CRITICAL, "its app is silent for 9 s: stopped, or its loop is blocked") == verdict


def test_a_service_is_critical_when_all_its_workers_run_over_their_callers_time() -> None:
    hangs = service(workers=2)
    hangs.overrun = {("a", 1, 0): 100.0, ("a", 1, 1): 102.0}
    assert Health.PASSING == check(hangs, 106.9).health
    assert Verdict(
        Health.CRITICAL, "all 2 workers hang: their handlers still run though their callers' time is over"
    ) == check(hangs, 107.0)


def test_a_service_warns_when_its_queue_is_full_or_stands_still() -> None:
    assert Verdict(Health.WARNING, "its queue is full: queue_records is reached, 2 wait") == check(service(2, 2), 101)
    stands = service(2, 1)
    assert Health.PASSING == check(stands, 108.9, heard_at=108.0).health
    assert Verdict(Health.WARNING, "1 wait, and none has ended for 9 s") == check(stands, 109.0, heard_at=108.0)


@pytest.mark.parametrize(
    ("vitals", "health", "text"),
    [
        (Vitals(links=3), Health.PASSING, "3 links"),
        (Vitals(draining=True, unfinished=4, lag_s=99), Health.MAINTENANCE, "draining: 4 unfinished"),
        (Vitals(lag_s=1.0), Health.WARNING, "its loop lags 1.0 s: too much load for this machine"),
        (Vitals(lag_s=5.0), Health.CRITICAL, "its loop lags 5.0 s: too much load for this machine"),
        (
            Vitals(descriptors=90, descriptors_max=100),
            Health.WARNING,
            "90 of 100 open files are in use: raise LimitNOFILE",
        ),
        (
            Vitals(descriptors=98, descriptors_max=100),
            Health.CRITICAL,
            "98 of 100 open files are in use: raise LimitNOFILE",
        ),
        (Vitals(waiting=9, waiting_max=10), Health.WARNING, "9 of waiting_records_max = 10 are taken"),
        (Vitals(remembered=9, remembered_max=10), Health.WARNING, "9 of ids_max = 10 are taken"),
        (Vitals(lost=("b", "c")), Health.WARNING, "no link to b, c"),
        (Vitals(lost=tuple("bcdefgh")), Health.WARNING, "no link to b, c, d, e, f and 2 more"),
        (
            Vitals(clock_behind_s=61),
            Health.WARNING,
            "this machine's clock is 61 s before the agent's own start: set it right",
        ),
    ],
)
def test_an_agents_check_says_what_is_wrong(vitals: Vitals, health: Health, text: str) -> None:
    assert (health, text) == agent_health(vitals)


def test_an_agents_check_is_as_bad_as_the_worst_and_names_all() -> None:
    verdict = agent_health(Vitals(lost=("b",), descriptors=100, descriptors_max=100))
    assert Health.CRITICAL == verdict.health
    assert verdict.text == "100 of 100 open files are in use: raise LimitNOFILE; no link to b"
