"""`sim --exhaustive`: scenarios are listed, searched and told of."""

import json

import click
import pytest

from mesh.cli.exhaustive import run
from mesh.cli.exits import Exit
from mesh.cli.main import run_command_line
from mesh.sim.smallworlds import SCENARIOS
from tests.sim.mutations import MUTATIONS


def test_scenarios_are_listed_with_what_happens_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert Exit.OK == run("list", None, False)
    shown = capsys.readouterr().out
    assert all(scenario.text in shown for scenario in SCENARIOS.values())


def test_the_list_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert Exit.OK == run("list", None, True)
    assert list(SCENARIOS) == [row["name"] for row in json.loads(capsys.readouterr().out)]


def test_a_search_that_finds_nothing_says_what_it_saw(capsys: pytest.CaptureFixture[str]) -> None:
    assert Exit.OK == run("call", 0, False)
    assert "12 states by 11 moves, up to 11 deep" in capsys.readouterr().out


def test_a_search_that_finds_a_schedule_prints_it_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    with MUTATIONS["apps_take_copies_for_new"]():
        assert Exit.FAILED == run("call", None, False)
    shown = capsys.readouterr().out
    assert "FAULT error server" in shown
    assert "broken: ('a', 10, 0) runs twice" in shown


def test_what_a_search_found_is_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    with MUTATIONS["apps_take_copies_for_new"]():
        assert Exit.FAILED == run("call", None, True)
    found = json.loads(capsys.readouterr().out)["call"]["found"]
    assert "runs twice" in found["why"]
    assert "server connects" in found["moves"]


def test_a_name_that_there_is_not_is_an_error_that_names_those_there_are() -> None:
    with pytest.raises(click.BadParameter, match=r"'cal' is none of call, idempotent, .*; or all, or list"):
        run("cal", None, False)


def test_the_command_searches_with_as_many_faults_as_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert Exit.OK == run_command_line(["sim", "--exhaustive", "call", "--faults", "0", "--json"])
    assert 12 == json.loads(capsys.readouterr().out)["call"]["states"]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--exhaustive", "call", "--replay", "file"], "leave out what is for seeds and recordings"),
        (["--exhaustive", "call", "--seed", "1"], "leave out what is for seeds and recordings"),
        (["--faults", "1"], "--faults is for --exhaustive"),
    ],
)
def test_the_command_wants_one_thing_to_do(arguments: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert Exit.USAGE == run_command_line(["sim", *arguments])
    assert why in capsys.readouterr().err
