"""Notes: what a line holds, and what a flood of them costs."""

import ast
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from mesh.agent.logs import PER_WINDOW, WINDOW_S, configure, limit_rate, make_note
from mesh.agent.notes import THEN

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What was written to standard error as JSON, so far."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure(logging.INFO, "auto")
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    structlog.reset_defaults()


def test_a_note_is_a_line_of_json_with_its_name_level_time_and_facts(lines: Callable[[], Any]) -> None:
    make_note(node="a")("link_opened", peer="b", conn=1)
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert {"event": "link_opened", "level": "info", "node": "a", "peer": "b", "conn": 1} == line


def test_a_warning_ends_with_what_the_agent_does_about_it(lines: Callable[[], Any]) -> None:
    note = make_note()
    note("link_lost", logging.WARNING, peer="b", why="silent")
    note("service_health", why="its queue is empty again")
    note("reactor_ended", logging.WARNING, then="the next one starts in 0 s")
    assert [THEN["link_lost"], None, "the next one starts in 0 s"] == [line.get("then") for line in lines()]


def noted_loudly() -> set[str]:
    """The names of notes that are written as warnings or errors anywhere, as the code has them: by their constants."""
    found = {"LINK_LOST", "LINK_REFUSED", "DUPLICATE_NODE"}  # chosen before they are written
    for path in [*(ROOT / "mesh/core").glob("*.py"), *(ROOT / "mesh/agent").glob("*.py")]:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(call, ast.Call) or not re.search(r"\b_?note$", ast.unparse(call.func)):
                continue
            name = ast.unparse(call.args[0]).rpartition(".")[2]
            level = ast.unparse(call.args[1]) if len(call.args) > 1 else "INFO"
            if name.isupper() and not level.endswith("INFO") and "then" not in {word.arg for word in call.keywords}:
                found.add(name)
    return {name.lower() for name in found}


def test_it_is_known_of_every_warning_what_the_agent_does_about_it() -> None:
    loud = noted_loudly()
    assert len(loud) > 30
    assert loud == set(THEN)


def test_notes_below_the_level_are_not_written(lines: Callable[[], Any]) -> None:
    note = make_note()
    note("quiet", logging.DEBUG)
    note("told")
    assert ["told"] == [line["event"] for line in lines()]


def test_an_exception_is_written_with_its_traceback(lines: Callable[[], Any]) -> None:
    try:
        raise KeyError("missing")
    except KeyError as error:
        make_note()("failed", logging.ERROR, exc_info=error)
    assert "KeyError: 'missing'" in lines()[0]["exception"]
    assert "test_logs.py" in lines()[0]["exception"]


def test_facts_that_json_does_not_know_are_written_as_text(lines: Callable[[], Any]) -> None:
    make_note()("odd", what={1, 2}, raw=b"\xff")
    assert "b'\\xff'" == lines()[0]["raw"]


def test_a_flood_of_one_name_is_cut_and_counted_and_others_pass() -> None:
    now = 0.0
    processor = limit_rate(lambda: now)

    def passes(name: str) -> dict[str, Any] | None:
        try:
            return dict(processor(None, "info", {"event": name}))
        except structlog.DropEvent:
            return None

    first = [passes("flood") for _ in range(PER_WINDOW + 30)]
    assert PER_WINDOW == sum(event is not None for event in first)
    assert {"event": "rare"} == passes("rare")
    now = WINDOW_S
    assert {"event": "flood", "suppressed": 30} == passes("flood")
    assert {"event": "flood"} == passes("flood")


def test_a_note_that_nobody_can_be_told_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    for stream in (Broken(), io.StringIO()):
        monkeypatch.setattr("sys.stderr", stream)
        configure(logging.INFO, "json")
        stream.close()
        make_note()("unheard")
    structlog.reset_defaults()


def test_console_lines_are_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    configure(logging.INFO, "console")
    make_note(node="a")("link_opened", peer="b")
    structlog.reset_defaults()
    assert "link_opened" in stream.getvalue()
    with pytest.raises(ValueError):
        json.loads(stream.getvalue())
