"""What node and spool say to each other crosses a copy of the node unchanged."""

import pytest
from msgspec import msgpack

from mesh.core import ledger
from mesh.core.ledger import (
    Away,
    Commit,
    Committed,
    Dead,
    Done,
    Expire,
    Expired,
    Fetch,
    Fetched,
    Job,
    Kept,
    Open,
    Opened,
    Put,
    Refused,
    Sent,
    Show,
    Shown,
    Standing,
    Survey,
    Sweep,
    Totals,
    Unread,
    Word,
)
from mesh.types import TopicKey

ORDERS = TopicKey("", "orders")
ENTRIES: list[ledger.Entry] = [
    Put(7, 1, ORDERS, "s", 60.0, 1, b"x"),
    Sent(7, 1, "b", 2, 3),
    Done(7, 1),
    Dead(7, 1, "poison", "three died of it"),
    Sweep(7, 9),
    Expire(),
]
JOBS = [Open(), Commit(ENTRIES), Fetch(ORDERS, 1, 2, 3), Show(7, 1, "dead_list", {"limit": "1"})]
WORDS = [
    Opened(Totals(), 3, [Survey(ORDERS, 2)], [7], "it was set aside"),
    Away("no such directory"),
    Committed(Totals(1), [(Standing.NEW, 1, "")], [Expired(7, 1, 1, ORDERS)]),
    Refused("full", lost=True),
    Fetched(ORDERS, [Kept(1, 7, 1, 60.0, b"x")], True),
    Unread("input/output error"),
    Shown(7, 1, True, b"{}", None, [Survey(ORDERS, 1)]),
]


@pytest.mark.parametrize("job", JOBS, ids=lambda job: type(job).__name__)
def test_every_job_is_the_same_after_an_encode_and_a_decode(job: Job) -> None:
    assert job == msgpack.decode(msgpack.encode(job), type=Job)


@pytest.mark.parametrize("word", WORDS, ids=lambda word: type(word).__name__)
def test_every_word_is_the_same_after_an_encode_and_a_decode(word: Word) -> None:
    assert word == msgpack.decode(msgpack.encode(word), type=Word)
