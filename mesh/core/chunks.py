"""Large bodies in pieces, so that a heartbeat never waits behind more than a few of them.

The sender announces a body in its record (``size``, ``stream``, an empty ``body``) and sends `Chunk` records, at
most ``chunks_in_flight`` unacknowledged per connection over all its streams, taking the streams in turn. The
receiver acknowledges each chunk and hands on the record, its body whole, after the last. Both ends of both hops
use this one machine, one for each connection; with the connection it is gone.
"""

import heapq

from msgspec import Struct, field, structs

from mesh.core.records import Chunk, ChunkAck, Reply, Request
from mesh.errors import ProtocolError

__all__ = ["Chunker", "Incoming", "Outgoing"]

STREAMS_MAX = 1 << 16
"""Streams that may come in at once on one connection: more than the requests that an honest end has outstanding."""


class Outgoing(Struct):
    """A body being sent: ``sent`` chunks have left, ``acked`` have arrived."""

    body: bytes
    sent: int = 0
    acked: int = 0


class Incoming(Struct):
    """A body being received: the record that announced it, and the ``count`` chunks so far."""

    record: Request | Reply
    body: bytearray = field(default_factory=bytearray)
    count: int = 0


class Chunker(Struct):
    """The streams of one connection, both ways. ``chunk_bytes`` and ``in_flight_max`` are what the peer agreed to.

    ``turns`` is a heap of ``(turn, stream)`` of the streams that have chunks left; ``turn`` is the latest taken.
    """

    chunk_bytes: int = 256 << 10
    in_flight_max: int = 2
    body_bytes_max: int = 64 << 20
    next_stream: int = 1
    outgoing: dict[int, Outgoing] = field(default_factory=dict)
    turns: list[tuple[int, int]] = field(default_factory=list)
    turn: int = 0
    in_flight: int = 0
    incoming: dict[int, Incoming] = field(default_factory=dict)

    def split(self, record: Request | Reply) -> tuple[Request | Reply, list[Chunk]]:
        """Return the announcement of a record whose body is large, and the chunks that may leave now."""
        stream = self.next_stream
        self.next_stream += 1
        self.outgoing[stream] = Outgoing(record.body)
        heapq.heappush(self.turns, (self.turn + 1, stream))
        return structs.replace(record, body=b"", size=len(record.body), stream=stream), self.more()

    def more(self) -> list[Chunk]:
        """Return the chunks that may leave now, one of each stream in turn."""
        chunks: list[Chunk] = []
        while self.turns and self.in_flight < self.in_flight_max:
            turn, stream = heapq.heappop(self.turns)
            out = self.outgoing.get(stream)
            if out is None:
                continue
            start = out.sent * self.chunk_bytes
            chunks.append(Chunk(stream, out.sent, out.body[start : start + self.chunk_bytes]))
            out.sent += 1
            self.in_flight += 1
            self.turn = turn
            if self._left(out):
                heapq.heappush(self.turns, (turn + 1, stream))
        return chunks

    def _left(self, out: Outgoing) -> bool:
        return out.sent * self.chunk_bytes < len(out.body)

    def acked(self, ack: ChunkAck) -> list[Chunk]:
        """Take an acknowledgement; return the chunks that may leave now. One for a finished stream means nothing."""
        out = self.outgoing.get(ack.stream)
        if out is None:
            return []
        if ack.count > out.sent:
            raise ProtocolError(f"{ack.count} chunks of stream {ack.stream} were acknowledged, {out.sent} were sent")
        arrived = max(0, ack.count - out.acked)
        out.acked += arrived
        self.in_flight -= arrived
        if ack.abort or (out.acked == out.sent and not self._left(out)):
            self.in_flight -= out.sent - out.acked
            del self.outgoing[ack.stream]
        return self.more()

    def announced(self, record: Request | Reply) -> bool:
        """Take a record that announces a body; False: it is over the limit, its chunks will be refused."""
        if record.stream in self.incoming or len(self.incoming) >= STREAMS_MAX:
            raise ProtocolError(f"stream {record.stream} is open already, or more than {STREAMS_MAX} are")
        if record.size > self.body_bytes_max:
            return False
        self.incoming[record.stream] = Incoming(record)
        return True

    def chunk(self, chunk: Chunk) -> tuple[Request | Reply | None, ChunkAck]:
        """Take a chunk; return the record if that was its last, and the acknowledgement to send."""
        entry = self.incoming.get(chunk.stream)
        if entry is None:
            return None, ChunkAck(chunk.stream, chunk.number + 1, abort=True)
        if chunk.number != entry.count or not chunk.body:
            raise ProtocolError(f"chunk {chunk.number} of stream {chunk.stream} came where {entry.count} was due")
        size = entry.record.size
        if len(entry.body) + len(chunk.body) > size:
            raise ProtocolError(f"stream {chunk.stream} brought more than the {size} bytes it announced")
        entry.body += chunk.body
        entry.count += 1
        ack = ChunkAck(chunk.stream, entry.count)
        if len(entry.body) < size:
            return None, ack
        del self.incoming[chunk.stream]
        whole = structs.replace(entry.record, body=bytes(entry.body), size=0, stream=0)
        return whole, ack

    def withdraw(self, node: str, session: int, seq: int) -> Request | None:
        """The receiver no longer wants this request, if it is still coming: its chunks will be refused."""
        for stream, entry in self.incoming.items():
            record = entry.record
            if isinstance(record, Request) and (record.node, record.session, record.seq) == (node, session, seq):
                del self.incoming[stream]
                return record
        return None
