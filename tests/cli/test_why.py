"""`why`: recordings are searched for one message, the agent's own or those that are given."""

import json
from pathlib import Path

from mesh.cli.exits import Exit
from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient
from tests.cli.test_recorder import recording

ID = "a/b/0"


def test_a_recording_tells_of_a_message_and_who_else_may(run: Run, tmp_path: Path) -> None:
    ran = run("why", ID, str(recording(tmp_path / "one")))
    assert Exit.OK == ran.status
    first, line, *others = ran.out.splitlines()
    assert first.startswith("a, from ")
    assert first.endswith(" of its clock: it passed, and did not end here")
    assert line.endswith("← app #1: call to 'orders', 50 s left")
    assert [] == others
    ran = run("why", "far/b/0", str(tmp_path / "one"))
    assert Exit.FAILED == ran.status
    assert "nothing of it: it did not come here in that time" in ran.out
    assert "far knows more: `mesh recorder dump FILE` there, then `mesh why far/b/0 FILES`" in ran.out


def test_an_agent_that_had_the_message_before_its_recording_begins_is_named(run: Run, tmp_path: Path) -> None:
    ran = run("why", "a/b/9", str(recording(tmp_path / "one")))
    assert "when its reactor began, to " in ran.out
    assert "a had it before its recording begins: another reactor, or longer ago than it reaches back" in ran.out


def test_without_files_the_agent_is_asked_for_its_recording(run: Run, tmp_path: Path) -> None:
    path = recording(tmp_path / "one")
    ran = run("why", ID, "--json", client=FakeClient(reports={"recorder_dump": {"path": str(path)}}))
    (told,) = json.loads(ran.out)
    assert ("a", False, "", True) == (told["node"], told["ran"], told["ended"], told["whole"])
    assert [("from", "app #1")] == [(one["way"], one["whom"]) for one in told["passages"]]
    assert 0.7 == round(told["until"] - told["from"], 3)


def test_a_replay_that_diverges_is_said_to(run: Run, tmp_path: Path) -> None:
    ran = run("why", ID, str(recording(tmp_path / "one", wrong=True)))
    assert "the replay went another way than the agent" in ran.out


def test_what_is_no_id_or_no_recording_is_an_error(run: Run, tmp_path: Path) -> None:
    for text in ("nope", "a/x/0", "a/b/c", "/"):
        ran = run("why", text)
        assert Exit.USAGE == ran.status
        assert "is no message id: they look like" in ran.err
    (tmp_path / "bad").write_bytes(b"no recording")
    ran = run("why", ID, str(tmp_path / "bad"))
    assert Exit.FAILED == ran.status
    assert "this is no recording of heartmesh" in ran.err
