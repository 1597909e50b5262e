"""Bring what docs/protocol.md takes from the code up to date: tables of fields and numbers, and example bytes.

Usage, from the project's root: python -m scripts.protocol_doc

Each part follows a mark, ``<!-- record: Hello -->``. In tables the last column is prose: it is kept, by the first
column, and has to be written by hand where it says ``?``.
"""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from msgspec import NODEFAULT, inspect

from mesh.core import app_hop, chunks, codec, context, link, records, recovery
from mesh.core.catalogue import AgentEntry, Instance, Snapshot
from mesh.core.codec import encode
from mesh.core.context import NodeOptions
from mesh.core.effects import Confirm, OpenLink
from mesh.core.identity import Identity
from mesh.core.link import TRANSITIONS, Event, LinkOptions, Phase
from mesh.core.node import Node
from mesh.core.session import Credentials
from mesh.types import Endpoint, TopicKey

DOC = Path(__file__).resolve().parent.parent / "docs" / "protocol.md"
MARK = re.compile(r"^<!-- (\w+): (\w+) -->\n((?:\|.*\n)+|```\n(?:.*\n)*?```\n)?", re.MULTILINE)
HEX_WIDTH = 96

LIMITS: dict[str, int] = {
    "FRAME_BYTES_MAX": codec.FRAME_BYTES_MAX,
    "RECORDS_MAX": codec.RECORDS_MAX,
    "BODY_INLINE_MAX": records.BODY_INLINE_MAX,
    "TIMEOUT_MS_MAX": records.TIMEOUT_MS_MAX,
    "STREAMS_MAX": chunks.STREAMS_MAX,
    "SEQS_MAX": context.SEQS_MAX,
    "IDS_MAX": recovery.IDS_MAX,
    "APPS_MAX": app_hop.APPS_MAX,
}

R = records
EXAMPLES: list[R.Record] = [
    R.Hello(0, 0, "prod", "a", 1001, 1, "b", "10.0.0.1", 7000, 1000, 5000, 67108864, 262144, 2, 8192, 16777216),
    R.Welcome(0, "prod", "b", 1002, 1, 1000, 5000, 67108864, 262144, 2, 8192, 16777216),
    R.Refuse(int(R.RefuseReason.STALE_INCARNATION), "'a' was seen as incarnation 1003, you are 1001", 1003),
    R.Ping(1_500_000),
    R.Pong(1_500_000),
    R.Keep(True),
    R.Goodbye("idle"),
    R.Credit(10_240, 20_971_520),
    R.DialBack(),
    R.DialledBack("10.0.0.1:7000", False, "no connection within 2 s"),
    R.Stay(),
    R.AppHello(0, 0, 17, 1, "web"),
    R.AppWelcome(0, "prod", "a", 1001, 1000, 67108864, 262144, 2, 10000, 67108864, 65536, 3600000, 5000),
    R.Serve("orders", "b-1", 4, 256),
    R.Serving("orders", "b-1", True),
    R.Unserve("orders", "b-1"),
    R.Reach("b", 1002, 34, "10.0.0.2", 7000),
    R.Request(int(R.Kind.CALL), 0, "orders", "", 10_000, b"ping", int(R.Flag.IDEMPOTENT), headers={"k": "v"}),
    R.Reply("a", 17, 0, b"pong"),
    R.Failure("a", 17, 0, int(R.Status.UNROUTABLE), "nobody serves 'orders'", "a"),
    R.Accepted([(1, 3), (5, 5)]),
    R.Settled("a", 17, [(1, 3)]),
    R.Cancel("a", 17, 0),
    R.GiveBack("a", 17, 0, 1, int(R.Status.OVERLOADED), "the queue of 'orders' at b is full", "queue_records", 100),
    R.Ask("a", 1001, 1, 34, 1002, [(17, 0), (17, 4)]),
    R.Answer("a", 1001, 1, 34, [(17, 0), (17, 4)], [int(R.Verdict.RUNNING), int(R.Verdict.NEVER)]),
    R.Floor("a", 17, 4, [(6, 7)]),
    R.FloorAsk("a", 17),
    R.Chunk(1, 0, b"\x00\x01\x02\x03"),
    R.ChunkAck(1, 1),
    R.Targets(2, [("a", 1), ("b", 2)]),
    R.Receipt("a", 17, 2, 3, 2, 1, 0),
    R.Query(1, "status"),
    R.Report(1, True, b"{}"),
]
"""One of each record, in the order of their tags."""


# What a type says


def number(value: int) -> str:
    """63-bit and smaller powers as powers, everything else in digits."""
    return f"2^{(value + 1).bit_length() - 1}-1" if value > 65_535 and value & (value + 1) == 0 else str(value)


def type_of(kind: inspect.Type) -> str:
    """The form of a field on the wire."""
    match kind:
        case inspect.BoolType():
            return "bool"
        case inspect.IntType():
            return "uint"
        case inspect.StrType():
            return "str"
        case inspect.BytesType():
            return "bin"
        case inspect.ListType():
            return f"array of {type_of(kind.item_type)}"
        case inspect.TupleType():
            return f"[{', '.join(map(type_of, kind.item_types))}]"
        case inspect.DictType():
            return f"map of {type_of(kind.key_type)} to {type_of(kind.value_type)}"
        case inspect.UnionType():
            return " or ".join(map(type_of, kind.types))
        case inspect.NoneType():
            return "nil"
    raise AssertionError(kind)


def bound_of(kind: inspect.Type) -> str:
    """The bounds of a field, from outside in."""
    match kind:
        case inspect.IntType():
            return f"{kind.ge} to {number(kind.le or 0)}"
        case inspect.StrType():
            return f"{kind.max_length} characters"
        case inspect.BytesType():
            return f"{min(kind.max_length or 0, records.BODY_INLINE_MAX)} bytes"
        case inspect.ListType():
            return f"{kind.max_length} items: {bound_of(kind.item_type)}"
        case inspect.TupleType():
            return ", ".join(dict.fromkeys(map(bound_of, kind.item_types)))
        case inspect.DictType():
            return f"{kind.max_length} items: {bound_of(kind.key_type)}, {bound_of(kind.value_type)}"
        case inspect.UnionType():
            return next(bound for bound in map(bound_of, kind.types) if bound)
    return ""


def default_of(field: inspect.Field) -> str:
    """What a field is when it is left out."""
    if field.default is NODEFAULT:
        return "required"
    return "empty" if field.default in ("", b"") else json.dumps(field.default).replace("null", "nil")


# The parts


def table(head: str, rows: list[list[str]], prose: dict[str, str]) -> str:
    """A table whose last column is prose, kept by the first."""
    names = head.split("|")
    lines = [names, ["---"] * len(names), *([*row, prose.get(row[0], "?")] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def record_table(name: str, prose: dict[str, str]) -> str:
    """The fields of a record, in order."""
    info = inspect.type_info(getattr(records, name))
    assert isinstance(info, inspect.StructType)
    rows = [[f"`{f.name}`", type_of(f.type), bound_of(f.type), default_of(f)] for f in info.fields]
    return table("field|type|bound|default|meaning", rows, prose)


def tag_table(_name: str, prose: dict[str, str]) -> str:
    """All records by tag."""
    rows = []
    for record in EXAMPLES:
        info = inspect.type_info(type(record))
        assert isinstance(info, inspect.StructType)
        rows.append([f"`{type(record).__name__}`", str(info.tag), f"1.{records.SINCE.get(type(record), 0)}"])
    return table("record|tag|since|who sends it", rows, prose)


def enum_table(name: str, prose: dict[str, str]) -> str:
    """The numbers of an enumeration."""
    members = getattr(records, name)
    return table("name|number|meaning", [[f"`{m.name}`", str(m.value)] for m in members], prose)


def limit_table(_name: str, prose: dict[str, str]) -> str:
    """Constants of the protocol."""
    return table("constant|value|meaning", [[f"`{name}`", str(value)] for name, value in LIMITS.items()], prose)


def option_table(_name: str, prose: dict[str, str]) -> str:
    """What two agents tell each other of their configured limits."""
    rows = [[f"`{name}`", str(getattr(LinkOptions(), name))] for name in link.LinkOptions.__struct_fields__]
    return table("option|default|on the wire as", rows, prose)


def transition_table(_name: str, prose: dict[str, str]) -> str:
    """Where each event leads from each phase."""
    rows = []
    for phase in Phase:
        cells = [TRANSITIONS.get((phase, event)) for event in Event]
        rows.append([f"`{phase.name}`", *(f"`{cell.name}`" if cell is not None else "" for cell in cells)])
    return table("|".join(["in", *(f"`{event.name}`" for event in Event), "meaning"]), rows, prose)


def block(lines: Iterator[str]) -> str:
    """Lines between fences."""
    return "```\n" + "".join(f"{line}\n" for line in lines) + "```\n"


def hexed(data: bytes) -> Iterator[str]:
    """Hexadecimal digits, in lines."""
    digits = data.hex()
    for start in range(0, len(digits), HEX_WIDTH):
        yield digits[start : start + HEX_WIDTH]


def example(name: str, _prose: dict[str, str]) -> str:
    """A batch that holds one record, as a value and as bytes."""
    (record,) = [record for record in EXAMPLES if type(record).__name__ == name]
    return block(iter([repr(record), *hexed(encode(0, [record]))]))


class Spoken(NamedTuple):
    """One batch that crossed a socket: which way, and its bytes."""

    way: str
    data: bytes


class Stage:
    """Two agents and an app at each, in a world without delays: what they say, in order."""

    def __init__(self) -> None:
        self.nodes = [
            Node(Identity(name, "prod", 1001 + place, Endpoint(f"10.0.0.{place + 1}", 7000)), NodeOptions(), 1, 1.0)
            for place, name in enumerate("ab")
        ]
        self.apps = [node.app_connected(Credentials(0, 1), 1.0) for node in self.nodes]
        self.links: dict[tuple[int, int], tuple[int, int]] = {}
        self.counters = [0, 0]
        self.spoken: list[Spoken] = []

    def say(self, place: int, *said: R.Record) -> None:
        """An app says something to its agent; then everybody speaks until all are silent."""
        data = encode(self.counters[place], said)
        self.counters[place] += 1
        self.spoken.append(Spoken(f"app at {'ab'[place]} → agent {'ab'[place]}", data))
        self.nodes[place].app_data(self.apps[place], data, 1.0)
        self.settle()

    def settle(self) -> None:
        """Let everybody speak until all are silent."""
        while self.turn(0) or self.turn(1):
            pass

    def turn(self, place: int) -> bool:
        """Carry out what an agent wants; whether it wanted anything."""
        output = self.nodes[place].take(1.0)
        name, other = "ab"[place], "ab"[1 - place]
        for _, data in output.app_data:
            self.spoken.append(Spoken(f"agent {name} → app at {name}", data))
        for conn, data in output.link_data:
            self.spoken.append(Spoken(f"agent {name} → agent {other}", data))
            there, number = self.links[place, conn]
            self.nodes[there].link_data(number, data, 1.0)
        for effect in output.effects:
            if isinstance(effect, OpenLink):
                number = self.nodes[1 - place].link_accepted(1.0)
                self.links[place, effect.conn], self.links[1 - place, number] = (
                    (1 - place, number),
                    (place, effect.conn),
                )
                self.nodes[place].link_connected(effect.conn, 1.0)
            elif isinstance(effect, Confirm):
                self.nodes[place].app_took(effect.app, effect.number, 1.0)
        return bool(output.app_data or output.link_data or output.effects)

    def know(self) -> None:
        """The matchmaker tells the first agent who serves ``orders``."""
        agent = AgentEntry("b", "10.0.0.2", 7000, 1002)
        instance = Instance("", "orders", "b-1", 34, agent)
        self.nodes[0].snapshot(Snapshot(TopicKey("", "orders"), 1, (instance,)), 1.0)
        self.settle()


def session(_name: str, _prose: dict[str, str]) -> str:
    """One call and one cast from an app, over two agents, to another app and back, from the first byte on."""
    return block(line for spoken in play() for line in (f"{spoken.way}: {names(spoken.data)}", *hexed(spoken.data)))


def play() -> list[Spoken]:
    """What is said in the session."""
    stage = Stage()
    stage.say(1, R.AppHello(0, 0, 34, 1, "shop"), R.Serve("orders", "b-1", 4, 256))
    stage.say(0, R.AppHello(0, 0, 17, 1, "web"), R.Request(int(R.Kind.CALL), 0, "orders", "", 10_000, b"ping"))
    stage.know()
    stage.say(1, R.Reply("a", 17, 0, b"pong"))
    stage.say(0, R.Request(int(R.Kind.CAST), 1, "orders", "", 300_000, b"note", floor=1))
    stage.say(1, R.Settled("a", 17, [(1, 1)]))
    return stage.spoken


def names(data: bytes) -> str:
    """The records of a batch, by name."""
    return ", ".join(type(record).__name__ for record in codec.decode(data).records)


PARTS: dict[str, Callable[[str, dict[str, str]], str]] = {
    "record": record_table,
    "tags": tag_table,
    "enum": enum_table,
    "limits": limit_table,
    "options": option_table,
    "transitions": transition_table,
    "example": example,
    "session": session,
}


def prose_of(old: str) -> dict[str, str]:
    """The last column of a table, by the first."""
    rows = [[cell.strip() for cell in line.strip("|\n ").split("|")] for line in old.splitlines() if line[0] == "|"]
    return {row[0]: row[-1] for row in rows}


def renewed(text: str) -> str:
    """The page with all of its parts brought up to date."""

    def part(match: re.Match[str]) -> str:
        kind, name, old = match[1], match[2], match[3] or ""
        return f"<!-- {kind}: {name} -->\n{PARTS[kind](name, prose_of(old))}"

    return MARK.sub(part, text)


def main() -> int:
    """Rewrite the page; returns the exit status."""
    text = DOC.read_text(encoding="utf-8")
    new = renewed(text)
    DOC.write_text(new, encoding="utf-8")
    print(f"protocol_doc: {'brought up to date' if new != text else 'nothing to do'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
