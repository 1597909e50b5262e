"""Batches of records, and their bytes.

A **batch** is ``[counter, [record, …]]`` in MessagePack. Everything that crosses a socket is a batch. On the app hop a
batch is framed by its length (``u32``, little-endian) on a Unix stream socket; on the peer hop it is one ZeroMQ
message. The counter starts at 0 on each connection, in each direction, and rises by one; a gap closes the connection.
"""

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from mesh.core.records import BODY_INLINE_MAX, PROTOCOL_MINOR, SINCE, Record, Reply, Request
from mesh.errors import ProtocolError

__all__ = ["FRAME_BYTES_MAX", "RECORDS_MAX", "Batch", "decode", "encode", "encode_split", "held_bytes", "weight"]

FRAME_BYTES_MAX = 16 << 20
"""Bytes of one batch; a longer frame closes the connection."""

RECORDS_MAX = 128
"""Records in one batch. Nothing else is done while a batch is taken in, so it must not take long."""


class Batch(Struct, array_like=True, gc=False):
    """What crosses a socket at once."""

    counter: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    records: Annotated[list[Record], Meta(max_length=RECORDS_MAX)]


_decoder = msgspec.msgpack.Decoder(Batch)
_encoder = msgspec.msgpack.Encoder()


def decode(data: bytes | bytearray | memoryview) -> Batch:
    """Decode one batch; raises ProtocolError that names the field, for any bytes that are not one."""
    try:
        batch = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a batch: {error}") from None
    if len(data) > BODY_INLINE_MAX:
        _check_bodies(batch)
    return batch


def _check_bodies(batch: Batch) -> None:
    """Hold bodies to what one record may bring, which the schema cannot: nodes keep whole ones in the same structs."""
    for at, record in enumerate(batch.records):
        if isinstance(record, Request | Reply) and len(record.body) > BODY_INLINE_MAX:
            size = len(record.body)
            text = f"not a batch: a body of {size} bytes in record {at}, where over {BODY_INLINE_MAX} travel in chunks"
            raise ProtocolError(text)


def encode(counter: int, records: Sequence[Record], minor: int = PROTOCOL_MINOR) -> bytes:
    """Encode one batch, leaving out records that the agreed ``minor`` does not know."""
    if minor < PROTOCOL_MINOR:
        records = [record for record in records if SINCE.get(type(record), 0) <= minor]
    return _encoder.encode((counter, records))


def encode_split(
    counter: int, records: Sequence[Record], minor: int = PROTOCOL_MINOR, frame_bytes_max: int = FRAME_BYTES_MAX
) -> list[bytes]:
    """Encode records as consecutive batches, from ``counter`` on, each within the bounds of a frame."""
    if len(records) <= RECORDS_MAX:
        data = encode(counter, records, minor)
        if len(data) <= frame_bytes_max or len(records) == 1:
            return [data]
    middle = len(records) // 2
    head = encode_split(counter, records[:middle], minor, frame_bytes_max)
    return head + encode_split(counter + len(head), records[middle:], minor, frame_bytes_max)


def weight(request: Request, chunk_bytes: int) -> int:
    """Return the bytes a request is charged against a link's window: its body, one chunk at most, and 128 for the rest.

    A body in chunks is bounded by the chunks in flight, so only its first one counts here.
    """
    return min(len(request.body), chunk_bytes) + 128


def held_bytes(request: Request) -> int:
    """Return the bytes a request is charged where it is kept: its body, here or announced, and 128 for the rest."""
    return len(request.body) + request.size + 128
