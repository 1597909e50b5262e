"""The records of the protocol: one schema for the app hop and the peer hop.

A **record** is ``[tag, field, …]`` in MessagePack; records travel in batches (`codec`).
Bounds written here are constants of the protocol, checked in C while decoding. Configured limits are smaller and are
answered record by record. A new field goes last, with a default; trailing fields that a decoder does not know are
skipped. A new record gets a new tag and the minor it came with (``SINCE``), and is sent only to those who agreed on it.

The calling app, its agent, the server's agent and the serving app share these records. A `Request` goes that way; a
`Reply`, `Failure` or `Settled` comes back by it. Agents fill in what the sender cannot be trusted with. Times are
remaining milliseconds; clocks are never compared. Identity is ``(node, session, seq)`` of the caller.
"""

from typing import Annotated

from msgspec import Meta, Struct

from mesh.core.vocabulary import (
    BODY_BYTES_MAX,
    BODY_INLINE_MAX,
    PROTOCOL_MINOR,
    TIMEOUT_MS_MAX,
    TOKEN_BYTES_MAX,
    Flag,
    Kind,
    RefuseReason,
    Status,
    Verdict,
)

__all__ = [
    "BODY_BYTES_MAX",
    "BODY_INLINE_MAX",
    "PROTOCOL_MINOR",
    "SINCE",
    "TIMEOUT_MS_MAX",
    "TOKEN_BYTES_MAX",
    "Accepted",
    "Answer",
    "AppHello",
    "AppWelcome",
    "Ask",
    "Cancel",
    "Chunk",
    "ChunkAck",
    "Credit",
    "DialBack",
    "DialledBack",
    "Failure",
    "Flag",
    "Floor",
    "FloorAsk",
    "GiveBack",
    "Goodbye",
    "Hello",
    "Keep",
    "Kind",
    "Ping",
    "Pong",
    "Query",
    "Reach",
    "Receipt",
    "Record",
    "Refuse",
    "RefuseReason",
    "Reply",
    "Report",
    "Request",
    "Serve",
    "Serving",
    "Settled",
    "Status",
    "Stay",
    "Targets",
    "Unserve",
    "Verdict",
    "Welcome",
]

U63 = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
U32 = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
U16 = Annotated[int, Meta(ge=0, le=(1 << 16) - 1)]
Millis = Annotated[int, Meta(ge=0, le=TIMEOUT_MS_MAX)]
Node = Annotated[str, Meta(max_length=128)]
Name = Annotated[str, Meta(max_length=255)]
Text = Annotated[str, Meta(max_length=16_384)]
Body = Annotated[bytes, Meta(max_length=BODY_INLINE_MAX)]
Whole = Annotated[bytes, Meta(max_length=BODY_BYTES_MAX)]  # as nodes keep it; `codec` holds a record to BODY_INLINE_MAX
Blob = Annotated[bytes, Meta(max_length=65_536)]
Token = Annotated[bytes, Meta(max_length=TOKEN_BYTES_MAX)]
Headers = Annotated[dict[Annotated[str, Meta(max_length=256)], Text], Meta(max_length=64)]
Ranges = Annotated[list[tuple[U63, U63]], Meta(max_length=4_096)]
Ids = Ranges  # pairs of session and seq
Stamps = Annotated[list[tuple[Name, U63, U63, U63]], Meta(max_length=8)]  # see `stamps`


class _Wire(Struct, array_like=True, gc=False):
    """The form of every record: an array whose first element is the tag."""


class Hello(_Wire, tag=1):
    """Dialler → accepter, first on a link. ``meant`` is the node the dialler expects to find there. A ``probe`` wants
    no link: the accepter judges it likewise, and says REFUSE with REACHED in place of WELCOME."""

    protocol_min: U16
    protocol_max: U16
    fleet: Name
    node: Node
    incarnation: U63
    link_no: U63
    meant: Node
    host: Name
    port: U16
    heartbeat_ms: Millis
    dead_after_ms: Millis
    body_bytes_max: U63
    chunk_bytes: U32
    chunks_in_flight: U16
    credit_records: U32
    credit_bytes: U63
    persistent: bool = False
    draining: bool = False
    certificate: Blob = b""
    probe: bool = False


class Welcome(_Wire, tag=2):
    """Accepter → dialler, the only answer to HELLO but REFUSE. ``protocol`` is the minor that was agreed."""

    protocol: U16
    fleet: Name
    node: Node
    incarnation: U63
    link_no: U63
    heartbeat_ms: Millis
    dead_after_ms: Millis
    body_bytes_max: U63
    chunk_bytes: U32
    chunks_in_flight: U16
    credit_records: U32
    credit_bytes: U63
    draining: bool = False
    certificate: Blob = b""


class Refuse(_Wire, tag=3):
    """Either end, instead of a welcome; the connection closes. ``greater`` is the incarnation to exceed. On the peer
    hop the refuser shows its certificate: whoever is not proven has its refusal taken for a dial that failed.
    ``limit``: on the app hop, the option reached."""

    reason: U16
    text: Text
    greater: U63 = 0
    retry_after_ms: Millis = 0
    certificate: Blob = b""
    limit: Name = ""


class Ping(_Wire, tag=4):
    """Either end; answered by PONG with the same stamp, which means something only to the sender."""

    stamp: U63


class Pong(_Wire, tag=5):
    """The answer to PING."""

    stamp: U63


class Keep(_Wire, tag=6):
    """Peer hop: whether the sender wants this link persistent. A link is persistent while either end does."""

    persistent: bool


class Goodbye(_Wire, tag=7):
    """Either end: I start nothing new here; closes when both said it. If not `final`, who needs it says `Stay`."""

    reason: Text = ""
    final: bool = False


class Credit(_Wire, tag=8):
    """How many requests, and bytes of their bodies, the receiver may send in all since this connection's welcome."""

    records: U63
    bytes: U63


class DialBack(_Wire, tag=9):
    """Peer hop: please dial the address that my HELLO, or the catalogue, says of me, and tell me what came of it."""


class DialledBack(_Wire, tag=10):
    """The answer to DIAL_BACK: which address was dialled, and whether its sender was found there; ``text``: why not."""

    address: Text
    reached: bool
    text: Text = ""


class Stay(_Wire, tag=11):
    """The answer to a goodbye that is not final, of an end that has something open: the link is open as before."""


class AppHello(_Wire, tag=16):
    """App → agent, first. ``session`` survives reconnects; ``connection`` rises with each, and the greatest wins."""

    protocol_min: U16
    protocol_max: U16
    session: U63
    connection: U63
    app: Name
    namespace: Name = ""
    fleet: Name = ""
    token: Token = b""


class AppWelcome(_Wire, tag=17):
    """Agent → app. An app keeps its unsettled records within the two ``outstanding`` limits."""

    protocol: U16
    fleet: Name
    node: Node
    incarnation: U63
    heartbeat_ms: Millis
    body_bytes_max: U63
    chunk_bytes: U32
    chunks_in_flight: U16
    outstanding_records: U32
    outstanding_bytes: U63
    session_window: U32
    call_timeout_ms_max: Millis
    resume_grace_ms: Millis
    draining: bool = False


class Serve(_Wire, tag=18):
    """App → agent: requests for this topic may come. ``workers`` bounds the calls it is handed at once, ``prefetch``
    the repeatable work (casts, idempotent calls). Said again with other numbers it replaces the first."""

    topic: Name
    server: Name
    workers: U32 = 1
    prefetch: U32 = 256


class Serving(_Wire, tag=19):
    """Agent → app: the answer to SERVE (``ok``) or why not; and to UNSERVE, when nothing of it is left (not ``ok``).
    With the ``rule`` of the policy that is against it, not ``ok`` may also come later, and ``ok`` again after that."""

    topic: Name
    server: Name
    ok: bool
    text: Text = ""
    rule: Name = ""


class Unserve(_Wire, tag=20):
    """App → agent: hand me nothing more of this topic; what I hold I finish."""

    topic: Name
    server: Name


class Reach(_Wire, tag=21):
    """Agent → app, before its first record goes to the serving ``session`` of ``node`` (0: a fan-out), whose agent is
    at ``host`` and ``port`` with ``public_key``; replayed to a new agent. ``over``: nothing of the app is there now."""

    node: Node
    incarnation: U63
    session: U63 = 0
    host: Name = ""
    port: U16 = 0
    over: bool = False
    public_key: Name = ""


class Request(_Wire, tag=32):
    """A call, a cast or a fan-out.

    From an app ``node``, ``session`` and ``namespace`` are empty: its agent fills them in. ``target`` is the serving
    session that the caller's agent chose; 0 in a fan-out: every one of the node, of which ``instances`` are counted on.
    ``floor``: every seq of this session below it is settled. ``size`` above zero: the body follows as chunks of
    ``stream``. ``dispatch`` counts how often the caller's agent has sent it; the rest does not change on a resend.
    ``monitor_ms`` above zero: the call is lost when nothing shows for so long that the serving app is alive.
    ``user``: whose the app is, as its agent says; empty: nobody's that it could name. ``trace``: a call that is to
    tell where its time goes; every place that it comes through adds a stamp.
    """

    kind: Annotated[int, Meta(ge=0, le=2)]
    seq: U63
    topic: Name
    server: Name
    timeout_ms: Millis
    body: Whole
    flags: U16 = 0
    floor: U63 = 0
    headers: Headers | None = None
    size: U63 = 0
    stream: U63 = 0
    node: Node = ""
    session: U63 = 0
    namespace: Name = ""
    target: U63 = 0
    dispatch: U32 = 0
    monitor_ms: Millis = 0
    instances: U32 = 0
    user: Name = ""
    trace: Stamps | None = None


class Reply(_Wire, tag=33):
    """The handler of a call ended well. It carries where it goes, so no agent on the way needs memory to route it.
    ``trace``: the stamps of its request; each place on the way back marks the last that is not marked yet."""

    node: Node
    session: U63
    seq: U63
    body: Whole
    headers: Headers | None = None
    size: U63 = 0
    stream: U63 = 0
    trace: Stamps | None = None


class Failure(_Wire, tag=34):
    """Any other end of a call or cast. ``limit``: the option reached; ``error_type``: the remote exception's class;
    ``rule``: of the policy, that was against it."""

    node: Node
    session: U63
    seq: U63
    status: Annotated[int, Meta(ge=1, le=8)]
    text: Text
    where: Node = ""
    limit: Name = ""
    error_type: Name = ""
    traceback: Text = ""
    retry_after_ms: Millis = 0
    rule: Name = ""


class Accepted(_Wire, tag=35):
    """Agent → app: it holds these casts and fan-outs (ranges of seq, both ends included)."""

    ranges: Ranges


class Settled(_Wire, tag=36):
    """Casts whose handler ended, as ranges of seq of one session: serving app → … → calling app, once a turn."""

    node: Node
    session: U63
    ranges: Ranges
    failed: U32 = 0


class Cancel(_Wire, tag=37):
    """The caller gave this message up: forget it if it has not begun, tell the handler if it has."""

    node: Node
    session: U63
    seq: U63


class GiveBack(_Wire, tag=38):
    """Serving side → caller's agent → calling app: this dispatch was not run and is forgotten here; place it elsewhere,
    or, an app, keep it for the agent that comes next."""

    node: Node
    session: U63
    seq: U63
    dispatch: U32
    status: Annotated[int, Meta(ge=1, le=8)]
    text: Text
    limit: Name = ""
    retry_after_ms: Millis = 0
    rule: Name = ""


class Ask(_Wire, tag=39):
    """Caller's agent (``node``) → serving side: what became of these ``(session, seq)`` that went to ``target``?

    ``reached`` is the incarnation of the serving agent that they were sent to. The nonce ``(incarnation, number)``
    is echoed; only the answer to the latest question counts. An agent of a later incarnation hands it to the app.
    ``alive``: the app itself must answer for what it was handed, and nobody for what is not known; the number is 0.
    """

    node: Node
    incarnation: U63
    number: U63
    target: U63
    reached: U63
    ids: Ids
    alive: bool = False


class Answer(_Wire, tag=40):
    """The answer to ASK, to ``node``: one verdict for each id, in its order."""

    node: Node
    incarnation: U63
    number: U63
    target: U63
    ids: Ids
    verdicts: Annotated[list[U16], Meta(max_length=4_096)]


class Floor(_Wire, tag=41):
    """All seqs of the session below ``floor`` are settled, and those in ``settled`` above it."""

    node: Node
    session: U63
    floor: U63
    settled: Ranges


class FloorAsk(_Wire, tag=42):
    """Holder → the session's agent → its app: nothing was heard of your floor for a while; say it. ``node``: of the
    session, and towards the session that of the holder, which its answer bears."""

    node: Node
    session: U63


class Chunk(_Wire, tag=43):
    """A piece of the body that a REQUEST or REPLY announced as ``stream`` on this connection, numbered from 0."""

    stream: U63
    number: U32
    body: Body


class ChunkAck(_Wire, tag=44):
    """``count`` chunks of the stream have arrived. ``abort`` says that the receiver wants no more of it."""

    stream: U63
    count: U32
    abort: bool = False


class Targets(_Wire, tag=45):
    """Agent → app, before a fan-out is sent: the nodes it goes to; before a request is placed again of which processes
    died: how many. Replayed to a new agent."""

    seq: U63
    nodes: Annotated[list[tuple[Node, U32]], Meta(max_length=16_384)]
    attempts: U32 = 0


class Receipt(_Wire, tag=46):
    """What became of a fan-out: how many instances were asked, and how many finished, failed, or are unknown."""

    node: Node
    session: U63
    seq: U63
    asked: U32
    finished: U32
    failed: U32
    unknown: U32


class Query(_Wire, tag=48):
    """App → agent: ask it about itself (``status``, ``links``, ``topics`` …). Agent → agent: ``view``, which tells
    little enough for one record (`views.NodeView`)."""

    seq: U63
    what: Name
    arguments: Headers | None = None


class Report(_Wire, tag=49):
    """The answer to QUERY, as JSON; ``ok`` False makes it the text of an error."""

    seq: U63
    ok: bool
    body: Body


_Connection = Hello | Welcome | Refuse | Ping | Pong | Keep | Goodbye | Credit | DialBack | DialledBack | Stay
_AppHop = AppHello | AppWelcome | Serve | Serving | Unserve | Reach
_Outcome = Request | Reply | Failure | Accepted | Settled | Cancel | GiveBack
_Upkeep = Ask | Answer | Floor | FloorAsk | Chunk | ChunkAck | Targets | Receipt
Record = _Connection | _AppHop | _Outcome | _Upkeep | Query | Report

SINCE: dict[type, int] = {}
"""Records that came after minor 0, and the minor they came with."""
