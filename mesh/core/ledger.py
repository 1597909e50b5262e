"""What a node and its spool say to each other, as values.

A node hands its shell **jobs**, one after the other; the shell has the spool do each, and brings the **word** that came
of it back to the node, in the same order. A `Commit` is a list of **entries** that are on disk together or not at all.
The spool does not look into records: they are bytes to it.
"""

import enum

from msgspec import Struct

from mesh.types import TopicKey

__all__ = [
    "Away",
    "Commit",
    "Committed",
    "Dead",
    "Done",
    "Entry",
    "Expire",
    "Expired",
    "Fetch",
    "Fetched",
    "Job",
    "Kept",
    "Open",
    "Opened",
    "Put",
    "Refused",
    "Sent",
    "Show",
    "Shown",
    "Standing",
    "Survey",
    "Sweep",
    "Totals",
    "Unread",
    "Word",
]


class Standing(enum.IntEnum):
    """What a `Put` found: nothing of its identity, or a row that is to be delivered, was ended, or is a dead letter."""

    NEW = 0
    LIVE = 1
    DONE = 2
    DEAD = 3


class Put(Struct, frozen=True, tag=True):
    """Keep a cast. Of one identity ``(session, seq)`` only the first is kept; ``ttl_s``: of its time is left."""

    session: int
    seq: int
    topic: TopicKey
    server: str
    ttl_s: float
    size: int
    record: bytes


class Sent(Struct, frozen=True, tag=True):
    """A cast that must not be sent twice is about to go to this serving session, by this incarnation of its agent.
    With an empty node: a cast that may be is about to go again, and ``target`` is how many processes died of it."""

    session: int
    seq: int
    node: str
    target: int
    incarnation: int


class Done(Struct, frozen=True, tag=True):
    """It has ended: the row stays without its record, so that a replay finds it. ``cancelled``: not by a handler, its
    caller gave it up, which means nothing once its time is over."""

    session: int
    seq: int
    cancelled: bool = False


class Dead(Struct, frozen=True, tag=True):
    """It ended undelivered: it becomes a dead letter. ``reason`` is one word, ``text`` a sentence for people."""

    session: int
    seq: int
    reason: str
    text: str


class Sweep(Struct, frozen=True, tag=True):
    """The session has settled all its seqs below ``floor``: rows of it that are done may go."""

    session: int
    floor: int


class Expire(Struct, frozen=True, tag=True):
    """Make dead letters of what is past its time, and forget what was kept long enough."""


Entry = Put | Sent | Done | Dead | Sweep | Expire


class Open(Struct, frozen=True, tag=True):
    """Make the spool ready, again if it was before; answered by `Opened` or `Away`."""


class Commit(Struct, frozen=True, tag=True):
    """Put these entries on disk, in order, all or none; answered by `Committed` or `Refused`."""

    entries: list[Entry]


class Fetch(Struct, frozen=True, tag=True):
    """Read live rows of a topic numbered above ``after``, oldest first: at most ``records``, and no more once their
    sizes exceed ``bytes``, but one at least."""

    topic: TopicKey
    after: int
    records: int
    bytes: int


class Show(Struct, frozen=True, tag=True):
    """A person's question about dead letters, or wish for them: see `Spool.show`. ``session`` and ``seq`` are the
    query's own."""

    session: int
    seq: int
    verb: str
    arguments: dict[str, str]


Job = Open | Commit | Fetch | Show


class Totals(Struct, frozen=True):
    """What a spool holds. ``records``: to be delivered; ``bytes``: theirs; ``done``: rows that only remember an end;
    ``dead``: dead letters; ``oldest_s``: the age of what waits longest."""

    records: int = 0
    bytes: int = 0
    done: int = 0
    dead: int = 0
    oldest_s: float = 0.0


class Survey(Struct, frozen=True):
    """How many live rows a topic has."""

    topic: TopicKey
    records: int


class Opened(Struct, frozen=True, tag=True):
    """The spool is there: ``last`` is the number of its newest row, ``ended`` the sessions that have rows which are
    done; ``aside`` says what became of a file that could not be used, if there was one."""

    totals: Totals
    last: int
    topics: list[Survey]
    ended: list[int]
    aside: str = ""


class Away(Struct, frozen=True, tag=True):
    """The spool cannot be opened now; it is tried again."""

    why: str


class Expired(Struct, frozen=True):
    """A row whose time was over."""

    session: int
    seq: int
    number: int
    topic: TopicKey


class Committed(Struct, frozen=True, tag=True):
    """It is on disk. ``puts``: for each put, in order, what it found, the row's number, and a dead letter's text."""

    totals: Totals
    puts: list[tuple[Standing, int, str]]
    expired: list[Expired]


class Refused(Struct, frozen=True, tag=True):
    """Nothing of a commit was done: the disk would not. ``lost``: the spool must be opened again, its file is gone or
    damaged."""

    why: str
    lost: bool = False


class Unread(Struct, frozen=True, tag=True):
    """The same of a `Fetch`."""

    why: str
    lost: bool = False


class Kept(Struct, frozen=True):
    """A row as it was read. ``left_s`` is not positive for what is past its time; ``sent``: what the latest `Sent`
    said."""

    number: int
    session: int
    seq: int
    left_s: float
    record: bytes
    sent: tuple[str, int, int] = ("", 0, 0)


class Fetched(Struct, frozen=True, tag=True):
    """Rows of a topic; ``more``: there are others behind them."""

    topic: TopicKey
    rows: list[Kept]
    more: bool


class Shown(Struct, frozen=True, tag=True):
    """The answer to a person, JSON or the text of an error. ``totals`` are None where the spool could not be read;
    ``revived``: rows that are to be delivered again."""

    session: int
    seq: int
    ok: bool
    body: bytes
    totals: Totals | None
    revived: list[Survey]


Word = Opened | Away | Committed | Refused | Fetched | Unread | Shown
