"""What an agent tells is kept for those who wait for it, and said in the log."""

import logging

import pytest

from mesh.client.events import CancelAsked, Event, Leaving, Opened, Parted, Refused, Reported, ServingTold
from mesh.client.told import Told
from tests.client.test_session import welcome


def test_what_is_waited_for_is_kept() -> None:
    told = Told()
    served, report = ServingTold("topic", True, ""), Reported(7, True, b"{}")
    for event in (served, report, Parted(), CancelAsked(("a", 1, 2))):
        told.take(event)
    assert ({"topic": served}, {7: report}, True) == (told.topics, told.reports, told.parted)


def test_only_some_refusals_are_for_good() -> None:
    told = Told()
    final = Refused(2, "of another fleet", True)
    assert told.refused_for_good is None
    told.take(Refused(7, "draining", False))
    assert told.refused_for_good is None
    told.take(final)
    assert final == told.refused_for_good


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Opened(welcome()), "connected to the agent of here (incarnation 3)"),
        (Refused(7, "draining", False), "the agent refused this app: draining"),
        (Leaving(""), "the agent drains: no reason given"),
        (ServingTold("topic", False, "by rule 'no'", "no"), "the agent does not let this app serve: by rule 'no'"),
    ],
)
def test_each_is_a_line_of_the_log(event: Event, line: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mesh"):
        Told().take(event)
    assert [line] == caplog.messages
