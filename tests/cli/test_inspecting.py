"""`status`, `topics`, `links`, `ping`."""

import json

import pytest

from mesh import errors
from mesh.client.api import Reply
from tests.cli.conftest import Run
from tests.cli.fakes import LINK, STATUS, FakeClient

REPORTS = {"status": STATUS, "links": [LINK], "topics": []}


@pytest.mark.parametrize("what", ["status", "links", "topics"])
def test_json_is_the_agents_report_as_it_is(what: str, run: Run) -> None:
    ran = run(what, "--json", client=FakeClient(reports=REPORTS))
    assert 0 == ran.status
    assert REPORTS[what] == json.loads(ran.out)


@pytest.mark.parametrize(("what", "shown"), [("status", "n1"), ("links", "persistent"), ("topics", "no topics")])
def test_people_get_a_table(what: str, shown: str, run: Run) -> None:
    ran = run(what, client=FakeClient(reports=REPORTS))
    assert 0 == ran.status
    assert shown in ran.out
    assert "\x1b" not in ran.out


def test_ping_without_a_target_asks_the_agent(run: Run) -> None:
    ran = run("ping", "--count", "2", "--json", client=FakeClient(reports=REPORTS))
    told = json.loads(ran.out)
    assert (0, "n1", 2) == (ran.status, told["target"], len(told["rtt_ms"]))


def test_ping_of_a_peer_tells_its_links_last_heartbeat(run: Run) -> None:
    assert (0, "n2: 0.31 ms (the link's last heartbeat)\n", "") == run("ping", "n2", client=FakeClient(reports=REPORTS))
    unheard = FakeClient(reports=REPORTS | {"links": [LINK | {"rtt_ms": None}]})
    assert 1 == run("ping", "n2", client=unheard).status


def test_ping_of_a_topic_calls_it(run: Run) -> None:
    client = FakeClient(Reply(b""), REPORTS)
    ran = run("ping", "words", "--count", "1", client=client)
    assert 0 == ran.status
    assert "words" == client.asked[0][1]
    assert "(a call)" in ran.out


def test_a_handler_that_fails_has_answered(run: Run) -> None:
    failing = FakeClient(errors.RemoteError("no", type="KeyError"), REPORTS)
    ran = run("ping", "words", client=failing)
    assert 0 == ran.status
    assert "its handler failed: KeyError" in ran.out


def test_ping_of_several_exits_with_the_greatest_status(run: Run) -> None:
    ran = run("ping", "n2", "words", client=FakeClient(errors.Unroutable("nobody"), REPORTS))
    assert 3 == ran.status
    assert "n2: 0.31 ms" in ran.out
    assert "words: nobody" in ran.err
