"""Recordings: what a node was told, in a form that it can be told again.

A recording is a row of **segments**, each a copy of the node's state and the inputs that came from then on; the last
one has no inputs, unless the node broke. A node that is restored from one segment's state and told its inputs arrives
at the next one's: the core is values in, values out. So an **input** is a call of one of `Node`'s entries, and nothing
else needs to be kept. Entries and the types of their arguments are read from `Node` itself.

Bytes that came in are kept as they came, for the core changes the records that it decodes from them.

In a file: the magic, then frames, each its length (``u32``, little-endian) and that many bytes of deflated MessagePack;
a `Header`, the `Segment` values, and a frame of length 0.
"""

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Union, get_type_hints

import msgspec
from msgspec import Raw, Struct, defstruct, msgpack, structs

from mesh.core.context import NodeOptions, State
from mesh.core.durable import pack, unpack
from mesh.core.ledger import Fetched, Shown, Word
from mesh.core.node import Node
from mesh.core.records import Chunk, Reply, Request

__all__ = [
    "ENTRIES",
    "FAILURE_CHARS_MAX",
    "FORMAT",
    "RECORDING_BYTES_MAX",
    "Header",
    "Input",
    "Kept",
    "Recording",
    "Segment",
    "apply",
    "arguments_of",
    "blank_batch",
    "blank_state",
    "digest",
    "name_of",
    "read",
    "write",
]

MAGIC = b"heartmesh recording\n"
FORMAT = 1
"""Rises with every change of a recording's form. The state in it is that of one version of the agent only."""

RECORDING_BYTES_MAX = 1 << 30
"""Bytes of a recording as it is read, deflated or not."""

FAILURE_CHARS_MAX = 500
"""What is kept of the text of an exception."""

Input = Struct
"""One call of an entry: a struct whose tag is its name and whose fields are its arguments, in order."""

_LENGTH = struct.Struct("<I")
_NO_BATCH = b"\xc1"  # a byte that MessagePack never uses


def _entries() -> dict[str, type[Struct]]:
    """Return a struct for the arguments of each entry of a node: what is told the time, and what asks for it."""
    entries = {}
    for name, method in vars(Node).items():
        if name.startswith("_") or not callable(method):
            continue
        types = get_type_hints(method)
        if "now" not in types and name != "deadline":
            continue
        fields = [(field, bytes if kind == bytes | memoryview else kind) for field, kind in types.items()]
        entries[name] = defstruct(
            name, [field for field in fields if field[0] != "return"], array_like=True, tag=name, module=__name__
        )
    return entries


ENTRIES = _entries()
"""Every entry of a node: a struct of its arguments, in order, by its name."""


class Header(Struct, frozen=True):
    """What a recording is of. ``version``: the agent's; ``failure``: what the last input raised, if it did."""

    node: str
    incarnation: int
    version: str
    reason: str
    written_unix_ms: int
    bodies: bool
    options: NodeOptions
    failure: str = ""


class Kept(Struct, frozen=True):
    """A segment as it was kept: a node's state in MessagePack, and each input as ``(name, argument, …)``."""

    state: bytes
    inputs: list[tuple[Any, ...]]


class Segment(Struct, frozen=True):
    """A segment as it was read."""

    state: bytes
    inputs: list[Input]

    def node(self, options: NodeOptions) -> Node:
        """Return a node in the state with which this begins; raises ValueError for a state of another version."""
        try:
            return Node.restored(msgpack.decode(self.state, type=State), options)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ValueError(f"the state in this recording is that of another version's node: {error}") from None


_segment_decoder = msgpack.Decoder(
    defstruct("_Segment", [("state", bytes), ("inputs", list[Union[tuple(ENTRIES.values())]])])  # type: ignore[misc]  # noqa: UP007
)


class Recording(Struct, frozen=True):
    """A recording as it was read."""

    header: Header
    segments: list[Segment]


def name_of(input: Input) -> str:
    """Return the entry that an input is a call of."""
    return str(input.__struct_config__.tag)


def arguments_of(input: Input) -> dict[str, Any]:
    """Return an input's arguments by name."""
    return structs.asdict(input)


def apply(node: Node, input: Input) -> Any:
    """Tell a node an input; return what it returns, and raise what it raises."""
    method: Callable[..., Any] = getattr(node, name_of(input))
    code = getattr(Node, name_of(input)).__code__
    values = structs.astuple(input)
    placed = code.co_argcount - 1
    names = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    return method(*values[:placed], **dict(zip(names, values[placed:], strict=True)))


# Without bodies

_fields_decoder = msgpack.Decoder(tuple[Raw, list[list[Raw]]])
_BODY_AT = {
    msgpack.encode(record.__struct_config__.tag): 1 + record.__struct_fields__.index("body")
    for record in (Request, Reply, Chunk)
}


def blank_batch(data: bytes) -> bytes:
    """Return a batch with the bodies in it as so many zeros, all else as it was; what is no batch is no other then."""
    try:
        counter, records = _fields_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _NO_BATCH * len(data)
    for fields in records:
        at = _BODY_AT.get(bytes(fields[0])) if fields else None
        if at is not None and at < len(fields):
            fields[at] = _blank_body(fields[at])
    return msgpack.encode((counter, records))


def _blank_body(field: Raw) -> Raw:
    """Return a body's field with zeros in it; one that holds something else is kept, for its record is refused."""
    try:
        return Raw(msgpack.encode(bytes(len(msgpack.decode(field, type=bytes)))))
    except msgspec.MsgspecError:
        return Raw(b"\xc0")


def blank_state(state: bytes) -> bytes:
    """Return an encoded state with every byte string in it as so many zeros: names and numbers decide, bodies never."""
    return msgpack.encode(_blanked(msgpack.decode(state)))


def _blanked(value: Any) -> Any:
    if type(value) is bytes:
        return bytes(len(value))
    if type(value) is list:
        return [_blanked(item) if type(item) in _HOLDERS else item for item in value]
    return {key: _blanked(item) if type(item) in _HOLDERS else item for key, item in value.items()}


_HOLDERS = (bytes, list, dict)


def digest(state: State, *, bodies: bool) -> str:
    """Return a short name of a state: equal for equal states. ``bodies``: whether they count."""
    data = msgpack.encode(msgpack.decode(msgpack.encode(state), type=State))
    return hashlib.sha256(data if bodies else blank_state(data)).hexdigest()[:16]


# Files


def write(header: Header, segments: Iterable[Kept]) -> Iterator[bytes]:
    """Yield the parts of a file. Unless the header says ``bodies``, they are left out here."""
    yield MAGIC + _frame(FORMAT) + _frame(header)
    for segment in segments:
        yield _frame(segment if header.bodies else _without_bodies(segment))
    yield _LENGTH.pack(0)


def _without_bodies(segment: Kept) -> Kept:
    inputs = [
        (name, _blank_word(values[0]), *values[1:])
        if name == "spooled"
        else (name, *(blank_batch(value) if type(value) is bytes else value for value in values))
        for name, *values in segment.inputs
    ]
    return Kept(blank_state(segment.state), inputs)


def _blank_word(encoded: Raw) -> Raw:
    """Return a word of the spool with zeros for the bodies in it."""
    word = msgpack.decode(encoded, type=Word)
    if isinstance(word, Fetched):
        word = structs.replace(word, rows=[structs.replace(r, record=_blank_record(r.record)) for r in word.rows])
    elif isinstance(word, Shown):
        word = structs.replace(word, body=bytes(len(word.body)))
    return Raw(msgpack.encode(word))


def _blank_record(record: bytes) -> bytes:
    """Return a spool's record with zeros for a body; one that cannot be read is not read then either."""
    try:
        request = unpack(record)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _NO_BATCH * len(record)
    request.body = bytes(len(request.body))
    return pack(request)


def _frame(value: object) -> bytes:
    data = zlib.compress(msgpack.encode(value), 1)
    return _LENGTH.pack(len(data)) + data


def read(data: bytes) -> Recording:
    """Return what a file holds; raises ValueError that says why it is no recording that can be replayed here."""
    if not data.startswith(MAGIC):
        raise ValueError("this is no recording of heartmesh: it does not begin as one")
    frames = _frames(memoryview(data)[len(MAGIC) :])
    try:
        form = msgpack.decode(next(frames), type=int)
        if form != FORMAT:
            raise ValueError(f"this recording has format {form}, and this version reads {FORMAT}: use the agent's own")
        header = msgpack.decode(next(frames), type=Header)
        segments = [Segment(*structs.astuple(_segment_decoder.decode(frame))) for frame in frames]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, StopIteration, zlib.error) as error:
        raise ValueError(f"this recording is damaged, or was made by another version: {error}") from None
    return Recording(header, segments)


def _frames(data: memoryview) -> Iterator[bytes]:
    """Yield the frames, inflated, up to the one that ends a recording."""
    start, room = 0, RECORDING_BYTES_MAX
    while True:
        if len(data) - start < _LENGTH.size:
            break
        (length,) = _LENGTH.unpack_from(data, start)
        start += _LENGTH.size
        if not length:
            return
        if len(data) - start < length:
            break
        inflater = zlib.decompressobj()
        frame = inflater.decompress(data[start : start + length], room)
        if not inflater.eof:
            raise ValueError(f"this recording is damaged, or holds more than {RECORDING_BYTES_MAX} bytes")
        room -= len(frame)
        start += length
        yield frame
    raise ValueError(f"this recording was cut off: it ends after {len(data)} bytes in the middle of something")
