"""Where the agent's socket is looked for."""

from pathlib import Path

import pytest

from mesh.client import socketpath
from mesh.client.socketpath import RUN_PATH, candidates, trust

ENVIRON = {"MESH_SOCKET": "/one/agent.sock", "XDG_RUNTIME_DIR": "/run/user/7"}


def test_the_path_that_is_given_is_the_only_one() -> None:
    assert ["/given"] == candidates("/given", ENVIRON)
    assert ["/given"] == candidates(Path("/given"), ENVIRON)


def test_the_environment_comes_next() -> None:
    assert ["/one/agent.sock"] == candidates(None, ENVIRON)


def test_then_the_users_directory_and_the_systems() -> None:
    assert ["/run/user/7/mesh/agent.sock", RUN_PATH] == candidates(None, {"XDG_RUNTIME_DIR": "/run/user/7"}, 0)
    assert [RUN_PATH] == candidates("", {}, 0)


def test_a_user_without_rights_elsewhere_has_a_directory_of_their_own() -> None:
    assert [RUN_PATH, "/tmp/mesh-7/agent.sock"] == candidates("", {}, 7)


def test_a_directory_that_another_user_made_first_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socketpath, "own_directory", lambda user: str(tmp_path))
    owner = tmp_path.stat().st_uid
    trust(str(tmp_path / "agent.sock"), owner)
    trust("/run/mesh/agent.sock", owner)
    with pytest.raises(PermissionError, match="another user's"):
        trust(str(tmp_path / "agent.sock"), owner + 1)
