"""An agent learns from a peer whether it is reached at the address that it tells."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mesh.cli.private import free_port
from tests.system.agents import ROOT, Agent, Fleet, until

pytestmark = pytest.mark.system


def doctor(agent: Agent) -> dict[str, dict[str, Any]]:
    """Return what `mesh doctor` finds, by what was looked at."""
    done = subprocess.run(
        [sys.executable, "-m", "mesh.cli", "doctor", "--json", "--socket", str(agent.socket_path)],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("MESH_")},
        capture_output=True,
        check=False,
    )
    return {finding["what"]: finding for finding in json.loads(done.stdout)}


def linked(fleet: Fleet, **options: Any) -> tuple[Agent, Agent]:
    """Two agents, of which the second, with these options, has dialled the first."""
    a, b = fleet.start("a"), fleet.start("b", agent=options)
    with a.echo(), b.traffic():
        pass
    assert a.link_to("b")
    return a, b


def test_a_peer_dials_back_and_the_link_stays_as_it_was(tmp_path: Path) -> None:
    with Fleet(tmp_path, links={"idle_close_s": 60}) as fleet:
        a, b = linked(fleet)
        before = a.link_to("b")
        found = doctor(b)["dial back"]
        assert ("ok", f"a reaches this agent at 127.0.0.1:{b.links[0][1]}") == (found["level"], found["text"])
        after = a.link_to("b")
        assert before is not None
        assert after is not None
        assert before["age_s"] < after["age_s"]
        assert b.expect("probed", level="info")


def test_a_peer_says_that_it_does_not_get_through_and_the_doctor_what_to_do(tmp_path: Path) -> None:
    with Fleet(tmp_path, links={"idle_close_s": 60}) as fleet:
        told = free_port()
        _, b = linked(fleet, link_port=free_port(), advertise_port=told)
        found = doctor(b)["dial back"]
        assert "fail" == found["level"]
        assert f"a does not reach this agent at 127.0.0.1:{told}: dial failed" in found["text"]
        assert f"let TCP port {told} in" in found["advice"]


def test_an_agent_that_nobody_is_linked_with_links_itself_to_one(tmp_path: Path) -> None:
    with Fleet(tmp_path) as fleet:
        a = fleet.start("a")
        until(lambda: a.query("status")["matchmaker"]["registered"], "it is entered")
        assert "not tried: the matchmaker knows of no other agent" == doctor(a)["dial back"]["text"]
        b = fleet.start("b")
        assert "ok" == doctor(b)["dial back"]["level"]
