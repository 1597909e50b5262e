"""The state of durable casts: what is taken, what is written when, and how much of it is in memory."""

import pytest

from mesh.core.durable import (
    COMMIT_ENTRIES,
    WELL_S,
    Durable,
    DurableOptions,
    Phase,
    is_durable,
    is_sent_once,
    pack,
    unpack,
)
from mesh.core.ledger import Commit, Dead, Done, Entry, Expire, Fetch, Put, Sent, Sweep, Totals
from mesh.core.records import Failure, Flag, Kind, Request, Status
from mesh.types import TopicKey
from tests.core.builders import ORDERS, STOCK, request

DURABLE = int(Flag.DURABLE)
ONCE = int(Flag.DURABLE | Flag.ONCE)
OPTIONS = DurableOptions(window_records=100, window_bytes=1 << 20)


def cast(seq: int = 1, *, flags: int = DURABLE, body: bytes = b"", topic: TopicKey = ORDERS) -> Request:
    return request(seq, kind=Kind.CAST, flags=flags, body=body, topic=topic.topic)


def opened(*seqs: int) -> Durable:
    """An open spool with these casts held, as rows of the same numbers."""
    durable = Durable(Phase.OPEN)
    for seq in seqs:
        durable.hold(cast(seq), seq)
    return durable


def failure(status: Status, limit: str = "") -> Failure:
    return Failure("a", 7, 1, int(status), "so it was", limit=limit)


def entries(durable: Durable, now: float = 1.0) -> list[Entry]:
    """What is written next; it lands at once."""
    commit = durable.commit(now)
    assert commit is not None
    durable.landed()
    return commit.entries


# What is taken


@pytest.mark.parametrize(
    ("durable", "one", "expected"),
    [
        (Durable(Phase.OPEN), request(flags=DURABLE), (Status.REJECTED, "")),
        (Durable(Phase.NONE), cast(), (Status.REJECTED, "")),
        (Durable(Phase.AWAY, "no disk"), cast(), (Status.OVERLOADED, "spool_disk")),
        (Durable(Phase.OPENING), cast(), None),
        (Durable(Phase.OPEN, totals=Totals(8, 0, 2)), cast(), (Status.OVERLOADED, "spool_records_max")),
        (Durable(Phase.OPEN, totals=Totals(8, 0, 2)), cast(flags=DURABLE | Flag.RESUMED), None),
        (Durable(Phase.OPEN, totals=Totals(1, 1 << 20)), cast(), (Status.OVERLOADED, "spool_bytes_max")),
    ],
)
def test_a_cast_is_refused_by_the_limit_it_would_break(
    durable: Durable, one: Request, expected: tuple[Status, str] | None
) -> None:
    refusal = durable.refusal(one, DurableOptions(spool_records_max=10, spool_bytes_max=1 << 20))
    assert expected == (refusal and refusal[:2])


def test_what_is_not_on_disk_yet_is_bounded_but_for_one() -> None:
    durable, large = Durable(Phase.OPEN), cast(body=b"x" * (2 << 20))
    assert None is durable.refusal(large, OPTIONS)
    durable.put(large, 11.0, 1.0)
    refusal = durable.refusal(cast(2), OPTIONS)
    assert refusal is not None
    assert "window_bytes" == refusal[1]


def test_which_requests_are_durable_and_which_are_sent_once() -> None:
    flags = (0, DURABLE, int(Flag.ONCE), ONCE | Flag.WAIT)
    assert [False, True, False, True] == [is_durable(cast(flags=one)) for one in flags]
    assert [False, False, False, True] == [is_sent_once(cast(flags=one)) for one in flags]


# What is written


def test_a_commit_is_one_at_a_time_and_takes_what_has_gathered() -> None:
    durable = Durable(Phase.OPEN)
    assert None is durable.commit(1.0)
    durable.put(cast(1), 11.0, 1.0)
    assert durable.knows((7, 1))
    commit = durable.commit(1.0)
    durable.put(cast(2), 11.0, 1.0)
    assert None is durable.commit(1.0)
    assert commit == Commit(durable.landed())
    (put,) = commit.entries
    assert isinstance(put, Put)
    assert (7, 1, ORDERS, 10.0, 128) == (put.session, put.seq, put.topic, put.ttl_s, put.size)
    assert [2] == [entry.seq for entry in entries(durable) if isinstance(entry, Put)]
    assert [] == durable.landed()


def test_nothing_is_committed_before_the_spool_is_open() -> None:
    durable = Durable(Phase.OPENING)
    durable.put(cast(1), 11.0, 1.0)
    assert None is durable.commit(1.0)


def test_a_commit_has_so_many_entries_at_most() -> None:
    durable = Durable(Phase.OPEN)
    for seq in range(COMMIT_ENTRIES + 3):
        durable.put(cast(seq), 11.0, 1.0)
    assert [COMMIT_ENTRIES, 3] == [len(entries(durable)), len(entries(durable))]


def test_a_put_that_was_written_is_known_no_more_and_of_another_nothing_was() -> None:
    durable = Durable(Phase.OPEN)
    durable.put(cast(1), 11.0, 1.0)
    (put,) = entries(durable)
    assert isinstance(put, Put)
    unwritten = durable.written(put)
    assert unwritten is not None
    assert (11.0, 0, False) == (unwritten.deadline, durable.unwritten_bytes, durable.knows((7, 1)))
    assert None is durable.written(put)


@pytest.mark.parametrize(
    ("outcome", "overdue", "expected"),
    [
        (None, False, Done(7, 1)),
        (failure(Status.CANCELLED), False, Done(7, 1, True)),
        (failure(Status.INDETERMINATE, "attempts_max"), True, Dead(7, 1, "poison", "so it was")),
        (failure(Status.INDETERMINATE), True, Dead(7, 1, "expired", "so it was")),
        (failure(Status.REJECTED), False, Dead(7, 1, "rejected", "so it was")),
    ],
)
def test_an_end_is_written_as_what_it_was(outcome: Failure | None, overdue: bool, expected: Entry) -> None:
    durable = opened(1)
    durable.end(cast(1), outcome, overdue=overdue)
    assert [expected] == entries(durable)
    assert durable.knows((7, 1))
    assert (0, 0) == (durable.held, durable.held_bytes)


def test_where_a_cast_goes_is_marked_once_for_each_target() -> None:
    durable = opened(1)
    assert [True, True] == [durable.must_mark((7, 1), ("b", 2, 3)) for _ in range(2)]
    assert [Sent(7, 1, "b", 2, 3)] == entries(durable)
    durable.marks[7, 1] = durable.marking.pop((7, 1))
    assert not durable.must_mark((7, 1), ("b", 2, 3))
    assert durable.must_mark((7, 1), ("c", 2, 3))
    durable.end(cast(1), None, overdue=False)
    assert ({}, {}) == (durable.marks, durable.marking)


def test_what_the_disk_refused_goes_first_a_little_later_or_with_the_next_cast() -> None:
    durable = opened(1, 2)
    durable.end(cast(1), None, overdue=False)
    refused = entries(durable)
    durable.again(refused, 1.0)
    durable.end(cast(2), None, overdue=False)
    assert None is durable.commit(1.5)
    assert [Done(7, 1), Done(7, 2)] == entries(durable, 2.0)
    durable.again(refused, 2.0)
    durable.put(cast(3), 11.0, 2.0)
    assert [Done, Put] == [type(entry) for entry in entries(durable, 2.0)]


def test_once_the_disk_has_refused_something_ends_go_before_new_casts_and_apart_from_them() -> None:
    durable = opened(1)
    durable.put(cast(2), 11.0, 1.0)
    durable.end(cast(1), None, overdue=False)
    assert durable.refused("full", 1.0)
    assert not durable.refused("full", 1.0)
    assert [[Done], [Put]] == [[type(entry) for entry in entries(durable)] for _ in range(2)]
    durable.again([Done(7, 1)], 1.0)
    assert None is durable.commit(1.5)
    durable.put(cast(3), 11.0, 1.5)
    assert [[Put], [Done]] == [[type(entry) for entry in entries(durable, now)] for now in (1.5, 2.0)]


def test_a_disk_is_well_when_it_takes_a_cast_or_has_refused_nothing_for_a_while() -> None:
    durable, put = Durable(Phase.OPEN), Put(7, 1, ORDERS, "", 1.0, 1, b"")
    assert not durable.recovered([put], 1.0)
    durable.refused("full", 1.0)
    assert not durable.recovered([Done(7, 1)], 2.0)
    assert durable.recovered([put], 2.0)
    durable.refused("full", 3.0)
    assert durable.recovered([Done(7, 1)], 3.0 + WELL_S)


def test_a_request_is_kept_whole_however_large_its_body() -> None:
    large = cast(body=b"x" * (2 << 20))
    assert large == unpack(pack(large))


def test_what_is_taken_back_is_written_no_more() -> None:
    durable = Durable(Phase.OPEN)
    durable.put(cast(1), 11.0, 1.0)
    assert [Put] == [type(entry) for entry in durable.take_back()]
    assert None is durable.commit(1.0)


def test_a_floor_that_rose_is_swept_once_where_there_is_anything_to_sweep() -> None:
    durable = Durable(Phase.OPEN, ended={7: 0})
    durable.sweep({7: 5, 8: 5})
    durable.sweep({7: 5})
    assert [Sweep(7, 5)] == entries(durable)


@pytest.mark.parametrize("totals", [Totals(1), Totals(done=1), Totals(dead=1)])
def test_a_spool_that_holds_something_is_looked_through(totals: Totals) -> None:
    durable = Durable(Phase.OPEN, totals=totals)
    durable.expire()
    assert [Expire()] == entries(durable)


def test_an_empty_spool_is_left_alone() -> None:
    durable = Durable(Phase.OPEN)
    durable.expire()
    durable.cancel((7, 1))
    assert None is durable.commit(1.0)


def test_what_is_given_up_may_be_on_disk_only() -> None:
    durable = Durable(Phase.OPEN)
    durable.leave(ORDERS, 1)
    durable.cancel((7, 1))
    assert [Done(7, 1, True)] == entries(durable)


# What is in memory


def test_rows_are_held_while_there_is_room_and_none_is_left_before_them() -> None:
    durable = Durable(Phase.OPEN)
    for seq in range(100):
        assert durable.has_room(cast(seq), OPTIONS)
        durable.hold(cast(seq), seq)
    assert not durable.has_room(cast(100), OPTIONS)
    durable.leave(ORDERS, 1)
    durable.end(cast(0), None, overdue=False)
    assert not durable.has_room(cast(101), OPTIONS), "one is left that is older"


def test_a_body_of_any_size_is_held_when_nothing_of_its_topic_is() -> None:
    durable, large = Durable(Phase.OPEN), cast(body=b"x" * (2 << 20))
    assert durable.has_room(large, OPTIONS)
    durable.hold(large, 1)
    assert not durable.has_room(cast(2), OPTIONS)
    assert durable.has_room(cast(3, topic=STOCK), OPTIONS)


def test_a_topic_has_a_share_though_others_fill_the_window() -> None:
    durable = opened(*range(100))
    assert (64, 1 << 20) == durable.room(durable.shelf(STOCK), OPTIONS)


def test_topics_with_rows_left_are_fetched_in_turn_one_fetch_at_a_time() -> None:
    durable = opened(5)
    durable.leave(ORDERS, 10)
    durable.leave(STOCK, 10)
    assert Fetch(ORDERS, 5, 99, (1 << 20) - 128) == durable.fetch(OPTIONS)
    assert None is durable.fetch(OPTIONS)
    durable.fetched(ORDERS, 10, more=False)
    fetch = durable.fetch(OPTIONS)
    assert fetch is not None
    assert STOCK == fetch.topic
    durable.fetched(STOCK, 4, more=True)
    assert (6, 6) == (durable.left, durable.shelf(STOCK).left)


def test_nothing_is_fetched_for_little_room_while_the_disk_refuses_or_when_nothing_is_left() -> None:
    durable = opened(*range(100))
    assert None is durable.fetch(OPTIONS)
    durable.leave(ORDERS, 1_000)
    assert None is durable.fetch(OPTIONS)
    for seq in range(32):
        durable.end(cast(seq), None, overdue=False)
    durable.again([Done(7, 1)], 1.0)
    assert None is durable.fetch(OPTIONS)
    durable.recovered([Done(7, 1)], 2.0)
    fetch = durable.fetch(OPTIONS)
    assert fetch is not None
    assert 32 == fetch.records


def test_a_count_of_what_is_left_mends_itself() -> None:
    durable = Durable(Phase.OPEN)
    durable.leave(ORDERS, 3)
    durable.fetched(ORDERS, 5, more=True)
    assert 0 == durable.left
    durable.leave(ORDERS, 3)
    durable.fetched(ORDERS, 0, more=False)
    assert (0, 0) == (durable.left, durable.shelf(ORDERS).left)


def test_another_file_holds_nothing_and_empty_shelves_are_forgotten() -> None:
    durable = opened(5)
    durable.leave(ORDERS, 3)
    durable.leave(STOCK, 3)
    durable.fetching = True
    durable.reopened()
    assert (0, 0, False) == (durable.left, durable.shelf(ORDERS).after, durable.fetching)
    durable.tidy()
    assert [ORDERS] == list(durable.shelves)
