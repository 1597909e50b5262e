"""Incarnations: a number for each start of a reactor, greater than every one before it.

It is kept in ``<data_dir>/incarnation`` as decimal text and is on disk before it is used. The wall clock only makes it
jump ahead of numbers that were lost with a disk; a clock that goes back changes nothing.
"""

import logging
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["INCARNATION_CORRUPT", "INCARNATION_MAX", "draw_incarnation", "has_run", "raise_incarnation"]

INCARNATION_CORRUPT = "incarnation_corrupt"

INCARNATION_MAX = 1 << 53
"""The greatest that is taken from outside, as unix milliseconds far beyond any date; starts may count on from there."""


def draw_incarnation(data_dir: Path, unix_ms: int, note: Callable[..., None]) -> int:
    """Return ``max(stored + 1, unix_ms)``, stored. A file that holds no number is set aside with a note."""
    value = max(_stored(data_dir, note) + 1, unix_ms)
    _store(data_dir, value)
    return value


def has_run(data_dir: Path) -> bool:
    """Return whether an agent has run with this data directory before."""
    return (data_dir / "incarnation").exists()


def raise_incarnation(data_dir: Path, greater: int, note: Callable[..., None]) -> None:
    """Store that the next incarnation must exceed ``greater``; raises ValueError for a number beyond the maximum.

    For the reactor, which then exits with `Exit.AGAIN`: the supervisor touches the file only while there is none.
    """
    if not 0 <= greater <= INCARNATION_MAX:
        raise ValueError(f"incarnation {greater} is not within 0 to {INCARNATION_MAX}")
    _store(data_dir, max(_stored(data_dir, note), greater))


def _stored(data_dir: Path, note: Callable[..., None]) -> int:
    path = data_dir / "incarnation"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return 0
    text = content[:32].strip()
    if text.isdigit() and int(text) <= 2 * INCARNATION_MAX:
        return int(text)
    aside = path.with_suffix(".corrupt")
    path.replace(aside)
    note(INCARNATION_CORRUPT, logging.WARNING, path=str(path), why="it held no incarnation", aside=str(aside))
    return 0


def _store(data_dir: Path, value: int) -> None:
    """Put it on disk: over the last one, which needs no room on a full disk; a line in one sector is not torn."""
    path = data_dir / "incarnation"
    is_first = not path.exists()
    target = path.with_suffix(".new") if is_first else path
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(fd, f"{value}\n".encode(), 0)
        os.fsync(fd)
    finally:
        os.close(fd)
    if is_first:
        target.replace(path)
        _sync_directory(data_dir)


def _sync_directory(data_dir: Path) -> None:
    directory = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
