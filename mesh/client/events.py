"""What a session tells its shell. Seqs are of this session's own requests; ids are of requests that it serves."""

from msgspec import Struct

from mesh.core.records import AppWelcome, Failure, Receipt, Reply, Request

__all__ = [
    "Aimed",
    "CancelAsked",
    "Delivered",
    "Ended",
    "Event",
    "Held",
    "Id",
    "Leaving",
    "Lost",
    "Opened",
    "Outcome",
    "Parted",
    "Refused",
    "Reported",
    "ServingTold",
]

Id = tuple[str, int, int]
"""``(node, session, seq)`` of a caller."""

Outcome = Reply | Failure | Receipt | None
"""How a request ended; None: a cast that a handler ended."""


class Opened(Struct, gc=False):
    """The agent welcomed us."""

    welcome: AppWelcome


class Refused(Struct, gc=False):
    """The agent turned us away; ``final``: trying again cannot help; ``limit``: the option reached. A `Lost` comes."""

    reason: int
    text: str
    final: bool
    limit: str = ""
    retry_after_s: float = 0.0


class Lost(Struct, gc=False):
    """Close the socket, and say `Session.disconnected`."""

    reason: str


class Leaving(Struct, gc=False):
    """The agent drains: it starts nothing new, and will close."""

    reason: str


class Parted(Struct, gc=False):
    """The agent answered our goodbye: the socket may be closed."""


class Held(Struct, gc=False):
    """The agent has accepted these casts."""

    seqs: list[int]


class Aimed(Struct, gc=False):
    """The agent has accepted a fan-out, and named its targets: so many instances."""

    seq: int
    asked: int


class Ended(Struct, gc=False):
    """A request of ours has ended; there is nothing more to come of it."""

    seq: int
    outcome: Outcome


class Delivered(Struct, gc=False):
    """A request to be handled, due ``deadline``: `begin` it, then `answer` or `settle` it."""

    request: Request
    deadline: float


class CancelAsked(Struct, gc=False):
    """The caller of a request that is running gave it up."""

    id: Id


class ServingTold(Struct, gc=False):
    """A topic is served now (``ok``), was refused, or after `unserve` is no longer served. ``rule``: of the policy,
    that is against it, and was perhaps not before."""

    topic: str
    ok: bool
    text: str
    rule: str = ""


class Reported(Struct, gc=False):
    """The answer to a query."""

    number: int
    ok: bool
    body: bytes


Event = (
    Aimed | Opened | Refused | Lost | Leaving | Parted | Held | Ended | Delivered | CancelAsked | ServingTold | Reported
)
