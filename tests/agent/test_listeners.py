"""The app socket's path, its stale predecessors and its modes; the links' one port on every address."""

import socket
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from mesh.agent.exits import Exit, Refused
from mesh.agent.listeners import AppListener, listen_links
from mesh.config.places import SOCKET_PATH_BYTES_MAX

pytestmark = pytest.mark.io


@contextmanager
def listening(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM, backlog: int = 1) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, kind) as other:
        other.bind(str(path))
        if kind == socket.SOCK_STREAM:
            other.listen(backlog)
        yield other


def app_listener(path: Path, group: str = "") -> AppListener:
    return AppListener(path, 0o660, group, 16)


def refusal(path: Path, group: str = "") -> Refused:
    with pytest.raises(Refused) as told:
        app_listener(path, group)
    return told.value


def test_apps_can_connect_and_the_mode_is_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with closing(app_listener(path)) as listener, socket.socket(socket.AF_UNIX) as app:
        app.connect(str(path))
        assert not listener.replaced
        assert 0o660 == stat.S_IMODE(path.stat().st_mode)
        assert not listener.socket.getblocking()
    assert not path.exists()


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    with listening(tmp_path / "s"):
        pass
    with closing(app_listener(tmp_path / "s")) as listener:
        assert listener.replaced


@pytest.mark.parametrize("backlog", [16, 0])
def test_a_socket_that_somebody_listens_on_is_refused_and_left(tmp_path: Path, backlog: int) -> None:
    with listening(tmp_path / "s", backlog=backlog):
        refused = refusal(tmp_path / "s")
        assert (Exit.UNAVAILABLE, True) == (refused.status, "another program listens at" in str(refused))
        assert (tmp_path / "s").is_socket()


def test_a_socket_of_another_kind_is_refused_and_left(tmp_path: Path) -> None:
    with listening(tmp_path / "s", socket.SOCK_DGRAM):
        assert "that is not ours" in str(refusal(tmp_path / "s"))
        assert (tmp_path / "s").is_socket()


@pytest.mark.parametrize("kind", ["file", "directory", "link"])
def test_what_is_no_socket_is_refused_and_left(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "s"
    if kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_text("precious")
    before = path.lstat()
    refused = refusal(path)
    assert (Exit.CONFIGURATION, True) == (refused.status, "is not a socket and is left alone" in str(refused))
    assert before == path.lstat()


def test_the_longest_path_works_and_a_longer_one_is_refused(tmp_path: Path) -> None:
    longest = tmp_path / ("x" * (SOCKET_PATH_BYTES_MAX - len(str(tmp_path)) - 1))
    app_listener(longest).close()
    refused = refusal(longest.with_name(longest.name + "x"))
    assert Exit.CONFIGURATION == refused.status
    assert (
        f"has {SOCKET_PATH_BYTES_MAX + 1} bytes, and a socket's path may have {SOCKET_PATH_BYTES_MAX}: choose"
        in str(refused)
    )


def test_a_group_that_does_not_exist_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    assert "no group 'no such group 1'" in str(refusal(tmp_path / "s", "no such group 1"))
    assert [] == list(tmp_path.iterdir())


def test_a_directory_that_is_missing_is_a_clear_refusal(tmp_path: Path) -> None:
    assert "cannot make the app socket" in str(refusal(tmp_path / "missing" / "s"))


def test_what_took_the_place_of_the_socket_is_not_removed(tmp_path: Path) -> None:
    listener = app_listener(tmp_path / "s")
    (tmp_path / "s").unlink()
    (tmp_path / "s").write_text("precious")
    listener.close()
    assert "precious" == (tmp_path / "s").read_text()


def test_links_have_one_port_on_every_address() -> None:
    hosts = ["127.0.0.1", "::1", "127.0.0.2"]
    listeners = listen_links(hosts, 0, 16)
    assert hosts == [listener.getsockname()[0] for listener in listeners]
    (port,) = {listener.getsockname()[1] for listener in listeners}
    assert not any(listener.getblocking() for listener in listeners)
    for listener in listeners:
        listener.close()
    for listener in listen_links(["0.0.0.0", "::"], port, 16):
        assert port == listener.getsockname()[1]
        listener.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_port_that_is_taken_is_refused_by_name(host: str) -> None:
    (taken,) = listen_links([host], 0, 16)
    port = taken.getsockname()[1]
    with taken, pytest.raises(Refused, match=f"{host} port {port}: Address already in use; stop what") as told:
        listen_links([host], port, 16)
    assert Exit.UNAVAILABLE == told.value.status


@pytest.mark.parametrize("host", ["192.0.2.1", "localhost"])
def test_what_is_no_address_of_this_machine_is_refused_by_name(host: str) -> None:
    with pytest.raises(Refused, match=f"cannot listen for links on {host} port 0: .*; check the address"):
        listen_links(["127.0.0.1", host], 0, 16)
