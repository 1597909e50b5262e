"""Where things go when nobody says where."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from mesh.config.places import path_problem, socket_place, state_place
from tests.config.machines import HOST


@pytest.mark.parametrize(
    ("environ", "user_id", "expected"),
    [
        ({}, 1000, "/home/ada/.local/state/mesh/blue"),
        ({}, 0, "/var/lib/mesh/blue"),
        ({"XDG_STATE_HOME": "/state"}, 1000, "/state/mesh/blue"),
        ({"XDG_STATE_HOME": "/state"}, 0, "/state/mesh/blue"),
        ({"XDG_STATE_HOME": "not/absolute"}, 1000, "/home/ada/.local/state/mesh/blue"),
    ],
)
def test_what_is_kept_has_a_place_for_each_fleet(environ: dict[str, str], user_id: int, expected: str) -> None:
    assert expected == state_place("blue", environ, replace(HOST, user_id=user_id))[0]


def test_the_socket_goes_to_the_users_runtime_directory_which_need_not_hold_ours_yet(tmp_path: Path) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    expected = f"{tmp_path}/mesh/agent.sock"
    assert expected == socket_place(environ, os.geteuid())
    (tmp_path / "mesh").mkdir()
    assert expected == socket_place(environ, os.geteuid())


def test_a_place_that_cannot_be_used_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usable = tmp_path / "run"
    usable.mkdir()
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "mesh").touch()
    monkeypatch.setattr("mesh.client.socketpath.RUN_PATH", str(usable / "agent.sock"))
    for directory in (tmp_path / "absent", occupied):
        environ = {"XDG_RUNTIME_DIR": str(directory)}
        assert str(usable / "agent.sock") == socket_place(environ, os.geteuid())


def test_without_a_usable_place_every_reason_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr("mesh.client.socketpath.RUN_PATH", str(file / "agent.sock"))
    with pytest.raises(ValueError) as caught:
        socket_place({"XDG_RUNTIME_DIR": str(tmp_path / "absent")}, os.geteuid())
    assert f"{tmp_path / 'absent'} is missing or may not be written" in str(caught.value)
    assert f"{file} is not a directory" in str(caught.value)
    assert "set XDG_RUNTIME_DIR, or MESH_SOCKET" in str(caught.value)


def test_another_users_directory_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "mesh"
    theirs.mkdir()
    real = Path.stat

    def stat(path: Path) -> os.stat_result:
        found = list(real(path))
        found[4] = os.geteuid() + 1
        return os.stat_result(found)

    monkeypatch.setattr("mesh.client.socketpath.RUN_PATH", str(theirs / "agent.sock"))
    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(ValueError, match="is another user's"):
        socket_place({}, os.geteuid())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/run/a.sock", None),
        ("run/a.sock", "must be an absolute path"),
        ("~/a.sock", "must be an absolute path"),
        (f"/{'a' * 106}", None),
        (f"/{'é' * 54}", "has 109 bytes, and a socket's path may have 107: choose a shorter one"),
    ],
)
def test_a_sockets_path_is_absolute_and_short(path: str, expected: str | None) -> None:
    assert expected == path_problem(path, socket=True)


def test_other_paths_may_be_long() -> None:
    assert path_problem(f"/{'a' * 200}") is None
