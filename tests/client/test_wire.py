"""Frames: whatever the pieces they come in, and however long they claim to be."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.client.wire import FrameReader, frames
from mesh.core.codec import FRAME_BYTES_MAX
from mesh.errors import ProtocolError


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 30), min_size=1, max_size=40))
def test_batches_come_out_whole_however_they_are_cut(batches: list[bytes], cuts: list[int]) -> None:
    data, reader, out, turn = frames(batches), FrameReader(), [], 0
    while data:
        size = cuts[turn % len(cuts)]
        out += list(reader.feed(memoryview(data[:size])))
        data, turn = data[size:], turn + 1
    assert batches == out


def test_a_frame_that_claims_too_much_is_refused_before_anything_is_kept() -> None:
    with pytest.raises(ProtocolError, match="longer than"):
        list(FrameReader().feed(struct.pack("<I", FRAME_BYTES_MAX + 1)))


def test_a_length_that_comes_in_two_pieces_is_checked_too() -> None:
    reader = FrameReader()
    assert [] == list(reader.feed(b"\xff\xff"))
    with pytest.raises(ProtocolError):
        list(reader.feed(b"\xff\xff"))


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_bytes_give_batches_or_a_protocol_error(pieces: list[bytes]) -> None:
    reader = FrameReader()
    try:
        for piece in pieces:
            list(reader.feed(piece))
    except ProtocolError:
        pass
