"""Batches: what goes in comes out, frames keep their bounds, and bytes from outside can do no harm."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.core import codec
from mesh.core.codec import FRAME_BYTES_MAX, RECORDS_MAX, Batch, decode, encode, encode_split, held_bytes, weight
from mesh.core.records import BODY_INLINE_MAX, Chunk, Goodbye, Keep, Ping, Pong, Record, Reply, Request, Targets
from mesh.errors import ProtocolError
from tests.core.schemas import any_record

BATCHES = st.tuples(st.integers(0, (1 << 63) - 1), st.lists(any_record(), max_size=4))


@given(BATCHES)
def test_what_is_encoded_is_decoded(batch: tuple[int, list[Record]]) -> None:
    assert Batch(*batch) == decode(encode(*batch))


@pytest.mark.parametrize("view", [bytes, bytearray, memoryview])
def test_any_buffer_can_be_decoded(view: Any) -> None:
    assert Batch(7, [Ping(1)]) == decode(view(encode(7, [Ping(1)])))


@given(st.binary(max_size=200))
def test_any_damagedare_a_batch_or_a_protocol_error(data: bytes) -> None:
    try:
        batch = decode(data)
    except ProtocolError:
        return
    assert isinstance(batch, Batch)


@given(BATCHES, st.data())
def test_a_damaged_batch_is_a_batch_or_a_protocol_error(whole: tuple[int, list[Record]], data: st.DataObject) -> None:
    damaged = bytearray(encode(*whole))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(damaged) - 1)))
        damage = data.draw(st.sampled_from(["change", "cut", "insert", "repeat"]))
        if damage == "change" and damaged:
            damaged[place] = data.draw(st.integers(0, 255))
        elif damage == "cut":
            del damaged[place:]
        elif damage == "insert":
            damaged[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            damaged[place:place] = damaged[place : place + 16]
    try:
        batch = decode(damaged)
    except ProtocolError:
        return
    assert batch == decode(encode(batch.counter, batch.records))


@pytest.mark.parametrize(
    "form",
    [
        None,
        [],
        [0],
        [0, None],
        [-1, []],
        [1 << 63, []],
        ["0", []],
        [0.5, []],
        [0, [[4, 1]] * (RECORDS_MAX + 1)],
        [0, [[127, 1]]],
        [0, [[4, 1], [4, "1"]]],
        [0, {"4": 1}],
    ],
    ids=lambda form: str(form)[:20],
)
def test_what_is_no_batch_is_a_protocol_error(form: Any) -> None:
    with pytest.raises(ProtocolError, match="not a batch"):
        decode(msgspec.msgpack.encode(form))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x92",
        encode(0, []) + b"\x00",
        b"\x91" * 5_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x92\x00\x91\x92\x07\xa1\xff",
        b"\x92\x00\x91\x92\x07\xc1",
    ],
    ids=["nothing", "cut off", "more behind", "deep", "long", "not UTF-8", "not MessagePack"],
)
def test_damagedthat_are_no_message_are_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="not a batch"):
        decode(data)


def test_the_error_names_the_record_and_the_field_that_were_wrong() -> None:
    with pytest.raises(ProtocolError, match=r"\$\[1\]\[1\]\[1\]"):
        decode(msgspec.msgpack.encode([0, [[4, 1], [4, -1]]]))


def test_a_later_batch_may_have_more_behind_its_records() -> None:
    assert Batch(3, [Ping(1)]) == decode(msgspec.msgpack.encode([3, [[4, 1]], "later"]))


def test_records_that_the_agreed_minor_does_not_know_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "PROTOCOL_MINOR", 2)
    monkeypatch.setattr(codec, "SINCE", {Keep: 1, Goodbye: 2})
    records: list[Record] = [Ping(1), Keep(True), Goodbye("bye"), Pong(1)]
    known = [[type(record).__name__ for record in decode(encode(0, records, minor)).records] for minor in (0, 1, 2)]
    assert [["Ping", "Pong"], ["Ping", "Keep", "Pong"], ["Ping", "Keep", "Goodbye", "Pong"]] == known
    assert [encode(5, records, 1)] == encode_split(5, records, 1)


@given(st.lists(st.binary(max_size=300), max_size=40), st.integers(0, 1 << 40), st.integers(64, 600))
def test_a_split_keeps_order_counts_on_and_stays_within_the_frame(bodies: list[bytes], first: int, most: int) -> None:
    records: list[Record] = [Chunk(1, number, body) for number, body in enumerate(bodies)]
    frames = encode_split(first, records, frame_bytes_max=most)
    batches = [decode(frame) for frame in frames]
    assert list(range(first, first + len(frames))) == [batch.counter for batch in batches]
    assert records == [record for batch in batches for record in batch.records]
    assert all(len(frame) <= most or len(batch.records) == 1 for frame, batch in zip(frames, batches, strict=True))


def test_a_split_keeps_to_the_count_of_records() -> None:
    records: list[Record] = [Ping(0)] * (2 * RECORDS_MAX + 1)
    batches = [decode(frame) for frame in encode_split(9, records)]
    assert [9, 10, 11] == [batch.counter for batch in batches]
    assert len(records) == sum(len(batch.records) for batch in batches)
    assert all(len(batch.records) <= RECORDS_MAX for batch in batches)


def test_what_fits_one_frame_is_not_split() -> None:
    assert [encode(4, [Ping(1), Pong(1)])] == encode_split(4, [Ping(1), Pong(1)])
    assert [encode(4, [])] == encode_split(4, [])


def test_no_single_record_is_longer_than_a_frame() -> None:
    """A record that did not fit could not be sent at all; characters of four bytes make the longest ones."""
    headers = {"\U0001f41d" * 253 + f"{number:03}": "\U0001f41d" * 16_384 for number in range(64)}
    request = Request(2, 0, "t", "s", 1, b"x" * BODY_INLINE_MAX, headers=headers)
    targets = Targets(0, [("\U0001f41d" * 128, (1 << 32) - 1)] * 16_384)
    for longest in (request, targets):
        data = encode((1 << 63) - 1, [longest])
        assert len(data) < FRAME_BYTES_MAX
        assert [longest] == decode(data).records


@pytest.mark.parametrize("record", [Request(0, 0, "t", "", 1, b""), Reply("a", 1, 2, b"")])
def test_a_body_over_what_a_record_may_bring_is_named(record: Request | Reply) -> None:
    record.body = bytes(BODY_INLINE_MAX)
    assert [Ping(1), record] == decode(encode(0, [Ping(1), record])).records
    record.body = bytes(BODY_INLINE_MAX + 1)
    with pytest.raises(ProtocolError, match="a body of 1048577 bytes in record 1, where over 1048576 travel in chunks"):
        decode(encode(0, [Ping(1), record]))


def test_a_request_weighs_its_body_but_a_chunked_one_only_its_first_chunk() -> None:
    small, large = (Request(0, 0, "t", "", 1, bytes(size)) for size in (100, 5_000))
    assert (228, 4_224) == (weight(small, 4_096), weight(large, 4_096))
    announced = Request(0, 0, "t", "", 1, b"", size=5_000, stream=1)
    assert 128 == weight(announced, 4_096)
    assert [228, 5_128, 5_128] == [held_bytes(one) for one in (small, large, announced)]


def test_a_reply_travels_whole() -> None:
    reply = Reply("a", 1, 2, b"body", {"k": "v"})
    assert [reply] == decode(encode(0, [reply])).records
