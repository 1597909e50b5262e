"""What every spool does, in memory or on disk."""

from pathlib import Path

import pytest

from mesh.core.ledger import Dead, Done, Expire, Expired, Fetch, Sent, Standing, Survey, Sweep
from mesh.spool.base import DeadOptions, Spool, SpoolLost
from mesh.types import TopicKey
from tests.spool.worlds import KINDS, ORDERS, Machine, bury, fetch, put


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def spool(kind: str, machine: Machine) -> Spool:
    made = KINDS[kind](machine, DeadOptions(dead_records_max=3, dead_bytes_max=1_000, dead_age_s=100.0))
    made.open()
    return made


def seqs(spool: Spool, topic: TopicKey = ORDERS) -> list[int]:
    return [row.seq for row in fetch(spool, topic=topic)]


def test_a_new_spool_is_empty(kind: str, machine: Machine) -> None:
    opened = KINDS[kind](machine, None).open()
    assert (0, 0, [], []) == (opened.totals.records, opened.last, opened.topics, opened.ended)


def test_what_was_put_is_read_in_its_order_with_the_time_that_is_left(spool: Spool, machine: Machine) -> None:
    committed = spool.commit([put(1, record=b"one"), put(2, record=b"two", ttl_s=30.0)])
    assert [(Standing.NEW, 1, ""), (Standing.NEW, 2, "")] == committed.puts
    assert (2, 6) == (committed.totals.records, committed.totals.bytes)
    machine.sleep(10.0)
    assert [(1, 1, 50.0, b"one"), (2, 2, 20.0, b"two")] == [(r.number, r.seq, r.left_s, r.record) for r in fetch(spool)]
    assert 10.0 == spool.totals().oldest_s


def test_topics_and_namespaces_are_read_apart(spool: Spool) -> None:
    others = [TopicKey("", "stock"), TopicKey("blue", "orders")]
    spool.commit([put(1), *(put(2 + number, topic=topic) for number, topic in enumerate(others))])
    assert [[1], [2], [3]] == [seqs(spool, topic) for topic in (ORDERS, *others)]


def test_rows_are_read_in_pages_by_number_and_by_bytes_one_at_least(spool: Spool) -> None:
    spool.commit([put(seq, record=b"x" * 10) for seq in range(5)])
    page = spool.fetch(Fetch(ORDERS, 2, 2, 1_000))
    assert ([2, 3], True) == ([row.seq for row in page.rows], page.more)
    rest = spool.fetch(Fetch(ORDERS, 4, 2, 1_000))
    assert ([4], False) == ([row.seq for row in rest.rows], rest.more)
    assert [0, 1] == [row.seq for row in spool.fetch(Fetch(ORDERS, 0, 5, 25)).rows]
    assert [0] == [row.seq for row in spool.fetch(Fetch(ORDERS, 0, 5, 1)).rows]


def test_of_one_identity_the_first_is_kept_and_a_replay_is_told_what_became_of_it(spool: Spool) -> None:
    spool.commit([put(1, record=b"first"), put(2), put(3)])
    spool.commit([Done(7, 2), Dead(7, 3, "poison", "three died of it")])
    standings = [(Standing.LIVE, 1, ""), (Standing.DONE, 2, ""), (Standing.DEAD, 3, "poison: three died of it")]
    assert standings == spool.commit([put(1, record=b"again"), put(2), put(3)]).puts
    assert [b"first"] == [row.record for row in fetch(spool)]


def test_ends_of_what_is_not_there_or_has_ended_mean_nothing(spool: Spool) -> None:
    spool.commit([put(1), Done(7, 1), Dead(7, 1, "expired", ""), Done(7, 9), Sent(7, 9, "b", 1, 1)])
    totals = spool.totals()
    assert (0, 0, 1, 0) == (totals.records, totals.bytes, totals.done, totals.dead)


def test_what_its_caller_gave_up_is_over_unless_its_time_was_first(spool: Spool, machine: Machine) -> None:
    spool.commit([put(1, ttl_s=5.0), put(2)])
    machine.sleep(5.5)
    spool.commit([Done(7, 1, cancelled=True), Done(7, 2, cancelled=True)])
    assert [1] == seqs(spool)


def test_where_it_was_sent_is_read_with_it(spool: Spool) -> None:
    spool.commit([put(1), put(2), Sent(7, 1, "b", 20, 1_002), Sent(7, 1, "c", 30, 1_003)])
    assert [("c", 30, 1_003), ("", 0, 0)] == [row.sent for row in fetch(spool)]


def test_ends_are_remembered_until_the_floor_has_passed_them(spool: Spool) -> None:
    spool.commit([put(1), put(2), put(3), put(1, session=8), Done(7, 1), Done(7, 2), Done(8, 1)])
    assert [7, 8] == spool.open().ended
    spool.commit([Sweep(7, 2)])
    assert 2 == spool.totals().done
    spool.commit([Sweep(7, 9)])
    assert (1, [8], [3]) == (spool.totals().done, spool.open().ended, seqs(spool))


def test_all_is_there_when_it_is_opened_again(spool: Spool) -> None:
    spool.commit([put(1), put(2), put(1, topic=TopicKey("blue", "stock"), session=8), Sent(7, 1, "b", 20, 1_002)])
    spool.close()
    opened = spool.open()
    assert [Survey(ORDERS, 2), Survey(TopicKey("blue", "stock"), 1)] == opened.topics
    assert (3, 3) == (opened.totals.records, opened.last)
    assert [("b", 20, 1_002), ("", 0, 0)] == [row.sent for row in fetch(spool)]


def test_a_closed_spool_is_lost_until_it_is_opened(spool: Spool) -> None:
    spool.close()
    with pytest.raises(SpoolLost):
        spool.commit([put(1)])
    with pytest.raises(SpoolLost):
        fetch(spool)


def test_numbers_are_never_used_again(spool: Spool) -> None:
    spool.commit([put(1), put(2), Done(7, 2), Sweep(7, 9)])
    assert 3 == spool.commit([put(3)]).puts[0][1]
    spool.commit([Done(7, 3), Sweep(7, 9)])
    assert 3 == spool.open().last


# Time


def test_a_row_past_its_time_is_left_to_the_node_for_a_moment_and_is_then_a_dead_letter(
    spool: Spool, machine: Machine
) -> None:
    spool.commit([put(1, ttl_s=5.0), put(2)])
    machine.sleep(5.5)
    assert [] == spool.commit([Expire()]).expired
    assert -0.5 == fetch(spool)[0].left_s
    machine.sleep(1.0)
    committed = spool.commit([Expire()])
    assert [Expired(7, 1, 1, ORDERS)] == committed.expired
    assert (1, 1) == (committed.totals.records, committed.totals.dead)
    assert [(1, "expired")] == [(letter.seq, letter.reason) for letter in spool.dead(0, 10)]


def test_ends_and_dead_letters_are_forgotten_in_time(spool: Spool, machine: Machine) -> None:
    spool.commit([put(1, ttl_s=5.0), Done(7, 1)])
    bury(spool, 2)
    machine.sleep(7.0)
    spool.commit([Expire()])
    assert (0, 1) == (spool.totals().done, spool.totals().dead)
    machine.sleep(101.0)
    spool.commit([Expire()])
    assert 0 == spool.totals().dead


# Dead letters


def test_a_dead_letter_keeps_its_record_and_says_why(spool: Spool, machine: Machine) -> None:
    bury(spool, 1)
    (letter,) = spool.dead(0, 10)
    assert (1, "orders", "", 7, 1, 1) == (
        letter.number,
        letter.topic,
        letter.namespace,
        letter.session,
        letter.seq,
        letter.bytes,
    )
    assert ("expired", "1 was late") == (letter.reason, letter.text)
    found = spool.record(1)
    assert found is not None
    assert (letter, b"1") == found
    assert spool.record(2) is None
    assert [] == seqs(spool)


def test_dead_letters_are_listed_in_pages(spool: Spool) -> None:
    bury(spool, 1, 2, 3)
    assert [1, 2] == [letter.number for letter in spool.dead(0, 2)]
    assert [3] == [letter.number for letter in spool.dead(2, 2)]


def test_the_oldest_dead_letters_go_when_they_are_too_many_or_too_large(spool: Spool) -> None:
    bury(spool, 1, 2, 3, 4)
    assert [2, 3, 4] == [letter.number for letter in spool.dead(0, 10)]
    spool.commit([put(5, record=b"x" * 999), Dead(7, 5, "expired", "")])
    assert [4, 5] == [letter.number for letter in spool.dead(0, 10)]
    spool.commit([put(6, record=b"x" * 1_001), Dead(7, 6, "expired", "")])
    assert ([], 0) == (spool.dead(0, 10), spool.totals().dead)


def test_a_dead_letter_that_is_revived_is_a_new_cast_with_all_its_time(spool: Spool, machine: Machine) -> None:
    bury(spool, 1, 2)
    machine.sleep(10.0)
    assert [Survey(ORDERS, 2)] == spool.revive([1, 2, 2, 99])
    first, second = fetch(spool)
    assert (3, 4) == (first.number, second.number)
    assert (b"1", b"2", 60.0) == (first.record, second.record, first.left_s)
    assert first.session == second.session != 7
    assert (first.number, second.number) == (first.seq, second.seq)
    assert (2, 0) == (spool.totals().records, spool.totals().dead)
    assert [(Standing.NEW, 5, "")] == spool.commit([put(1)]).puts


def test_purged_dead_letters_are_gone(spool: Spool) -> None:
    bury(spool, 1, 2)
    assert 1 == spool.purge([1, 1, 99])
    assert [2] == [letter.number for letter in spool.dead(0, 10)]
    assert spool.record(1) is None
