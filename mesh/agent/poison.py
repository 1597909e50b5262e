"""Apps whose messages break the agent: counted over its restarts, and shut out in the end.

An app resumes with the next reactor and replays what has not ended, the message that broke the last one too. So a
session whose frames were what broke `BREAKS_MAX` reactors is refused from then on, for as long as its last break is
remembered. A new process of that app is another session, and begins anew.
"""

import contextlib
import os
from pathlib import Path

import msgspec
from msgspec import Struct, msgpack

__all__ = ["BREAKS_MAX", "Poison"]

BREAKS_MAX = 3
"""Reactors that one session may break."""

REMEMBER_S = 86_400.0
"""How long a break is remembered: the longest timeout of a call."""

SESSIONS_MAX = 100
"""Sessions that are remembered, those whose breaks are the latest."""

_FILE_BYTES_MAX = 65_536


class _Breaks(Struct):
    """What one session did: how often, and when last in seconds of the wall clock."""

    count: int
    last_at: float


class Poison:
    """The sessions that have broken reactors, kept in a file; one that cannot be read or written is an empty one."""

    def __init__(self, path: Path, unix_s: float) -> None:
        self.path = path
        self.breaks: dict[int, _Breaks] = {}
        with contextlib.suppress(OSError, msgspec.MsgspecError), path.open("rb") as file:
            self.breaks = msgpack.decode(file.read(_FILE_BYTES_MAX), type=dict[int, _Breaks])
        for session in [session for session, breaks in self.breaks.items() if unix_s - breaks.last_at > REMEMBER_S]:
            del self.breaks[session]

    def shut_out(self) -> list[int]:
        """Return the sessions that broke too many."""
        return [session for session, breaks in self.breaks.items() if breaks.count >= BREAKS_MAX]

    def broke(self, session: int, unix_s: float) -> None:
        """A frame of this session broke the reactor."""
        known = self.breaks.pop(session, None)
        self.breaks[session] = _Breaks(known.count + 1 if known else 1, unix_s)
        while len(self.breaks) > SESSIONS_MAX:
            del self.breaks[next(iter(self.breaks))]
        fresh = self.path.with_suffix(".new")
        with contextlib.suppress(OSError):
            fresh.write_bytes(msgpack.encode(self.breaks))
            os.replace(fresh, self.path)
