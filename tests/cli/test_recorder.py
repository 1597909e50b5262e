"""`recorder`, and `sim --replay` of what it wrote."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import msgpack
from msgspec.structs import replace

from mesh.cli import replay
from mesh.core.codec import encode
from mesh.core.context import NodeOptions
from mesh.core.recording import Header, Kept, write
from mesh.core.records import AppHello, Flag, Request
from mesh.core.session import Credentials
from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient
from tests.core.fabric import lone_node

HEADER = Header("a", 1, "1.0", "asked", 0, False, NodeOptions())
FACTS: dict[str, Any] = {
    "on": True,
    "paused": False,
    "bytes": 3 << 20,
    "segments": 3,
    "inputs": 1245,
    "since_s": 42.5,
    "directory": "/var/lib/mesh/default/recordings",
    "recordings": [{"name": "one.recording", "bytes": 12_824, "written": 1.5}],
}


def recording(path: Path, header: Header = HEADER, *, wrong: bool = False) -> Path:
    """Write a recording of one app that asks for something."""
    node = lone_node()
    request = Request(0, 0, "orders", "", 50_000, b"", Flag.WAIT)
    data = encode(0, [AppHello(0, 0, 11, 1, "shell"), request, replace(request, seq=1)])
    inputs: list[tuple[Any, ...]] = [("app_connected", {"uid": 1, "pid": 2}, 1.0), ("app_data", 1, data, 1.5)]
    inputs += [("tick", 1.6), ("take", 1.7)]
    kept = [Kept(msgpack.encode(node.state), inputs)]
    if not header.failure:
        node.app_connected(Credentials(1, 2), 1.0)
        node.app_data(1, data, 1.5)
        node.tick(1.6)
        node.take(1.7)
        node.state.totals.calls += wrong
        kept.append(Kept(msgpack.encode(node.state), []))
    path.write_bytes(b"".join(write(header, kept)))
    return path


def test_the_recorders_facts_are_shown(run: Run) -> None:
    ran = run("recorder", "list", client=FakeClient(reports={"recorder": FACTS}))
    assert 0 == ran.status
    assert "recorder on; 1,245 inputs of the last 42 s, 3.0 MiB" in ran.out
    assert "one.recording" in ran.out
    assert FACTS == json.loads(run("recorder", "list", "--json", client=FakeClient(reports={"recorder": FACTS})).out)


def test_a_dump_prints_where_the_agent_wrote(run: Run) -> None:
    client = FakeClient(reports={"recorder_dump": {"path": "/x/one.recording"}})
    assert (0, "/x/one.recording\n", "") == run("recorder", "dump", client=client)


def test_a_dump_is_copied_for_its_user_alone_and_over_nothing(tmp_path: Path, run: Run) -> None:
    written, copy = tmp_path / "one.recording", tmp_path / "copy"
    written.write_bytes(b"heartmesh")
    client = FakeClient(reports={"recorder_dump": {"path": str(written)}})
    assert (0, f"{copy}\n", "") == run("recorder", "dump", str(copy), client=client)
    assert (b"heartmesh", 0o600) == (copy.read_bytes(), copy.stat().st_mode & 0o777)
    again = run("recorder", "dump", str(copy), client=client)
    assert (1, True) == (again.status, "File exists; the agent wrote" in again.err)
    written.unlink()
    unreadable = run("recorder", "dump", str(tmp_path / "other"), client=client)
    assert (1, True) == (unreadable.status, "which you may not read" in unreadable.err)


def test_a_replay_shows_inputs_and_decisions_and_ends_with_the_verdict(tmp_path: Path, run: Run) -> None:
    ran = run("sim", "--replay", str(recording(tmp_path / "one")))
    assert 0 == ran.status
    lines = ran.out.splitlines()
    assert lines[0].startswith("node a, incarnation 1, agent 1.0, written because it was asked for; bodies left out")
    assert any(line.endswith("app_data  app #1  AppHello Request×2") for line in lines)
    assert any("→ app shell #1  AppWelcome" in line for line in lines)
    assert any("→ notes app_attached app='shell'" in line for line in lines)
    assert lines[-1].startswith("4 inputs in 2 segments: the same state as recorded, ")


def test_a_trace_shows_every_input_and_field(tmp_path: Path, run: Run) -> None:
    ran = run("sim", "--replay", str(recording(tmp_path / "one")), "--trace")
    assert "topic='orders'" in ran.out
    assert "body=0 bytes" in ran.out
    assert "  tick" in ran.out


def test_a_part_of_it_can_be_shown(tmp_path: Path, run: Run) -> None:
    path = str(recording(tmp_path / "one"))
    assert "app_connected" not in run("sim", "--replay", path, "--from", "0.4").out
    assert "AppWelcome" not in run("sim", "--replay", path, "--until", "0.55").out


def test_json_is_a_step_a_line_and_then_the_verdict(tmp_path: Path, run: Run) -> None:
    ran = run("sim", "--replay", str(recording(tmp_path / "one")), "--json")
    *steps, last = map(json.loads, ran.out.splitlines())
    assert ["app_connected", "app_data", "take"] == [step["entry"] for step in steps]
    assert ["AppHello", "Request", "Request"] == [record["type"] for record in steps[1]["told"]]
    assert {"inputs": 4, "states_same": [True], "raised": ""} == {k: v for k, v in last.items() if k != "verdict"}


def test_a_state_that_differs_is_a_failure_that_names_the_segment(tmp_path: Path, run: Run) -> None:
    ran = run("sim", "--replay", str(recording(tmp_path / "one", wrong=True)))
    assert 1 == ran.status
    assert "the state after segment 0 is" in ran.out
    assert "it diverged there" in ran.out


def test_what_was_recorded_as_broken_and_does_not_break_is_a_failure(tmp_path: Path, run: Run) -> None:
    header = replace(HEADER, reason="crash", failure="KeyError: 11")
    ran = run("sim", "--replay", str(recording(tmp_path / "one", header)))
    assert (1, True) == (ran.status, "it does not raise what was recorded, KeyError: 11" in ran.out)


@pytest.mark.parametrize(
    ("content", "text"),
    [(None, "No such file"), (b"\x7fELF", "no recording of heartmesh"), (b"heartmesh recording\n", "cut off")],
)
def test_a_file_that_is_no_recording_is_named(content: bytes | None, text: str, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    ran = run("sim", "--replay", str(path))
    assert (1, True, True) == (ran.status, str(path) in ran.err, text in ran.err)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "RECORDING_BYTES_MAX", 10)
    ran = run("sim", "--replay", str(recording(tmp_path / "one")))
    assert (1, True) == (ran.status, "more than 10 bytes" in ran.err)
