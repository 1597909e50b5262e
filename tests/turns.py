"""Tests that run side by side take turns with those that want the machine to themselves."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["turn"]


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Wait for a turn, with others or alone; ``folder`` is where those who take turns have their locks.

    One waits for the room while one holds the gate, so whoever wants to be alone has to outwait only those inside.
    The locks belong to this process and not to its descriptors, so no child that a test left behind keeps one.
    """
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with (folder / "gate").open("a+") as gate, (folder / "room").open("a+") as room:
        fcntl.lockf(gate, kind)
        fcntl.lockf(room, kind)
        fcntl.lockf(gate, fcntl.LOCK_UN)
        yield
