"""What the parts of a node share: the ways out, and state that can be copied."""

from msgspec import msgpack

from mesh.core.context import RANGES_MAX, Context, NodeOptions, State, parts
from mesh.core.directory import Directory
from mesh.core.effects import Level, Note
from mesh.core.identity import Identity
from mesh.core.link import Link, LinkOptions, Phase
from mesh.core.liveness import Liveness, LivenessOptions
from mesh.core.peers import Peers
from mesh.core.records import Chunk, Ping, Reply, Request, Status
from mesh.core.rng import Rng
from mesh.core.session import App
from mesh.types import Endpoint


def context() -> Context:
    identity = Identity("a", "sim", 1, Endpoint("a.example", 7700))
    state = State(Rng(1), Peers(identity, LivenessOptions(), LinkOptions()), Directory("a"))
    return Context(state, NodeOptions())


def app(shared: Context, conn: int | None = 1) -> App:
    made = shared.state.apps[7] = App(7, 1, "app", "", conn)
    made.chunker.chunk_bytes = 4
    return made


def linked(shared: Context) -> Link:
    link = Link(3, True, Phase.OPEN, "b", 0.0, Liveness(0.0, 0.0), LivenessOptions())
    link.chunker.chunk_bytes = 4
    shared.state.peers.links[3] = link
    shared.state.peers.peer("b").link = 3
    return link


def test_a_note_is_an_effect() -> None:
    shared = context()
    shared.note("something", Level.INFO, count=1)
    assert [Note("something", Level.INFO, {"count": 1})] == shared.effects


def test_a_record_for_an_app_waits_in_its_list_until_the_next_flush() -> None:
    shared = context()
    one = app(shared)
    shared.tell(one, Ping(1))
    assert ([Ping(1)], {7: None}) == (one.out, shared.state.dirty_apps)


def test_an_app_that_is_away_is_told_nothing() -> None:
    shared = context()
    one = app(shared, None)
    shared.tell(one, Ping(1))
    assert ([], {}) == (one.out, shared.state.dirty_apps)


def test_a_large_body_for_an_app_goes_in_chunks_a_small_one_does_not() -> None:
    shared = context()
    one = app(shared)
    shared.tell(one, Reply("a", 7, 1, b"1234"))
    shared.tell(one, Request(0, 1, "orders", "", 1000, b"1234567890"))
    small, announcement, *chunks = one.out
    assert Reply("a", 7, 1, b"1234") == small
    assert isinstance(announcement, Request)
    assert (b"", 10, 1) == (announcement.body, announcement.size, announcement.stream)
    assert [Chunk(1, 0, b"1234"), Chunk(1, 1, b"5678")] == chunks


def test_an_answer_goes_by_the_link_to_its_node() -> None:
    shared = context()
    link = linked(shared)
    shared.answer("b", Reply("b", 7, 1, b"1234"))
    shared.answer("b", Ping(1))
    assert [Reply("b", 7, 1, b"1234"), Ping(1)] == link.out
    assert {3: None} == shared.state.peers.dirty


def test_a_large_answer_goes_in_chunks() -> None:
    shared = context()
    link = linked(shared)
    shared.answer("b", Reply("b", 7, 1, b"1234567890"))
    assert [Reply("b", 7, 1, b"", size=10, stream=1), Chunk(1, 0, b"1234"), Chunk(1, 1, b"5678")] == link.out


def test_an_answer_to_this_node_itself_loops_back() -> None:
    shared = context()
    shared.answer("a", Ping(1))
    assert [Ping(1)] == shared.loopback


def test_an_answer_to_a_node_without_a_link_is_dropped() -> None:
    shared = context()
    shared.answer("b", Ping(1))
    assert ([], {}, []) == (shared.loopback, shared.state.peers.dirty, shared.effects)


def test_a_reply_over_the_limit_becomes_a_failure_that_says_that_it_ran() -> None:
    failure = context().too_large(Reply("b", 7, 1, b"", size=1 << 40, stream=2))
    assert ("b", 7, 1, Status.REMOTE_ERROR, "a", "body_bytes_max", "ReplyTooLarge") == (
        *(failure.node, failure.session, failure.seq, failure.status),
        *(failure.where, failure.limit, failure.error_type),
    )
    assert f"it ran; its reply of {1 << 40} bytes is over body_bytes_max = {64 << 20}" == failure.text


def test_ranges_are_told_in_records_that_can_hold_them() -> None:
    ranges = [(2 * n, 2 * n) for n in range(RANGES_MAX + 1)]
    assert [ranges[:RANGES_MAX], ranges[RANGES_MAX:]] == parts(ranges)
    assert [] == parts([])


def test_a_state_is_data_and_is_copied_by_an_encode_and_a_decode() -> None:
    shared = context()
    app(shared)
    linked(shared)
    shared.state.outbox.waiting = {}
    copy = msgpack.decode(msgpack.encode(shared.state), type=State)
    assert shared.state == copy
    assert shared.state.apps[7] is not copy.apps[7]
