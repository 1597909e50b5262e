"""The flight recorder: what the node was told lately, in memory, and its way to disk.

`Recorder.node` stands in for the node: a call of one of its entries is kept, then made. What is kept are the arguments,
the bytes that came in among them; they are encoded when somebody wants them, in a thread, or by a reactor that ends.
Now and then, after a `take`, the node's state is encoded: a **segment** begins with it (`mesh.core.recording`). Old
segments go when the ring is over its bytes or seconds.

To encode a state takes the loop's time, some 0.4 µs for each request that has not ended and more for large bodies. So
that is done for at most `SHARE` of the time, and not at all for a state that would take more than a quarter of the
ring: the segment then goes on, and when it has filled the ring, recording pauses until the state is smaller.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from importlib import metadata
from math import inf
from pathlib import Path
from typing import Any, cast

from msgspec import Raw, msgpack

from mesh.agent.locks import make_directory
from mesh.config.options import RecorderOptions
from mesh.core.context import State
from mesh.core.effects import Level
from mesh.core.node import Node
from mesh.core.recording import ENTRIES, FAILURE_CHARS_MAX, Header, Kept, write
from mesh.errors import MeshError

__all__ = ["Recorder"]

RECORDER_PAUSED = "recorder_paused"
RECORDING_WRITTEN = "recording_written"
RECORDING_FAILED = "recording_failed"

SHARE = 0.01
"""The part of the loop's time that may go into encoding states."""

SEGMENT_S = 10.0
"""How old a segment becomes before the next one begins, if there is time."""

INPUT_BYTES = 200
"""What an input takes besides the bytes that it brought."""

REQUEST_BYTES = 300
"""What a request takes in an encoded state besides its body."""

_SUFFIX = ".recording"
_PLAIN = (int, float, str, bool)


class _Segment:
    """One segment while it is in memory. ``bytes``: of its state and of what came in."""

    __slots__ = ("began", "bytes", "inputs", "state")

    def __init__(self, state: bytes, now: float) -> None:
        self.state = state
        self.inputs: list[tuple[Any, ...]] = []
        self.bytes = len(state)
        self.began = now

    @property
    def weight(self) -> int:
        """About what it takes in memory."""
        return self.bytes + INPUT_BYTES * len(self.inputs)


class _Recorded:
    """A node by its own names: entries are kept and passed on, everything else is the node's."""

    def __init__(self, node: Node, recorder: "Recorder") -> None:
        self._node = node
        for name in ENTRIES:
            keep = _with_data if "data" in ENTRIES[name].__struct_fields__ else _with_arguments
            setattr(self, name, keep(name, getattr(node, name), recorder))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._node, name)


def _with_data(name: str, entry: Callable[..., Any], recorder: "Recorder") -> Callable[..., Any]:
    """Return an entry that keeps the bytes that came in, which may lie in a buffer that is used again."""

    def recorded(conn: int, data: bytes | memoryview, now: float) -> None:
        if type(data) is not bytes:
            data = bytes(data)
        segment = recorder.segment
        segment.inputs.append((name, conn, data, now))
        segment.bytes += len(data)
        entry(conn, data, now)

    return recorded


def _with_arguments(name: str, entry: Callable[..., Any], recorder: "Recorder") -> Callable[..., Any]:
    """Return an entry that keeps its arguments: numbers and texts as they are, other values encoded at once."""

    def recorded(*arguments: Any, **named: Any) -> Any:
        values = (*arguments, *named.values()) if named else arguments
        kept = [value if type(value) in _PLAIN else Raw(msgpack.encode(value)) for value in values]
        segment = recorder.segment
        segment.inputs.append((name, *kept))
        segment.bytes += sum(len(memoryview(value)) for value in kept if type(value) is Raw)
        return entry(*arguments, **named)

    return recorded


class Recorder:
    """The ring of one reactor. ``note``: whom to tell; ``directory``: where recordings are written."""

    def __init__(
        self,
        node: Node,
        options: RecorderOptions,
        directory: Path,
        note: Callable[..., None],
        clock: Callable[[], float],
    ) -> None:
        self.options = options
        self.directory = directory
        self.note = note
        self.clock = clock
        self.segments: deque[_Segment] = deque()
        self.paused = False
        self.writing = False
        self._bare = node
        self.node = cast(Node, _Recorded(node, self)) if options.recorder_on else node
        self.segment = _Segment(b"", clock())
        self.full_at, self.cut_at, self.not_before = 1, inf, 0.0
        if options.recorder_on:
            self._cut(clock())

    # The ring

    def settle(self, now: float) -> None:
        """Begin a new segment if it is time. Comes right after a `take`, when nothing is on its way out of the node."""
        if self.segment.weight >= self.full_at or now >= self.cut_at:
            self._cut(now)

    def _cut(self, now: float) -> None:
        quarter = self.options.recorder_bytes // 4
        if now >= self.not_before:
            began = self.clock()
            if _weight(self._bare.state, quarter) <= quarter:
                self.segment = _Segment(msgpack.encode(self._bare.state), now)
                self.segments.append(self.segment)
                self.paused = False
            self.not_before = now + (self.clock() - began) / SHARE
        self.cut_at = max(now + SEGMENT_S, self.not_before)
        self.full_at = self.segment.weight + quarter
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Drop what is over the ring's bounds, oldest segments first; with no other left, stop for a while.

        A quarter is left free, for what comes until this is looked at again.
        """
        segments, room = self.segments, self.options.recorder_bytes * 3 // 4
        oldest = now - self.options.recorder_s
        while len(segments) > 1 and (self.bytes > room or segments[1].began < oldest):
            segments.popleft()
        if self.paused or self.bytes > room:
            if not self.paused:
                self.note(
                    RECORDER_PAUSED,
                    Level.WARNING,
                    why=f"what is outstanding is over recorder_bytes = {self.options.recorder_bytes}",
                )
            self.paused = True
            segments.clear()
            self.segment = _Segment(b"", now)
            self.full_at = room // 3

    @property
    def bytes(self) -> int:
        """What the ring takes, about."""
        return sum(segment.weight for segment in self.segments)

    def facts(self) -> dict[str, object]:
        """Return what `mesh recorder list` shows."""
        began = self.segments[0].began if self.segments else self.clock()
        return {
            "on": self.options.recorder_on,
            "paused": self.paused,
            "bytes": self.bytes,
            "segments": len(self.segments),
            "inputs": sum(len(segment.inputs) for segment in self.segments),
            "since_s": round(self.clock() - began, 1),
            "directory": str(self.directory),
            "recordings": [
                {"name": path.name, "bytes": found.st_size, "written": round(found.st_mtime, 3)}
                for path, found in self._written()
            ],
        }

    # To disk

    def contents(self) -> list[Kept]:
        """Return what there is now: the segments and, if it is not too large, the node's state after them."""
        kept = [Kept(segment.state, segment.inputs) for segment in self.segments]
        if not kept:
            return []
        kept[-1] = Kept(self.segment.state, self.segment.inputs.copy())
        room = self.options.recorder_bytes
        if _weight(self._bare.state, room) <= room:
            kept.append(Kept(msgpack.encode(self._bare.state), []))
        return kept

    def header(self, reason: str, failure: str = "") -> Header:
        """Return what a recording begins with."""
        identity = self._bare.state.peers.identity
        try:
            version = metadata.version("heartmesh")
        except metadata.PackageNotFoundError:
            version = "unknown"
        return Header(
            node=identity.node,
            incarnation=identity.incarnation,
            version=version,
            reason=reason,
            written_unix_ms=time.time_ns() // 1_000_000,
            bodies=self.options.recorder_bodies,
            options=self._bare.options,
            failure=failure[:FAILURE_CHARS_MAX],
        )

    def save(self, header: Header, kept: list[Kept]) -> Path:
        """Write a recording, and delete the oldest of those that are too many; blocks, and raises OSError.

        It is there whole or not at all, and only this user may read it.
        """
        make_directory(self.directory, 0o700, "the directory of recordings")
        moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(header.written_unix_ms / 1000))
        name = f"{moment}.{header.written_unix_ms % 1000:03}Z-{header.reason}-{os.getpid()}{_SUFFIX}"
        path, unfinished = self.directory / name, self.directory / f"{name}.unfinished"
        fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with open(fd, "wb") as file:
                file.writelines(write(header, kept))
            unfinished.replace(path)
        except OSError:
            with contextlib.suppress(OSError):
                unfinished.unlink()
            raise
        for old, _ in self._written()[: -self.options.recordings_max]:
            with contextlib.suppress(OSError):
                old.unlink()
        return path

    def _written(self) -> list[tuple[Path, os.stat_result]]:
        """Return the recordings that there are, oldest first."""
        found = []
        for path in sorted(self.directory.glob(f"*{_SUFFIX}")):
            with contextlib.suppress(OSError):
                found.append((path, path.stat()))
        return found

    def crashed(self, failure: str) -> None:
        """The node broke, and its state is not to be trusted: write what it was told, last the input that broke it."""
        kept = [Kept(segment.state, segment.inputs) for segment in self.segments]
        self._save_noting(self.header("crash", failure), kept)

    def asked(self, in_thread: Callable[..., Any]) -> tuple[bool, str]:
        """Write what there is, as somebody asked for; return whether that went well, and the path or what was wrong."""
        if not self.options.recorder_on:
            return (
                False,
                "the recorder is off: set recorder_on in the section [recorder], and start the agent anew",
            )
        if self.writing:
            return False, "a recording is being written: ask again when it is done"
        self.writing = True
        try:
            return in_thread(self._save_noting, self.header("asked"), self.contents())  # type: ignore[no-any-return]
        finally:
            self.writing = False

    def _save_noting(self, header: Header, kept: list[Kept]) -> tuple[bool, str]:
        if not kept:
            return False, "nothing is recorded: what is outstanding is over recorder_bytes"
        try:
            path = self.save(header, kept)
        except (OSError, MeshError) as error:
            self.note(RECORDING_FAILED, Level.ERROR, why=str(error))
            return False, f"it could not be written: {error}"
        self.note(RECORDING_WRITTEN, Level.INFO, path=str(path), reason=header.reason, segments=len(kept))
        return True, str(path)


def _weight(state: State, enough: int) -> int:
    """Return about what a state takes when it is encoded, or something over ``enough``."""
    requests = [entry.request for entry in state.outbox.entries.values()]
    callers = state.inbox.callers.values()
    weight = REQUEST_BYTES * (len(requests) + sum(len(caller.handed) for caller in callers)) + state.inbox.answers_bytes
    if weight <= enough:
        requests += [handed.request for caller in callers for handed in caller.handed.values()]
        weight += sum(len(request.body) for request in requests)
    return weight
