"""One link: the life of one connection between two agents.

A link has an end that dialled and an end that accepted. The dialler speaks first: HELLO, with who it is and whom it
means to reach. The accepter checks that and answers WELCOME or REFUSE. Nothing else is sent before WELCOME. From then
on both ends are equal: either sends requests and replies, pings when it has nothing else to send, and says GOODBYE
when it will start nothing new. The link closes when both have said so and nothing is open on it. An end that has
something open answers STAY to a goodbye that is not final, for what it sent may have crossed that: the link is open
again.

Two nodes that dial each other at once (**glare**) end with one link. The node whose id is larger answers WELCOME and
drops its own dial. The smaller one, once its own HELLO is out, *holds* the other's HELLO until its own dial is
decided. The losing dial carried nothing, so nothing is lost with it.

Two numbers keep the past from speaking. An agent's **incarnation** is greater at each start; every HELLO and WELCOME
also carries a **link number**, one more with each that is sent to that peer. A receiver remembers the greatest pair
that it has seen of a node and ignores requests that come by a lesser one: a pipe thought dead that is read after all
must not make anything run twice.

A newcomer with a greater incarnation, while a link of the same node id is alive, is either the same machine after a
crash that nobody has noticed yet or a second machine with a stolen name. So the incumbent is **challenged** with a
ping. If it answers, the newcomer is refused as a duplicate; if not, it takes over.

The table below holds every transition there is. `advance` is the only way to change a link's phase.
"""

import enum
from typing import Annotated

from msgspec import Meta, Struct, field

from mesh.core.chunks import Chunker
from mesh.core.identity import Proof
from mesh.core.liveness import Liveness, LivenessOptions
from mesh.core.records import BODY_BYTES_MAX, PROTOCOL_MINOR, Goodbye, Hello, Record, Refuse, RefuseReason, Welcome
from mesh.types import Endpoint

__all__ = [
    "OPEN",
    "TRANSITIONS",
    "Event",
    "Judgement",
    "Link",
    "LinkOptions",
    "Phase",
    "Ruling",
    "Seen",
    "advance",
    "judge_hello",
    "judge_welcome",
    "stay",
]


class LinkOptions(Struct, frozen=True):
    """The terms of links, told in HELLO and WELCOME."""

    hello_timeout_s: Annotated[
        float,
        Meta(
            ge=0.05,
            le=60,
            description="A connection that has not shown who it is by then is closed. Longer lets slow machines in "
            "and lets silent ones hold a place.",
        ),
    ] = 2.0
    drain_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="How long a draining agent, or a link after its GOODBYE, waits for what is open. Keep it "
            "below the service manager's stop timeout.",
        ),
    ] = 30.0
    chunk_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=1 << 20,
            description="Bodies larger than this travel in chunks of this size. Smaller lets heartbeats through "
            "sooner on slow networks, larger costs less for each byte.",
        ),
    ] = 256 << 10
    chunks_in_flight: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="Unacknowledged chunks on one connection. More fills long fat networks, fewer bounds what a "
            "heartbeat waits behind.",
        ),
    ] = 2
    body_bytes_max: Annotated[
        int,
        Meta(
            ge=1024,
            le=BODY_BYTES_MAX,
            description="The largest body of a message; larger ones are Rejected before they are sent. It bounds the "
            "memory that one message can take at each hop.",
        ),
    ] = 64 << 20
    credit_records: Annotated[
        int,
        Meta(
            ge=16,
            le=1 << 20,
            description="Requests that a peer may have sent on a link without their being taken up. More hides "
            "latency, fewer bounds memory.",
        ),
    ] = 8192
    credit_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 30,
            description="Bytes of request bodies likewise. Keep it above chunk_bytes.",
        ),
    ] = 16 << 20


class Phase(enum.IntEnum):
    """Where a link is in its life."""

    DIALLING = 0
    GREETING = 1
    UNPROVEN = 2
    HELD = 3
    OPEN = 4
    LEAVING = 5
    CLOSED = 6


OPEN = Phase.OPEN
"""By a name of its own, as in `mesh.core.vocabulary`, for it is asked for with every message."""


class Event(enum.IntEnum):
    """What happens to a link."""

    CONNECTED = 0
    WELCOMED = 1
    ACCEPTED = 2
    HELD = 3
    REFUSED = 4
    GOODBYE = 5
    LOST = 6
    STAY = 7


TRANSITIONS: dict[tuple[Phase, Event], Phase] = {
    # The dialler's end: connect, say HELLO, be welcomed.
    (Phase.DIALLING, Event.CONNECTED): Phase.GREETING,
    (Phase.DIALLING, Event.LOST): Phase.CLOSED,
    (Phase.GREETING, Event.WELCOMED): Phase.OPEN,
    (Phase.GREETING, Event.REFUSED): Phase.CLOSED,
    (Phase.GREETING, Event.LOST): Phase.CLOSED,
    # The accepter's end: hear HELLO, then accept, hold or refuse it.
    (Phase.UNPROVEN, Event.ACCEPTED): Phase.OPEN,
    (Phase.UNPROVEN, Event.HELD): Phase.HELD,
    (Phase.UNPROVEN, Event.REFUSED): Phase.CLOSED,
    (Phase.UNPROVEN, Event.LOST): Phase.CLOSED,
    (Phase.HELD, Event.ACCEPTED): Phase.OPEN,
    (Phase.HELD, Event.REFUSED): Phase.CLOSED,
    (Phase.HELD, Event.LOST): Phase.CLOSED,
    # Both ends: open until one says goodbye, then open only for what was begun.
    (Phase.OPEN, Event.GOODBYE): Phase.LEAVING,
    (Phase.OPEN, Event.LOST): Phase.CLOSED,
    (Phase.LEAVING, Event.STAY): Phase.OPEN,
    (Phase.LEAVING, Event.LOST): Phase.CLOSED,
    # The accepter's end: the dialler has seen a later incarnation of us than the one that welcomed it.
    (Phase.OPEN, Event.REFUSED): Phase.CLOSED,
    (Phase.LEAVING, Event.REFUSED): Phase.CLOSED,
}


class Link(Struct):
    """The state of one connection. ``peer`` is the node that was meant until it is the node that was proven."""

    conn: int
    dialled: bool
    phase: Phase
    peer: str
    since: float
    liveness: Liveness
    terms: LivenessOptions
    own_no: int = 0
    incarnation: int = 0
    link_no: int = 0
    protocol: int = PROTOCOL_MINOR
    out: list[Record] = field(default_factory=list)
    counter_in: int = 0
    counter_out: int = 0
    chunker: Chunker = field(default_factory=Chunker)
    hello: Hello | None = None
    proof: Proof | None = None
    keep_here: bool = False
    keep_there: bool = False
    draining_there: bool = False
    goodbye_sent: bool = False
    goodbye_heard: bool = False
    rtt_s: float | None = None
    rtt_at: float = 0.0
    credit_records: int = 0
    credit_bytes: int = 0
    sent_records: int = 0
    sent_bytes: int = 0
    granted_records: int = 0
    granted_bytes: int = 0
    taken_records: int = 0
    taken_bytes: int = 0
    records_in: int = 0
    records_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    @property
    def persistent(self) -> bool:
        return self.keep_here or self.keep_there

    @property
    def usable(self) -> bool:
        """Whether something new may be sent here: open, and neither end is leaving."""
        return self.phase is OPEN

    @property
    def has_credit(self) -> bool:
        """Whether the peer's window takes one more request. The last one may overshoot the bytes, by one chunk."""
        return self.sent_records < self.credit_records and self.sent_bytes < self.credit_bytes

    def charge(self, weight: int) -> None:
        """One request of this weight was sent."""
        self.sent_records += 1
        self.sent_bytes += weight

    def take(self, weight: int) -> None:
        """One request of this weight has left our queues: its room may be granted again."""
        self.taken_records += 1
        self.taken_bytes += weight

    def grant(self, options: LinkOptions) -> tuple[int, int] | None:
        """Return the window to tell the peer, when at least a quarter of it is new; else None."""
        records = self.taken_records + options.credit_records
        bytes_ = self.taken_bytes + options.credit_bytes
        if (
            4 * (records - self.granted_records) < options.credit_records
            and 4 * (bytes_ - self.granted_bytes) < options.credit_bytes
        ):
            return None
        self.granted_records, self.granted_bytes = records, bytes_
        return records, bytes_


def advance(link: Link, event: Event, now: float) -> None:
    """Move a link by the table; an event that the table does not know there is a defect of ours."""
    target = TRANSITIONS.get((link.phase, event))
    assert target is not None, f"{event.name} in {link.phase.name}"
    link.phase = target
    link.since = now


def stay(link: Link, now: float) -> bool:
    """The other end does not take our goodbye; return whether there was one that it could still refuse."""
    if link.phase is not Phase.LEAVING or link.goodbye_heard:
        return False
    link.goodbye_sent = False
    advance(link, Event.STAY, now)
    return True


def goodbye(link: Link, reason: str, now: float, *, final: bool = False) -> None:
    """Say that we start nothing new on this link, once."""
    if not link.goodbye_sent:
        link.goodbye_sent = True
        link.out.append(Goodbye(reason, final))
        if link.phase is Phase.OPEN:
            advance(link, Event.GOODBYE, now)


class Seen(Struct):
    """The greatest ``(incarnation, link number)`` that was seen of a node, and the last number told to it."""

    incarnation: int = 0
    link_no: int = 0
    own_no: int = 0

    def admits(self, incarnation: int, link_no: int) -> bool:
        """Return whether this pair is not of the past."""
        return (incarnation, link_no) >= (self.incarnation, self.link_no)


class Ruling(enum.IntEnum):
    """What is to be done with a HELLO."""

    ACCEPT = 0
    HOLD = 1
    CHALLENGE = 2
    REFUSE = 3


class Judgement(Struct, frozen=True):
    """A ruling; with REFUSE the record that says why."""

    ruling: Ruling
    refuse: Refuse | None = None


ACCEPT = Judgement(Ruling.ACCEPT)
HOLD = Judgement(Ruling.HOLD)
CHALLENGE = Judgement(Ruling.CHALLENGE)


def _refuse(reason: RefuseReason, text: str, greater: int = 0, retry_after_ms: int = 0) -> Judgement:
    return Judgement(Ruling.REFUSE, Refuse(int(reason), text, greater, retry_after_ms))


def judge_hello(
    hello: Hello, *, node: str, fleet: str, incarnation: int, seen: Seen, incumbent: Link | None, own_dial: Link | None
) -> Judgement:
    """Decide on a HELLO that came to ``node`` of ``fleet``.

    ``incumbent``: the open link with that node id, if any. ``own_dial``: our own dial to it that is under way, if any.
    """
    if hello.protocol_min > PROTOCOL_MINOR:
        text = f"{node} speaks protocol 1.0 to 1.{PROTOCOL_MINOR}, you want 1.{hello.protocol_min} or later"
        return _refuse(RefuseReason.PROTOCOL, text)
    if hello.fleet != fleet:
        return _refuse(RefuseReason.FLEET, f"{node} is of fleet {fleet!r}, you are of {hello.fleet!r}")
    if hello.meant != node:
        return _refuse(RefuseReason.NOT_ME, f"you meant {hello.meant!r}, this is {node!r}")
    if hello.node == node:
        greater = max(incarnation, hello.incarnation)
        text = f"two agents have the node id {node!r}: this one, and the one at {Endpoint(hello.host, hello.port)}"
        return _refuse(RefuseReason.DUPLICATE_NODE, text, greater)
    past = _of_the_past(hello, seen)
    if past is not None:
        return Judgement(Ruling.REFUSE, past)
    if hello.probe:
        return _refuse(RefuseReason.REACHED, f"this is {node!r}")
    if incumbent is not None and incumbent.incarnation != hello.incarnation:
        return CHALLENGE
    if own_dial is not None and own_dial.phase is Phase.GREETING and node < hello.node:
        return HOLD
    return ACCEPT


def judge_welcome(welcome: Welcome, *, meant: str, fleet: str, seen: Seen) -> Refuse | None:
    """Return what a WELCOME to our dial is refused with, or None. One of the past is told so: it must start anew."""
    if welcome.node != meant:
        return Refuse(int(RefuseReason.NOT_ME), f"{welcome.node!r} answered where {meant!r} was meant")
    if welcome.fleet != fleet:
        return Refuse(int(RefuseReason.FLEET), f"{welcome.node!r} is of fleet {welcome.fleet!r}, this is {fleet!r}")
    if welcome.protocol > PROTOCOL_MINOR:
        text = f"{welcome.node!r} agreed on protocol 1.{welcome.protocol}, which was not offered"
        return Refuse(int(RefuseReason.PROTOCOL), text)
    return _of_the_past(welcome, seen)


def _of_the_past(greeting: Hello | Welcome, seen: Seen) -> Refuse | None:
    """Return what a greeting is refused with that is older than what was seen of its node, or None."""
    if seen.admits(greeting.incarnation, greeting.link_no):
        return None
    if greeting.incarnation == seen.incarnation:
        text = f"link {seen.link_no} of {greeting.node!r} came after link {greeting.link_no}"
        return Refuse(int(RefuseReason.STALE_CONNECTION), text)
    text = f"{greeting.node!r} was seen as incarnation {seen.incarnation}, you are {greeting.incarnation}"
    return Refuse(int(RefuseReason.STALE_INCARNATION), text, seen.incarnation)
