"""`mesh sim`: what it plays, prints and exits with."""

import json
from unittest import mock

from mesh.cli.exits import Exit
from mesh.core.calling import Calling
from tests.cli.conftest import Run


def test_one_seed_is_played_and_summed_up(run: Run) -> None:
    ran = run("sim", "--seed", "3")
    assert (Exit.OK, "") == (ran.status, ran.err)
    for word in ("messages", "in a second of one core", "call Reply", "failed      0"):
        assert word in ran.out


def test_its_trace_is_printed_when_asked_for(run: Run) -> None:
    ran = run("sim", "--seed", "37", "--trace")
    assert "AppHello" in ran.out
    assert "link_opened peer=" in ran.out


def test_many_seeds_are_played_and_told_as_json(run: Run) -> None:
    ran = run("sim", "--seeds", "0..3", "--processes", "1", "--only", "kill", "--json")
    told = json.loads(ran.out)
    assert (Exit.OK, 4, {}, ["kill"]) == (ran.status, told["seeds"], told["failed"], list(told["faults"]))
    one = json.loads(run("sim", "--seed", "3", "--json").out)
    assert (3, []) == (one["seed"], one["findings"])


def test_it_goes_on_for_so_many_minutes(run: Run) -> None:
    ran = run("sim", "--minutes", "0.001", "--processes", "1", "--json")
    assert 1 <= json.loads(ran.out)["seeds"] < 10


def test_what_fails_is_made_small_and_printed_with_how_to_see_it_again(run: Run) -> None:
    def lost(self: Calling, *arguments: object) -> list[object]:
        return []

    with mock.patch.object(Calling, "_place", lost):
        ran = run("sim", "--seeds", "3..3", "--processes", "1")
        assert Exit.FAILED == run("sim", "--seed", "3", "--json").status
        assert Exit.FAILED == run("sim", "--seed", "3", "--no-shrink").status
    assert Exit.FAILED == ran.status
    assert "0 messages, 0 faults" in ran.out
    assert "FOUND" in ran.out
    assert "mesh sim --seed 3 --trace" in ran.out


def test_what_cannot_be_played_is_said(run: Run) -> None:
    for arguments, word in (
        (("--seeds", "7"), "A..B"),
        (("--seeds", "9..7"), "comes before"),
        (("--seeds", "9.."), "--minutes"),
        (("--seed", "1", "--minutes", "1"), "--seed plays one seed"),
        (("--seeds", "0..3", "--trace"), "--seed"),
        (("--only", "rain"), "none of cut"),
    ):
        ran = run("sim", *arguments)
        assert (Exit.USAGE, True) == (ran.status, word in ran.err), ran.err
