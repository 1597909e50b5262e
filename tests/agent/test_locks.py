"""Locks name their holder; directories are made as asked and otherwise left alone."""

import grp
import os
import stat
from pathlib import Path

import pytest

from mesh.agent.exits import Exit, Refused
from mesh.agent.locks import hold, make_directory

pytestmark = pytest.mark.io


def test_a_lock_that_is_held_is_refused_with_its_holder(tmp_path: Path) -> None:
    first = hold(tmp_path / "lock", "the thing")
    with pytest.raises(
        Refused, match=rf"another agent \(pid {os.getpid()}\) uses the thing: it holds .*/lock;"
    ) as told:
        hold(tmp_path / "lock", "the thing")
    assert Exit.UNAVAILABLE == told.value.status
    os.close(first)
    os.close(hold(tmp_path / "lock", "the thing"))


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    first = [hold(tmp_path / "lock", "the thing")]
    second = hold(tmp_path / "lock", "the thing", 30.0, waiting=lambda: os.close(first.pop()) if first else None)
    assert f"{os.getpid()}\n" == (tmp_path / "lock").read_text()
    os.close(second)


def test_a_lock_file_behind_a_symbolic_link_is_not_opened(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(Refused, match="cannot open the lock of the thing"):
        hold(tmp_path / "lock", "the thing")
    assert not (tmp_path / "precious").exists()


def test_a_directory_is_made_with_its_mode_and_one_that_is_there_keeps_its_own(tmp_path: Path) -> None:
    made = tmp_path / "parent" / "made"
    make_directory(made, 0o750, "the directory", group=grp.getgrgid(os.getgid()).gr_name)
    assert 0o750 == stat.S_IMODE(made.stat().st_mode)
    make_directory(made, 0o700, "the directory")
    assert 0o750 == stat.S_IMODE(made.stat().st_mode)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_where_a_directory_should_be_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match=f"cannot make the directory .*{name}"):
        make_directory(tmp_path / name, 0o700, "the directory")


def test_a_group_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="cannot be given to group 'no such group 1'") as told:
        make_directory(tmp_path / "made", 0o700, "the directory", group="no such group 1")
    assert Exit.CONFIGURATION == told.value.status
