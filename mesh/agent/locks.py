"""Files and directories that say whose they are.

A lock is ``flock`` on a file that is never removed (removing it would let two holders lock two files of one name).
It belongs to the open file, so a forked child that keeps a copy of the descriptor keeps the lock: see `process`.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from mesh.agent.exits import Exit, Refused
from mesh.agent.unpatched import sleep

__all__ = ["hold", "make_directory"]

_STEP_S = 0.005


def hold(path: Path, what: str, wait_s: float = 0.0, waiting: Callable[[], None] = lambda: None) -> int:
    """Lock ``path`` and return its descriptor, which holds the lock until it is closed.

    Waits at most ``wait_s`` for another holder to go and calls ``waiting`` meanwhile; then raises Refused with the
    holder's pid. ``what`` names, in the message, what the lock is for.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Refused(Exit.UNAVAILABLE, f"cannot open the lock of {what}, {path}: {error.strerror}") from None
    give_up_at = time.monotonic() + wait_s
    while not _lock(fd):
        if time.monotonic() >= give_up_at:
            holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(fd)
            raise Refused(
                Exit.UNAVAILABLE,
                f"another agent (pid {holder}) uses {what}: it holds {path}; stop it, or give this one another",
            )
        waiting()
        sleep(_STEP_S)
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def make_directory(path: Path, mode: int, what: str, group: str = "") -> None:
    """Make a directory, and its parents, with ``mode`` and ``group``; one that is there stays as it is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            if not path.is_dir():
                raise
            return
        if group:
            shutil.chown(path, group=group)
        path.chmod(mode)
    except LookupError:
        raise Refused(Exit.CONFIGURATION, f"{what} {path} cannot be given to group {group!r}: no such group") from None
    except OSError as error:
        raise Refused(Exit.UNAVAILABLE, f"cannot make {what} {path}: {error.strerror}") from None
