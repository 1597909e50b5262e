"""A job is done with a spool's verbs, and what goes wrong becomes a word."""

import pytest
from msgspec import json

from mesh.core.durable import pack
from mesh.core.ledger import Away, Commit, Dead, Done, Fetch, Job, Open, Put, Refused, Show, Shown, Unread, Word
from mesh.core.records import Kind
from mesh.spool.base import DeadOptions, do
from mesh.spool.memory import MemorySpool
from tests.core.builders import request
from tests.spool.worlds import ORDERS


@pytest.fixture
def spool() -> MemorySpool:
    made = MemorySpool(DeadOptions(), lambda: 1.0)
    made.open()
    return made


def shown(spool: MemorySpool, verb: str, **arguments: str) -> Shown:
    word = do(spool, Show(7, 1, verb, arguments))
    assert isinstance(word, Shown)
    return word


@pytest.mark.parametrize(
    ("job", "word"),
    [
        (Open(), Away("no room")),
        (Commit([Done(7, 1)]), Refused("no room")),
        (Fetch(ORDERS, 0, 1, 1), Unread("no room")),
        (Show(7, 1, "dead_list", {}), Shown(7, 1, False, b"no room", None, [])),
    ],
)
def test_what_goes_wrong_is_a_word(spool: MemorySpool, job: Job, word: Word) -> None:
    spool.fault = "no room"
    assert word == do(spool, job)


def test_a_lost_file_is_said_to_be_lost(spool: MemorySpool) -> None:
    spool.close()
    assert [True, True] == [
        word.lost
        for job in (Commit([]), Fetch(ORDERS, 0, 1, 1))
        if isinstance(word := do(spool, job), Refused | Unread)
    ]


def test_a_body_is_shown_up_to_a_limit(spool: MemorySpool) -> None:
    record = pack(request(kind=Kind.CAST, body=b"x" * 100_000))
    spool.commit([Put(7, 1, ORDERS, "", 60.0, 100_128, record), Dead(7, 1, "expired", "")])
    told = json.decode(shown(spool, "dead_show", number="1").body)
    assert (100_128, 87_384) == (told["bytes"], len(told["body_base64"]))


@pytest.mark.parametrize("arguments", [{}, {"number": "x"}, {"number": "9"}])
def test_a_question_that_makes_no_sense_is_answered_so(spool: MemorySpool, arguments: dict[str, str]) -> None:
    assert not shown(spool, "dead_show", **arguments).ok
