"""docs/protocol.md says what the code does: tables, numbers, example bytes, and who may send what."""

import re
from typing import get_args

import pytest

from mesh.core import records
from mesh.core.codec import decode
from mesh.core.context import NodeOptions
from mesh.core.identity import Identity
from mesh.core.node import Node
from mesh.core.records import Record
from mesh.types import Endpoint
from scripts.protocol_doc import DOC, EXAMPLES, MARK, play, renewed

TEXT = DOC.read_text(encoding="utf-8")
PARTS = {(match[1], match[2]): match[3] for match in MARK.finditer(TEXT)}
NAMES = [record.__name__ for record in get_args(Record)]
EVERYBODY = {"Ping", "Pong", "Goodbye", "Chunk", "ChunkAck"}


def lines(part: str) -> list[str]:
    """What stands between the fences of a block."""
    return part.splitlines()[1:-1]


def test_the_page_is_up_to_date() -> None:
    assert renewed(TEXT) == TEXT, "run python -m scripts.protocol_doc"


def test_everything_that_the_code_has_is_explained() -> None:
    unexplained = [line for part in PARTS.values() for line in part.splitlines() if re.search(r"\| (\?|) \|$", line)]
    assert [] == unexplained
    enums = {
        value.__name__ for value in vars(records).values() if isinstance(value, type) and hasattr(value, "__members__")
    }
    for kind, expected in {"record": set(NAMES), "example": set(NAMES), "enum": enums}.items():
        assert expected == {name for part, name in PARTS if part == kind}
    assert {"tags", "transitions", "limits", "options", "session"} <= {part for part, _ in PARTS}


def test_records_stand_in_the_order_of_their_tags() -> None:
    assert NAMES == [type(record).__name__ for record in EXAMPLES]
    assert NAMES == [name for part, name in PARTS if part == "record"]
    assert NAMES == re.findall(r"^### 4\.\d+ (\w+)$", TEXT, re.MULTILINE)[1:]


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_of_an_example_are_the_record_beside_them(name: str) -> None:
    value, *digits = lines(PARTS["example", name])
    batch = decode(bytes.fromhex("".join(digits)))
    assert (0, [name], [value]) == (
        batch.counter,
        [type(r).__name__ for r in batch.records],
        [*map(repr, batch.records)],
    )


def test_the_bytes_of_the_session_are_what_two_agents_and_two_apps_say() -> None:
    ways: list[str] = []
    said: list[bytes] = []
    for line in lines(PARTS["session", "all"]):
        if ":" in line:
            ways.append(line)
            said.append(b"")
        else:
            said[-1] += bytes.fromhex(line)
    assert [spoken.data for spoken in play()] == said
    counters: dict[str, int] = {}
    for way, data in zip(ways, said, strict=True):
        direction, _, names = way.partition(": ")
        batch = decode(data)
        assert names == ", ".join(type(record).__name__ for record in batch.records)
        assert counters.get(direction, 0) == batch.counter
        counters[direction] = batch.counter + 1
    assert len(counters) == 6, "both hops, both ways"


def test_who_may_send_what_is_what_the_hops_take() -> None:
    node = Node(Identity("a", "fleet", 1, Endpoint("host", 1)), NodeOptions(), 1, 0.0)
    rows = {
        (row[0], row[1]): set(re.findall(r"`(\w+)`", row[2]))
        for row in re.findall(r"^\| (\w+) \| (\w+) \| (`.*) \|$", TEXT, re.MULTILINE)
    }
    taken = {verb.__name__ for verb in node.apps.verbs} | {"AppHello"}
    assert taken == rows["app", "agent"] | EVERYBODY
    taken = {verb.__name__ for verb in node.links.verbs} | {"Hello", "Welcome"}
    assert taken == rows["agent", "agent"] | EVERYBODY
    assert set(NAMES) == rows["app", "agent"] | rows["agent", "agent"] | rows["agent", "app"] | EVERYBODY


def test_a_page_that_is_behind_is_brought_up_to_date_and_keeps_its_prose() -> None:
    old = "<!-- record: Ping -->\n| field | meaning |\n| --- | --- |\n| `stamp` | mine |\n| `gone` | x |\n\nrest\n"
    row = "| `stamp` | uint | 0 to 2^63-1 | required | mine |"
    assert row in renewed(old)
    assert "gone" not in renewed(old)
    assert renewed(old).endswith("\n\nrest\n")
    assert "| ? |" in renewed("<!-- record: Pong -->\n")
