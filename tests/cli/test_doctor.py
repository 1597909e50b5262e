"""`doctor`: each check, on what it would find."""

import os
import socket
from pathlib import Path

import pytest

from mesh.cli.doctor import (
    check_agent,
    check_clock,
    check_descriptors,
    check_dial_back,
    check_matchmaker,
    check_port,
    check_socket,
)
from tests.cli.fakes import STATUS
from tests.config.machines import configure

NOW_S = STATUS["incarnation"] / 1000 + 3600.0
IN_STEP = (0.1, 0.1)


def test_a_socket_that_is_not_there_is_to_be_started(tmp_path: Path) -> None:
    finding = check_socket([tmp_path / "a", tmp_path / "b"], 0)
    assert "fail" == finding.level
    assert f"{tmp_path}/a or {tmp_path}/b" in finding.text
    assert "start the agent" in finding.advice


def test_a_file_in_the_sockets_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    assert "is not a socket" in check_socket([tmp_path / "a"], 0).text


@pytest.mark.io
def test_a_socket_that_may_be_written_is_well(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "a"))
        assert "ok" == check_socket([tmp_path / "missing", tmp_path / "a"], os.geteuid()).level


@pytest.mark.io
def test_a_socket_of_others_says_whose_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "a"))
        monkeypatch.setattr(os, "access", lambda *_: False)
        finding = check_socket([tmp_path / "a"], 1000)
    assert "fail" == finding.level
    assert f"user {os.geteuid()}" in finding.text
    assert "1000" in finding.advice


def test_a_directory_that_may_not_be_entered_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert f"may not enter {tmp_path}" in check_socket([tmp_path / "a"], 1000).advice


@pytest.mark.parametrize(
    ("wall_s", "steps_s", "level", "text"),
    [
        (NOW_S, IN_STEP, "ok", "in step"),
        (1000.0, IN_STEP, "fail", "never set"),
        (NOW_S - 7200, IN_STEP, "warn", "set back"),
        (NOW_S, (5.1, 0.1), "warn", "jumped by +5.00 s"),
    ],
)
def test_the_clock_is_judged(wall_s: float, steps_s: tuple[float, float], level: str, text: str) -> None:
    finding = check_clock(wall_s, steps_s, STATUS)
    assert level == finding.level
    assert text in finding.text
    assert (level == "ok") == (finding.advice == "")


@pytest.mark.parametrize(("used", "level"), [(10, "ok"), (80, "warn"), (95, "fail")])
def test_open_files_are_judged_by_their_limit(used: int, level: str) -> None:
    (finding,) = check_descriptors(STATUS | {"descriptors": used, "descriptors_max": 100}, None)
    assert level == finding.level


def test_an_agent_with_another_configuration_than_was_looked_at_is_told_from_it(tmp_path: Path) -> None:
    names = f'[agent]\nnode_id = "{STATUS["node"]}"\nfleet = "{STATUS["fleet"]}"\n'
    assert "configuration" not in check_agent(STATUS, 1.0, configure(tmp_path, names)).text
    assert "another configuration" in check_agent(STATUS, 1.0, configure(tmp_path)).text


@pytest.mark.parametrize(
    ("health", "level"), [("passing", "ok"), ("warning", "warn"), ("maintenance", "warn"), ("critical", "fail")]
)
def test_an_agent_is_judged_as_its_own_check_judges_it(health: str, level: str) -> None:
    finding = check_agent(STATUS | {"health": {"status": health, "why": "no link to b"}}, 1.0, None)
    assert level == finding.level
    assert ("no link to b" in finding.text) == (level != "ok")


def test_open_files_are_not_judged_without_an_agent() -> None:
    assert [] == list(check_descriptors(None, None))


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, "ok"),
        ({"registered": 1}, "warn"),
        ({"reachable": None}, "warn"),
        ({"reachable": False, "problem": "refused"}, "fail"),
    ],
)
def test_the_matchmaker_is_judged_by_what_the_agent_says(changes: dict[str, object], level: str) -> None:
    finding = check_matchmaker({"matchmaker": STATUS["matchmaker"] | changes})
    assert level == finding.level
    assert (level == "ok") == (finding.advice == "")


def test_a_port_that_does_not_answer_names_the_options_to_look_at() -> None:
    finding = check_port("192.0.2.1:7441", "Connection refused")
    assert "fail" == finding.level
    assert "advertise" in finding.advice


@pytest.mark.parametrize(
    ("reached", "text", "level", "advice"),
    [
        (True, "", "ok", ""),
        (False, "no connection within 2 s", "fail", "let TCP port 7441 in"),
        (False, "you meant 'a', this is 'b'", "fail", "another agent answers there"),
    ],
)
def test_what_a_peer_says_of_dialling_us_is_judged(reached: bool, text: str, level: str, advice: str) -> None:
    answer = {"peer": "n2", "address": "192.0.2.1:7441", "reached": reached, "text": text}
    finding = check_dial_back(answer)
    assert level == finding.level
    assert "n2" in finding.text
    assert finding.advice.startswith(advice)
    assert bool(advice) == bool(finding.advice)


def test_a_port_on_loopback_is_well_and_said_to_be_local() -> None:
    assert "only agents of this machine" in check_port("127.0.0.1:7441", "").text
    assert "as dialled from here" in check_port("192.0.2.1:7441", "").text
