"""The two listeners that outlive a reactor: the app socket, and the TCP port of the links.

Both are unpatched and non-blocking, for their descriptors are shared by every process that inherits them.
"""

import errno
import os
import shutil
import socket
import stat
import time
from collections.abc import Sequence
from pathlib import Path

from mesh.agent.exits import Exit, Refused
from mesh.agent.unpatched import Socket, getaddrinfo, sleep
from mesh.config.places import path_problem

__all__ = ["AppListener", "check_path", "listen_http", "listen_links"]

_PICKS_MAX = 16
_STALE_WAIT_S = 1.0
_STALE_STEP_S = 0.01


class AppListener:
    """The Unix socket that apps connect to; whoever makes one holds the lock beside its path.

    A socket file that nobody answers on is removed first (``replaced``). Raises Refused when the path is too long,
    is something else than a socket, or is listened on.
    """

    def __init__(self, path: Path, mode: int, group: str, backlog: int) -> None:
        check_path(path)
        self.path = path
        self.replaced = _clear(path)
        self.socket = Socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.setblocking(False)
        umask = os.umask(0o177)
        try:
            self.socket.bind(os.fspath(path))
        except OSError as error:
            self.socket.close()
            raise Refused(Exit.UNAVAILABLE, f"cannot make the app socket {path}: {error.strerror}") from None
        finally:
            os.umask(umask)
        self._inode = _inode(path)
        try:
            if group:
                shutil.chown(path, group=group)
            path.chmod(mode)
            self.socket.listen(backlog)
        except (LookupError, OSError) as error:
            self.close()
            reason = f"no group {group!r}" if isinstance(error, LookupError) else error.strerror
            raise Refused(Exit.CONFIGURATION, f"cannot open the app socket {path} to its users: {reason}") from None

    def close(self) -> None:
        """Stop listening, and remove the socket file if it is still this one."""
        self.socket.close()
        if _inode(self.path) == self._inode:
            self.path.unlink()


def check_path(path: Path) -> None:
    """Raise Refused if a Unix socket cannot have this path."""
    problem = path_problem(os.fspath(path), socket=True)
    if problem is not None:
        raise Refused(Exit.CONFIGURATION, f"the app socket's path {path} {problem}")


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _clear(path: Path) -> bool:
    """Remove a stale socket; return whether there was one.

    One that answers is asked again for a while: the reactor of a killed supervisor listens until it is dead too.
    """
    give_up_at = time.monotonic() + _STALE_WAIT_S
    while True:
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return False
        if not stat.S_ISSOCK(mode):
            raise Refused(Exit.CONFIGURATION, f"{path} is not a socket and is left alone; choose another app socket")
        problem = _knock(path)
        if problem == errno.ECONNREFUSED:
            path.unlink()
            return True
        if problem not in (0, errno.EAGAIN):
            raise Refused(
                Exit.UNAVAILABLE,
                f"there is a socket at {path} that is not ours ({os.strerror(problem)}); remove it, or choose another",
            )
        if time.monotonic() >= give_up_at:
            raise Refused(Exit.UNAVAILABLE, f"another program listens at {path}; stop it, or choose another app socket")
        sleep(_STALE_STEP_S)


def _knock(path: Path) -> int:
    with Socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(os.fspath(path))


def listen_links(hosts: Sequence[str], port: int, backlog: int) -> tuple[socket.socket, ...]:
    """Listen on one port of every host, which are addresses and no names; port 0 picks a free one.

    IPv6 sockets take IPv6 only, so that ``0.0.0.0`` and ``::`` go together.
    """
    for pick in range(_PICKS_MAX):
        found: list[socket.socket] = []
        try:
            for host in hosts:
                found.append(_listen(host, port or (found[0].getsockname()[1] if found else 0), backlog))
            return tuple(found)
        except OSError as error:
            failed = hosts[len(found)]
            for listener in found:
                listener.close()
            taken = error.errno == errno.EADDRINUSE
            if not (taken and port == 0 and found and pick + 1 < _PICKS_MAX):
                hint = "stop what listens there, or choose another" if taken else "check the address"
                raise Refused(
                    Exit.UNAVAILABLE, f"cannot listen for links on {failed} port {port}: {error.strerror}; {hint}"
                ) from None
    raise AssertionError("unreachable")


def listen_http(host: str, port: int, backlog: int) -> socket.socket:
    """Listen for readers of the page; port 0 picks a free one."""
    try:
        return _listen(host, port, backlog)
    except OSError as error:
        raise Refused(
            Exit.UNAVAILABLE,
            f"cannot listen for HTTP on {host} port {port}: {error.strerror}; stop what listens there, or choose "
            "another http_listen",
        ) from None


def _listen(host: str, port: int, backlog: int) -> socket.socket:
    numeric = socket.AI_NUMERICHOST
    family, kind, protocol, _, address = getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=numeric)[0]
    listener = Socket(family, kind, protocol)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(backlog)
    except OSError:
        listener.close()
        raise
    return listener
