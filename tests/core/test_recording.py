"""Recordings: every entry of a node can be kept and told again, bodies left out; what is no recording is named."""

import zlib
from pathlib import Path
from typing import Any

import msgspec.inspect
import pytest
from msgspec import Raw, msgpack

from mesh.core import recording
from mesh.core.catalogue import AgentEntry, Instance, Snapshot
from mesh.core.codec import decode, encode
from mesh.core.context import NodeOptions
from mesh.core.durable import pack, unpack
from mesh.core.ledger import Away, Fetched, Shown
from mesh.core.ledger import Kept as Row
from mesh.core.node import Node
from mesh.core.recording import (
    ENTRIES,
    Header,
    Kept,
    Recording,
    apply,
    arguments_of,
    blank_batch,
    blank_state,
    digest,
    name_of,
    read,
    write,
)
from mesh.core.records import AppHello, Chunk, Flag, Ping, Reply, Request
from mesh.core.session import Credentials
from mesh.types import TopicKey
from tests.core.fabric import lone_node

HEADER = Header("a", 1, "1.0", "asked", 0, False, NodeOptions())
SECRET = b"a body that is nobody's business"


def kept(node: Node, *inputs: tuple[Any, ...]) -> Kept:
    return Kept(msgpack.encode(node.state), list(inputs))


def recorded(*segments: Kept, header: Header = HEADER) -> Recording:
    return read(b"".join(write(header, segments)))


def asking(body: bytes = SECRET) -> list[tuple[Any, ...]]:
    """An app that connects and asks for what nobody serves yet."""
    request = Request(0, 0, "orders", "", 50_000, body, Flag.WAIT)
    return [
        ("app_connected", Raw(msgpack.encode(Credentials(1, 2))), 1.0),
        ("app_data", 1, encode(0, [AppHello(0, 0, 11, 1, "shell"), request]), 1.1),
        ("take", 1.2),
        ("deadline",),
    ]


def test_every_way_into_a_node_is_an_entry() -> None:
    ways = {name for name in vars(Node) if not name.startswith("_")} - {"copy", "restored"}
    assert ways == set(ENTRIES)


@pytest.mark.parametrize("name", ENTRIES)
def test_every_argument_is_of_a_type_that_can_be_read_again(name: str) -> None:
    info = msgspec.inspect.type_info(ENTRIES[name])
    assert isinstance(info, msgspec.inspect.StructType)
    assert [] == [field.name for field in info.fields if isinstance(field.type, msgspec.inspect.CustomType)]


def test_inputs_are_read_as_calls_and_told_to_a_node() -> None:
    one, other = lone_node(), lone_node()
    (segment,) = recorded(kept(one, *asking())).segments
    assert ["app_connected", "app_data", "take", "deadline"] == list(map(name_of, segment.inputs))
    assert {"credentials": Credentials(1, 2), "now": 1.0} == arguments_of(segment.inputs[0])
    results = [apply(other, input) for input in segment.inputs]
    assert 1 == results[0]
    assert [1] == [conn for conn, _ in results[2].app_data]
    assert "shell" == other.state.apps[11].name


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("app_closed", (1, 2.0, True)),
        ("snapshot", (Snapshot(TopicKey("", "t"), 1, (Instance("", "t", "s", 1, AgentEntry("b", "h", 1, 2)),)), 2.0)),
        ("link_lost", (1, "reset", 2.0)),
        ("answered", (11, 1, True, b"{}", 2.0)),
    ],
)
def test_arguments_of_any_kind_come_back(name: str, arguments: tuple[Any, ...]) -> None:
    one = lone_node()
    one.app_connected(Credentials(), 1.0)
    (segment,) = recorded(kept(one, (name, *[Raw(msgpack.encode(value)) for value in arguments]))).segments
    assert arguments == tuple(arguments_of(segment.inputs[0]).values())
    apply(one, segment.inputs[0])


def test_a_node_goes_on_from_a_segments_state() -> None:
    one = lone_node()
    (segment,) = recorded(kept(one)).segments
    assert one.state == segment.node(NodeOptions()).state


def test_a_state_of_another_version_is_refused() -> None:
    (segment,) = recorded(Kept(msgpack.encode({"rng": "none"}), [])).segments
    with pytest.raises(ValueError, match="another version's node: .*rng"):
        segment.node(NodeOptions())


# Bodies


def test_bodies_are_left_out_unless_asked_for() -> None:
    one = lone_node()
    segments = [kept(one, *asking())]
    (without,) = recorded(*segments).segments
    assert SECRET not in msgpack.encode(without)
    (request,) = decode(arguments_of(without.inputs[1])["data"]).records[1:]
    assert isinstance(request, Request)
    assert bytes(len(SECRET)) == request.body
    (whole,) = recorded(*segments, header=msgspec.structs.replace(HEADER, bodies=True)).segments
    assert SECRET in msgpack.encode(whole)


def test_a_batch_without_bodies_has_its_length_and_everything_else() -> None:
    request, reply = Request(0, 7, "orders", "", 100, SECRET, headers={"k": "v"}), Reply("a", 1, 2, SECRET)
    data = encode(5, [Ping(3), request, reply, Chunk(1, 0, SECRET)])
    blank = blank_batch(data)
    assert len(data) == len(blank)
    zeros = request.body = reply.body = bytes(len(SECRET))
    assert (5, [Ping(3), request, reply, Chunk(1, 0, zeros)]) == (decode(blank).counter, decode(blank).records)


@pytest.mark.parametrize("data", [b"", b"\xc1", SECRET, msgpack.encode([0, 1]), msgpack.encode([0, ["x"]])])
def test_what_is_no_batch_is_another_that_is_none(data: bytes) -> None:
    assert len(data) * b"\xc1" == blank_batch(data)


@pytest.mark.parametrize("fields", [[], [32], [32, 0, 1, "t", "", 5, "a text"], [99, SECRET]])
def test_records_that_are_none_stay_so(fields: list[Any]) -> None:
    data = blank_batch(msgpack.encode([0, [fields]]))
    assert b"text" not in data
    with pytest.raises(msgspec.MsgspecError):
        msgpack.decode(data, type=tuple[int, list[Request | Reply | Chunk]])


def test_a_state_without_bodies_decides_the_same() -> None:
    one = lone_node()
    (segment,) = recorded(kept(one, *asking())).segments
    for input in segment.inputs:
        apply(one, input)
    two = lone_node()
    for input in recorded(kept(two, *asking()), header=msgspec.structs.replace(HEADER, bodies=True)).segments[0].inputs:
        apply(two, input)
    assert digest(one.state, bodies=True) != digest(two.state, bodies=True)
    assert digest(one.state, bodies=False) == digest(two.state, bodies=False)
    blanked = blank_state(msgpack.encode(two.state))
    assert (False, True) == (SECRET in blanked, b"orders" in blanked)


# Files


def parts() -> list[bytes]:
    return list(write(HEADER, [kept(lone_node(), *asking())]))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "no recording of heartmesh"),
        (b"\x7fELF and so on", "no recording of heartmesh"),
        (b"".join(parts()[:-1]), "cut off: it ends after"),
        (b"".join(parts())[:-7], "cut off: it ends after"),
        (b"".join(parts())[:-4] + b"\x01", "cut off: it ends after"),
        (recording.MAGIC + recording._frame(2) + bytes(4), "has format 2, and this version reads 1"),
        (recording.MAGIC + bytes(4), "damaged"),
        (recording.MAGIC + recording._frame(1) + recording._frame([1]) + bytes(4), "damaged.*Header|damaged.*object"),
        (recording.MAGIC + b"\x03\0\0\0abc" + bytes(4), "damaged"),
        (parts()[0] + recording._frame({"state": b"", "inputs": [["format_disk"]]}) + bytes(4), "format_disk"),
    ],
)
def test_a_file_that_cannot_be_replayed_says_why(data: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        read(data)


def test_a_file_that_swells_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "RECORDING_BYTES_MAX", 1 << 20)
    bomb = zlib.compress(bytes(2 << 20))
    with pytest.raises(ValueError, match="holds more than 1048576 bytes"):
        read(recording.MAGIC + recording._frame(1) + len(bomb).to_bytes(4, "little") + bomb + bytes(4))


def test_a_recording_is_read_as_it_was_written(tmp_path: Path) -> None:
    header = msgspec.structs.replace(HEADER, failure="AssertionError: no", reason="crash")
    found = recorded(kept(lone_node()), kept(lone_node()), header=header)
    assert (header, 2) == (found.header, len(found.segments))


def test_what_the_spool_said_is_kept_without_bodies_and_can_be_read_by_a_replay() -> None:
    cast = Request(1, 3, "mail", "", 1_000, b"secret" * 9, int(Flag.DURABLE))
    words = [
        Fetched(TopicKey("", "mail"), [Row(1, 7, 3, 1.0, pack(cast)), Row(2, 7, 4, 1.0, b"secret")], False),
        Shown(7, 1, True, b"secret", None, []),
        Away("no room"),
    ]
    inputs = [("spooled", Raw(msgpack.encode(word)), 1.0) for word in words]
    (segment,) = recorded(kept(lone_node(), *inputs)).segments
    fetched, shown, away = (arguments_of(one)["word"] for one in segment.inputs)
    assert bytes(54) == unpack(fetched.rows[0].record).body
    assert (b"secret" not in msgpack.encode(fetched), bytes(6), words[2]) == (True, shown.body, away)
