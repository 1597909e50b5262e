"""Where the agent's socket is looked for."""

from pathlib import Path

from mesh.client.socketpath import RUN_PATH, candidates

ENVIRON = {"MESH_SOCKET": "/one/agent.sock", "XDG_RUNTIME_DIR": "/run/user/7"}


def test_the_path_that_is_given_is_the_only_one() -> None:
    assert ["/given"] == candidates("/given", ENVIRON)
    assert ["/given"] == candidates(Path("/given"), ENVIRON)


def test_the_environment_comes_next() -> None:
    assert ["/one/agent.sock"] == candidates(None, ENVIRON)


def test_then_the_users_directory_and_the_systems() -> None:
    assert ["/run/user/7/mesh/agent.sock", RUN_PATH] == candidates(None, {"XDG_RUNTIME_DIR": "/run/user/7"})
    assert [RUN_PATH] == candidates("", {})
