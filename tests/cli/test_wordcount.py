"""The demo's workers and what they count."""

import json

import pytest

from mesh.cli.wordcount import PIECE, Tally, count_words, split
from mesh.client.api import Message
from mesh.types import MessageId


def message(kind: str = "cast", body: bytes = b"", piece: str = "") -> Message:
    headers = {PIECE: piece} if piece else {}
    return Message(body, headers, "pieces", "", kind, MessageId("n", 1, 1), 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("text", "count"), [(b"", 0), (b"to be, or_not to-be?", 5), (b"\n\n a \n", 1)])
def test_words_are_runs_of_word_characters(text: bytes, count: int) -> None:
    assert count == count_words(text)


@pytest.mark.parametrize("count", [1, 3, 7, 1000])
def test_pieces_are_the_texts_and_no_word_is_cut(count: int) -> None:
    texts = [b"one two\nthree\n" * 20, b"", b"no newline at the end", b"\n\n"]
    pieces = split(texts, count)
    assert b"".join(texts) == b"".join(pieces)
    assert sum(map(count_words, texts)) == sum(map(count_words, pieces))


def test_there_are_about_as_many_pieces_as_wanted_where_lines_allow() -> None:
    assert 80 <= len(split([b"a line of text\n" * 1000], 100)) <= 120


def test_nothing_makes_no_pieces() -> None:
    assert [] == split([], 100)
    assert [] == split([b""], 100)


def test_a_piece_that_comes_twice_counts_once() -> None:
    tally = Tally()
    for piece, body in (("1", b"to be"), ("2", b"or not"), ("1", b"to be")):
        tally.add(message(body=body, piece=piece))
    assert {"1": 2, "2": 2} == json.loads(tally.tell(message("call")))


def test_a_fan_out_begins_the_tally_anew() -> None:
    tally = Tally()
    tally.add(message(body=b"to be", piece="1"))
    tally.tell(message("fanout"))
    assert {} == json.loads(tally.tell(message("call")))
