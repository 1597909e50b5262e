"""Two ends joined by a fake wire deliver every large body whole, a few chunks at a time, and believe nothing."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from mesh.core import chunks
from mesh.core.chunks import Chunker
from mesh.core.records import Chunk, ChunkAck, Reply, Request
from mesh.errors import ProtocolError
from tests.core.builders import copied, reply, request

BIG = bytes(range(40))


class Wire:
    """One direction of a connection: a sender, a receiver, and what is on its way between them, in order."""

    def __init__(self, chunk_bytes: int = 4, in_flight_max: int = 2) -> None:
        self.sender = Chunker(chunk_bytes, in_flight_max)
        self.receiver = Chunker(chunk_bytes, in_flight_max)
        self.there: deque[Request | Reply | Chunk] = deque()
        self.back: deque[ChunkAck] = deque()
        self.arrived: list[Request | Reply] = []
        self.order: list[int] = []

    def send(self, record: Request | Reply) -> None:
        announcement, first = self.sender.split(record)
        self._put([announcement, *first])

    def _put(self, records: list[Request | Reply | Chunk]) -> None:
        self.there.extend(records)
        self.order += [record.stream for record in records if isinstance(record, Chunk)]

    @property
    def in_flight(self) -> int:
        """Chunks that have left and whose acknowledgement has not arrived."""
        return sum(isinstance(record, Chunk) for record in self.there) + len(self.back)

    def forth(self) -> None:
        """The oldest record arrives at the receiver."""
        record = self.there.popleft()
        if not isinstance(record, Chunk):
            self.receiver.announced(record)
            return
        whole, ack = self.receiver.chunk(record)
        self.back.append(ack)
        if whole is not None:
            self.arrived.append(whole)

    def acknowledge(self) -> None:
        """The oldest acknowledgement arrives at the sender."""
        self._put(list(self.sender.acked(self.back.popleft())))

    def run(self) -> None:
        while self.there or self.back:
            if self.there:
                self.forth()
            else:
                self.acknowledge()

    def assert_done(self) -> None:
        """Nothing is left of any stream at either end."""
        assert {} == self.sender.outgoing
        assert {} == self.receiver.incoming
        assert 0 == self.sender.in_flight


@given(
    st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=8),
    st.integers(1, 7),
    st.integers(1, 4),
    st.lists(st.sampled_from("sfa"), max_size=100),
)
def test_every_body_arrives_whole_however_the_wire_is_scheduled(
    bodies: list[bytes], chunk_bytes: int, in_flight_max: int, schedule: list[str]
) -> None:
    wire = Wire(chunk_bytes, in_flight_max)
    records = [request(seq, body=body) if seq % 2 else reply(seq, body) for seq, body in enumerate(bodies)]
    unsent = deque(records)
    for step in schedule:
        if step == "s" and unsent:
            wire.send(unsent.popleft())
        elif step == "f" and wire.there:
            wire.forth()
        elif step == "a" and wire.back:
            wire.acknowledge()
        assert wire.in_flight <= in_flight_max
        assert wire.in_flight == wire.sender.in_flight
    for record in unsent:
        wire.send(record)
    wire.run()
    assert records == sorted(wire.arrived, key=lambda record: record.seq)
    wire.assert_done()
    assert [] == wire.sender.turns


def test_a_body_is_announced_by_its_size_and_without_itself() -> None:
    sender = Chunker(chunk_bytes=16, in_flight_max=2)
    original = request(body=BIG)
    announcement, first = sender.split(original)
    assert structs.replace(original, body=b"", size=40, stream=1) == announcement
    assert [Chunk(1, 0, BIG[:16]), Chunk(1, 1, BIG[16:32])] == first
    assert BIG == original.body, "the record itself may be sent again"
    assert [Chunk(1, 2, BIG[32:])] == sender.acked(ChunkAck(1, 1))


def test_streams_take_turns() -> None:
    wire = Wire(chunk_bytes=10, in_flight_max=1)
    for seq in (1, 2, 3):
        wire.send(request(seq, body=BIG))
    wire.run()
    assert [1, *[1, 2, 3] * 3, 2, 3] == wire.order, "the first was alone for its first chunk"


def test_a_long_body_has_its_turn_in_every_round_however_many_newcomers_there_are() -> None:
    wire = Wire(chunk_bytes=1, in_flight_max=1)
    wire.send(request(0, body=BIG))
    for seq in range(1, 200):
        wire.send(request(seq, body=b"xy"))
        while wire.there:
            wire.forth()
        wire.acknowledge()
    rounds = wire.sender.turn
    assert rounds > 5
    assert rounds - 1 <= wire.order.count(1) <= rounds


def test_an_acknowledgement_may_count_several_chunks_and_come_again() -> None:
    sender = Chunker(chunk_bytes=10, in_flight_max=2)
    sender.split(request(body=BIG))
    assert [2, 3] == [chunk.number for chunk in sender.acked(ChunkAck(1, 2))]
    assert [] == sender.acked(ChunkAck(1, 1)), "an older one takes nothing back"
    assert 2 == sender.in_flight
    assert [] == sender.acked(ChunkAck(1, 4))
    assert {} == sender.outgoing
    assert [] == sender.acked(ChunkAck(1, 4)), "of a stream that is finished"


def test_a_body_over_the_limit_is_refused_and_its_chunks_stop() -> None:
    wire = Wire(chunk_bytes=4)
    wire.receiver.body_bytes_max = 39
    wire.send(request(1, body=BIG))
    wire.send(request(2, body=BIG[:39]))
    wire.run()
    assert [2] == [record.seq for record in wire.arrived]
    assert wire.order.count(1) <= wire.sender.in_flight_max
    wire.assert_done()


def test_a_body_of_exactly_the_limit_is_taken() -> None:
    receiver = Chunker(body_bytes_max=40)
    assert receiver.announced(structs.replace(request(), size=40, stream=1))
    assert not receiver.announced(structs.replace(request(), size=41, stream=2))


def test_what_the_receiver_no_longer_wants_is_aborted() -> None:
    wire = Wire(chunk_bytes=4)
    wire.send(request(1, body=BIG))
    wire.send(request(2, body=BIG))
    wire.forth()
    assert wire.receiver.withdraw("a", 7, 99) is None
    coming = wire.receiver.withdraw("a", 7, 1)
    assert coming is not None
    assert 1 == coming.seq
    wire.run()
    assert [2] == [record.seq for record in wire.arrived]
    wire.assert_done()


def test_a_chunk_of_an_unknown_stream_is_answered_by_an_abort() -> None:
    assert (None, ChunkAck(5, 4, abort=True)) == Chunker().chunk(Chunk(5, 3, b"x"))


def test_an_aborted_stream_leaves_its_room_to_others() -> None:
    sender = Chunker(chunk_bytes=4, in_flight_max=1)
    sender.split(request(1, body=BIG))
    _, waiting = sender.split(request(2, body=BIG))
    assert [] == waiting
    assert [2] == [chunk.stream for chunk in sender.acked(ChunkAck(1, 1, abort=True))]
    assert [2] == [chunk.stream for chunk in sender.acked(ChunkAck(2, 1))]


def announced(size: int = 10, stream: int = 1) -> Chunker:
    receiver = Chunker()
    receiver.announced(structs.replace(request(), size=size, stream=stream))
    return receiver


@pytest.mark.parametrize(
    ("chunk", "problem"),
    [
        (Chunk(1, 1, b"x"), "chunk 1 of stream 1 came where 0 was due"),
        (Chunk(1, 0, b""), "chunk 0 of stream 1 came where 0 was due"),
        (Chunk(1, 0, b"x" * 11), "more than the 10 bytes"),
    ],
)
def test_a_chunk_that_does_not_fit_is_an_error(chunk: Chunk, problem: str) -> None:
    with pytest.raises(ProtocolError, match=problem):
        announced().chunk(chunk)


def test_a_stream_cannot_be_opened_twice() -> None:
    with pytest.raises(ProtocolError, match="stream 1 is open already"):
        announced().announced(structs.replace(request(), size=5, stream=1))


def test_streams_at_once_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "STREAMS_MAX", 2)
    receiver = announced(stream=1)
    receiver.announced(structs.replace(request(), size=5, stream=2))
    with pytest.raises(ProtocolError, match="more than 2 are"):
        receiver.announced(structs.replace(request(), size=5, stream=3))


def test_chunks_that_were_never_sent_cannot_be_acknowledged() -> None:
    sender = Chunker(chunk_bytes=4, in_flight_max=2)
    sender.split(request(body=BIG))
    with pytest.raises(ProtocolError, match="3 chunks of stream 1 were acknowledged, 2 were sent"):
        sender.acked(ChunkAck(1, 3))


SMALL = st.integers(0, 3)
HOSTILE = st.one_of(
    st.builds(Chunk, SMALL, SMALL, st.binary(max_size=6)),
    st.builds(ChunkAck, SMALL, SMALL, st.booleans()),
    st.builds(lambda size, stream: structs.replace(request(), size=size, stream=stream), st.integers(1, 12), SMALL),
)


@given(st.lists(HOSTILE, max_size=60))
def test_hostile_records_raise_nothing_but_protocol_errors(records: list[Request | Chunk | ChunkAck]) -> None:
    end = Chunker(chunk_bytes=3, in_flight_max=2, body_bytes_max=10)
    end.split(request(body=BIG))
    end.split(request(body=BIG))
    for record in records:
        try:
            if isinstance(record, Chunk):
                whole, ack = end.chunk(record)
                assert ack.count == record.number + 1
                assert whole is None or 0 < len(whole.body) <= 10
            elif isinstance(record, ChunkAck):
                end.acked(record)
            else:
                end.announced(record)
        except ProtocolError:
            pass
        assert end.in_flight == sum(out.sent - out.acked for out in end.outgoing.values())
        assert 0 <= end.in_flight <= 2
        assert all(len(entry.body) < entry.record.size <= 10 for entry in end.incoming.values())


def test_tiny_chunks_take_no_more_memory_than_their_bytes() -> None:
    receiver = announced(size=1_000)
    for number in range(999):
        receiver.chunk(Chunk(1, number, b"x"))
    assert 999 == len(receiver.incoming[1].body)
    assert receiver.incoming[1].body.__sizeof__() < 4_000


def test_its_state_is_data() -> None:
    wire = Wire()
    wire.send(request(1, body=BIG))
    wire.forth()
    wire.forth()
    wire.sender, wire.receiver = copied(wire.sender), copied(wire.receiver)
    wire.run()
    assert [BIG] == [record.body for record in wire.arrived]
