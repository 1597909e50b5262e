"""Whose messages broke how many reactors."""

from pathlib import Path

import pytest

from mesh.agent.poison import BREAKS_MAX, REMEMBER_S, SESSIONS_MAX, Poison


def test_a_session_that_broke_too_many_reactors_is_shut_out(tmp_path: Path) -> None:
    path = tmp_path / "poison.msgpack"
    for number in range(BREAKS_MAX):
        poison = Poison(path, 1000.0)
        assert [] == poison.shut_out()
        poison.broke(7, 1000.0 + number)
        poison.broke(100 + number, 1000.0)
    assert [7] == Poison(path, 1000.0).shut_out()


def test_breaks_are_forgotten_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "poison.msgpack"
    for _ in range(BREAKS_MAX):
        Poison(path, 0.0).broke(7, 1000.0)
    assert [7] == Poison(path, 1000.0 + REMEMBER_S).shut_out()
    assert {} == Poison(path, 1001.0 + REMEMBER_S).breaks


def test_only_so_many_are_remembered(tmp_path: Path) -> None:
    path = tmp_path / "poison.msgpack"
    poison = Poison(path, 0.0)
    for session in range(SESSIONS_MAX + 5):
        poison.broke(session, 1.0)
    assert list(range(5, SESSIONS_MAX + 5)) == list(Poison(path, 1.0).breaks)


@pytest.mark.parametrize("content", [b"", b"\xc1", b"\x81\x01\x02", b"x" * 100_000])
def test_a_file_that_cannot_be_read_is_an_empty_one(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "poison.msgpack"
    path.write_bytes(content)
    poison = Poison(path, 0.0)
    poison.broke(7, 1.0)
    assert [7] == list(Poison(path, 1.0).breaks)


def test_a_disk_that_takes_nothing_is_no_failure(tmp_path: Path) -> None:
    Poison(tmp_path / "missing" / "poison.msgpack", 0.0).broke(7, 1.0)
