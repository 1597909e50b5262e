"""Incarnations: stored before use, always rising, whatever the clock and the file say."""

from pathlib import Path
from typing import Any

import pytest

from mesh.agent.incarnation import INCARNATION_CORRUPT, INCARNATION_MAX, draw_incarnation, has_run, raise_incarnation


def quiet(name: str, **fields: Any) -> None:
    raise AssertionError(f"nothing to note, but {name} {fields}")


def test_the_clock_gives_the_first_and_its_steps_back_change_nothing(tmp_path: Path) -> None:
    assert [1_000, 1_001, 1_002, 5_000] == [draw_incarnation(tmp_path, ms, quiet) for ms in (1_000, 1_000, 3, 5_000)]


def test_what_was_drawn_is_stored(tmp_path: Path) -> None:
    drawn = draw_incarnation(tmp_path, 1_234, quiet)
    assert f"{drawn}\n" == (tmp_path / "incarnation").read_text()
    assert ["incarnation"] == [path.name for path in tmp_path.iterdir()]


def test_the_next_is_written_over_the_last_which_needs_no_room_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "incarnation"
    files = [(draw_incarnation(tmp_path, ms, quiet), path.stat().st_ino)[1] for ms in (9, 10, 1_000_000)]
    assert 1 == len(set(files))
    assert "1000000\n" == path.read_text()


def test_the_next_exceeds_what_a_peer_named_and_a_lesser_one_is_no_step_back(tmp_path: Path) -> None:
    draw_incarnation(tmp_path, 1_000, quiet)
    raise_incarnation(tmp_path, 9_000, quiet)
    raise_incarnation(tmp_path, 2_000, quiet)
    assert 9_001 == draw_incarnation(tmp_path, 1_001, quiet)


@pytest.mark.parametrize("greater", [-1, INCARNATION_MAX + 1, 1 << 62])
def test_a_number_beyond_all_clocks_is_not_taken_from_a_peer(tmp_path: Path, greater: int) -> None:
    with pytest.raises(ValueError, match="is not within 0 to"):
        raise_incarnation(tmp_path, greater, quiet)
    assert 7 == draw_incarnation(tmp_path, 7, quiet)


def test_starts_count_on_from_the_greatest_that_is_taken(tmp_path: Path) -> None:
    raise_incarnation(tmp_path, INCARNATION_MAX, quiet)
    assert [INCARNATION_MAX + 1, INCARNATION_MAX + 2] == [draw_incarnation(tmp_path, 5, quiet) for _ in range(2)]


@pytest.mark.parametrize("content", [b"", b"12x", b"-5\n", b"\xff\xfe", b"9" * 40, b"\xc2\xb2", b"9" * 18])
def test_a_file_that_holds_no_incarnation_is_set_aside_with_a_note(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "incarnation"
    path.write_bytes(content)
    notes: list[tuple[str, dict[str, str]]] = []
    assert 55 == draw_incarnation(tmp_path, 55, lambda name, level, **facts: notes.append((name, facts)))
    aside = str(tmp_path / "incarnation.corrupt")
    assert [(INCARNATION_CORRUPT, {"path": str(path), "why": "it held no incarnation", "aside": aside})] == notes
    assert content == (tmp_path / "incarnation.corrupt").read_bytes()


def test_a_data_directory_tells_whether_an_agent_has_run_with_it(tmp_path: Path) -> None:
    assert not has_run(tmp_path)
    draw_incarnation(tmp_path, 1, quiet)
    assert has_run(tmp_path)
