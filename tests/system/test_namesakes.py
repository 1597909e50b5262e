"""Two agents with one node id, which nobody has a link to: both say so, one goes, and the catalogue keeps the other."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.consul_server import ConsulServer
from tests.system.agents import Agent, Fleet, over_consul, until

pytestmark = pytest.mark.system


@pytest.fixture(params=["sqlite", "consul"])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    if request.param == "sqlite":
        with Fleet(tmp_path) as fleet:
            yield fleet
        return
    directory = tmp_path / "consul"
    directory.mkdir()
    with (
        ConsulServer(directory) as server,
        Fleet(tmp_path, **over_consul(server.address)) as fleet,
    ):
        yield fleet


def endpoint(agent: Agent) -> str:
    return "{}:{}".format(*agent.links[0])


def is_entered(agent: Agent) -> bool:
    facts = agent.query("status")["matchmaker"]
    return bool(facts["reachable"] and facts["registered"] == facts["to_register"])


def test_a_newcomer_asks_who_is_entered_under_its_node_id_and_goes(fleet: Fleet) -> None:
    first = fleet.start("twin", name="first")
    until(lambda: is_entered(first), "the first is entered")
    second = fleet.start("twin", name="second", ready=False)
    assert 78 == second.wait()
    (loud,) = second.noted("duplicate_node", level="error")
    assert f"another agent has the node id 'twin' and answers at {endpoint(first)}" in loud["why"]
    assert f"and the one at {endpoint(second)}" in first.expect("duplicate_node", level="error")["why"]
    assert endpoint(first) == first.query("status")["endpoint"]
    assert is_entered(first)
    assert [] == first.noted("entry_repaired")


def test_what_a_dead_agent_has_left_keeps_nobody_from_starting(fleet: Fleet) -> None:
    first = fleet.start("twin", name="first")
    until(lambda: is_entered(first), "the first is entered")
    first.kill()
    second = fleet.start("twin", name="second")
    until(lambda: is_entered(second), "the second is entered")
    assert endpoint(first) == second.expect("namesake_silent", level="info")["address"]
    assert second.process.poll() is None


def test_an_agent_that_could_not_be_asked_stays_and_the_later_one_goes(fleet: Fleet) -> None:
    first = fleet.start("twin", name="first")
    until(lambda: is_entered(first), "the first is entered")
    stopped = (first.process.pid, first.reactor_pid)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    second = fleet.start("twin", name="second")
    until(lambda: is_entered(second), "the second is entered")
    for pid in reversed(stopped):
        os.kill(pid, signal.SIGCONT)
    assert 78 == second.wait()
    assert "this one, the later, stops" in second.noted("duplicate_node", level="error")[-1]["why"]
    until(lambda: is_entered(first), "the first is entered again")
    assert "this one, the earlier, stays" in first.noted("duplicate_node", level="error")[0]["why"]
    assert first.process.poll() is None
