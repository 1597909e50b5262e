"""Frames on the app's socket: a ``u32`` length, little-endian, then a batch of so many bytes."""

import struct
from collections.abc import Iterable, Iterator

from mesh.core.codec import FRAME_BYTES_MAX
from mesh.errors import ProtocolError

__all__ = ["FrameReader", "frames"]

_LENGTH = struct.Struct("<I")


def frames(batches: Iterable[bytes]) -> bytes:
    """Return the batches as the bytes to write."""
    return b"".join([part for batch in batches for part in (_LENGTH.pack(len(batch)), batch)])


class FrameReader:
    """Cuts what a stream brings into batches. A frame's length is checked before anything is kept for it."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._due = _LENGTH.size

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """Yield the batches that are complete; raises ProtocolError at one longer than ``FRAME_BYTES_MAX``."""
        if self._kept:
            self._kept += data
            if len(self._kept) < self._due:
                return
            data = bytes(self._kept)
            self._kept.clear()
        start, end = 0, len(data)
        while end - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(data, start)
            if length > FRAME_BYTES_MAX:
                raise ProtocolError(f"a frame of {length} bytes is longer than {FRAME_BYTES_MAX}")
            after = start + _LENGTH.size + length
            if after > end:
                break
            yield bytes(data[start + _LENGTH.size : after])
            start = after
        self._kept += data[start:end]
        self._due = _LENGTH.size
        if len(self._kept) >= _LENGTH.size:
            self._due += _LENGTH.unpack_from(self._kept)[0]
