"""Durable casts at their caller's agent: on disk before they are accepted, ended on disk before that is told.

The spool has the truth; here is what is on its way to it and back. What is to be written gathers in ``entries`` and
leaves as one commit a turn, one at a time, so that what comes while the disk is busy shares the next flush.

A spool may hold more than memory. Of each topic the oldest rows are *held* here, as entries of the outbox; the rest is
*left* on disk and is fetched, in order, when there is room. The window is shared by all topics; beyond it a topic may
still hold `SHARE_RECORDS`, so that those nobody serves do not keep the others waiting.
"""

import enum
from typing import Annotated

from msgspec import Meta, Struct, field, msgpack, structs

from mesh.core.ledger import Commit, Dead, Done, Entry, Expire, Fetch, Put, Sent, Sweep, Totals
from mesh.core.outbox import Key
from mesh.core.records import Failure, Request, Status
from mesh.core.vocabulary import CAST, DURABLE, ONCE, RESUMED
from mesh.types import TopicKey

__all__ = [
    "Durable",
    "DurableOptions",
    "Ending",
    "Phase",
    "Shelf",
    "Unwritten",
    "is_durable",
    "is_sent_once",
    "size_of",
]

COMMIT_ENTRIES = 4_096
"""Entries in one commit."""

FETCH_RECORDS = 512
"""Rows in one fetch."""

SHARE_RECORDS = 64
SHARE_BYTES = 1 << 20
"""What a topic may hold though the window is full; of larger bodies, one."""

RETRY_S = 1.0
"""How long after a refusal what nobody waits for is tried again."""

WELL_S = 5.0
"""How long after the last refusal a disk counts as well, if no new cast has shown it before."""

_ONCE = DURABLE | ONCE


class DurableOptions(Struct, frozen=True):
    """What the spool may hold, and how much of it is in memory."""

    spool_records_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1 << 30,
            description="Durable casts on disk: those that have not ended, and ended ones that are still remembered. "
            "Above it: Overloaded. More rides out longer outages of who serves them.",
        ),
    ] = 1_000_000
    spool_bytes_max: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 44,
            description="Bytes of their bodies, likewise. The file is larger by what its rows and its log take, and "
            "does not shrink: room that was used once is used again.",
        ),
    ] = 1 << 30
    window_records: Annotated[
        int,
        Meta(
            ge=64,
            le=1 << 20,
            description="Durable casts in memory, on their way to those who serve them. More is faster where they are "
            "far away; the others are read from disk in turn.",
        ),
    ] = 4_096
    window_bytes: Annotated[
        int, Meta(ge=1 << 20, le=1 << 34, description="Bytes of their bodies, likewise; and of those not yet on disk.")
    ] = 64 << 20


class Phase(enum.IntEnum):
    """Where the spool is: there is none, it is being opened, it is open, it cannot be opened."""

    NONE = 0
    OPENING = 1
    OPEN = 2
    AWAY = 3


class Unwritten(Struct):
    """A cast that is not on disk yet."""

    request: Request
    deadline: float


class Ending(Struct):
    """A cast that has ended, which is not on disk yet. ``told``: its app knows, for the disk would not have it."""

    failure: Failure | None
    once: bool = False
    told: bool = False


class Shelf(Struct):
    """One topic's live rows: those that are held here, and how many are left on disk, numbered above ``after``."""

    held: int = 0
    bytes: int = 0
    left: int = 0
    after: int = 0


class Durable(Struct):
    """All that a node knows of its spool. ``last``: rows up to this one are an earlier agent's; ``ended``: sessions
    with rows that are done, and up to where those were swept; ``marks``: where what must not be sent twice may go, and
    how many died of what may be; ``marking``: what that is to be once it is on disk; ``unsure``: those left on disk
    that an agent with another disk may have sent; ``why``: what the disk said when
    it last refused something, ``stuck``: and it has taken no end since."""

    phase: Phase = Phase.NONE
    why: str = ""
    last: int = 0
    totals: Totals = Totals()
    entries: list[Entry] = field(default_factory=list)
    puts: int = 0
    flight: list[Entry] | None = None
    retry_at: float = 0.0
    refused_at: float = 0.0
    stuck: bool = False
    ticked_at: float = 0.0
    unwritten: dict[Key, Unwritten] = field(default_factory=dict)
    unwritten_bytes: int = 0
    ending: dict[Key, Ending] = field(default_factory=dict)
    marks: dict[Key, tuple[str, int, int]] = field(default_factory=dict)
    marking: dict[Key, tuple[str, int, int]] = field(default_factory=dict)
    shelves: dict[TopicKey, Shelf] = field(default_factory=dict)
    held: int = 0
    held_bytes: int = 0
    left: int = 0
    unsure: dict[Key, None] = field(default_factory=dict)
    fetching: bool = False
    ended: dict[int, int] = field(default_factory=dict)

    # What is to be written

    def knows(self, key: Key) -> bool:
        """Return whether a cast is on its way to the disk, or its end is: what is to be told of it comes with that."""
        return key in self.unwritten or key in self.ending

    def refusal(self, request: Request, options: DurableOptions) -> tuple[Status, str, str] | None:
        """Return the status, the limit and the text for a durable cast that is not taken, or None.

        Of one that is told again the disk may know already, so only it can say."""
        if request.kind != CAST:
            return Status.REJECTED, "", "only a cast can be durable"
        if self.phase is Phase.NONE:
            return Status.REJECTED, "", "this agent has no spool: it cannot keep a cast on disk"
        if self.phase is Phase.AWAY:
            return Status.OVERLOADED, "spool_disk", self.why
        limit, size = "", size_of(request)
        if self.unwritten and self.unwritten_bytes + size > options.window_bytes:
            limit = "window_bytes"
        elif request.flags & RESUMED:
            return None
        elif self.totals.records + self.totals.done + len(self.unwritten) >= options.spool_records_max:
            limit = "spool_records_max"
        elif self.totals.bytes + self.unwritten_bytes + size > options.spool_bytes_max:
            limit = "spool_bytes_max"
        return (Status.OVERLOADED, limit, f"the spool is full: {limit} is reached") if limit else None

    def put(self, request: Request, deadline: float, now: float) -> None:
        """Have a cast written; it is accepted when it is."""
        self.unwritten[request.session, request.seq] = Unwritten(request, deadline)
        self.unwritten_bytes += size_of(request)
        self.write(request, deadline, now)

    def write(self, request: Request, deadline: float, now: float) -> None:
        """Have a cast be in the file."""
        topic, record = TopicKey(request.namespace, request.topic), pack(request)
        ttl_s = deadline - now
        self.entries.append(Put(request.session, request.seq, topic, request.server, ttl_s, size_of(request), record))
        self.puts += 1

    def written(self, put: Put) -> Unwritten | None:
        """Take out and return what a put was for; None: it was of what is held already, for a new file."""
        unwritten = self.unwritten.pop((put.session, put.seq), None)
        if unwritten is not None:
            self.unwritten_bytes -= put.size
        return unwritten

    def end(self, request: Request, failure: Failure | None, *, overdue: bool) -> None:
        """Have the end of a held cast written, and let it go; None: a handler ended it."""
        key = (request.session, request.seq)
        self.ending[key] = Ending(failure, is_sent_once(request))
        if failure is None or failure.status == Status.CANCELLED:
            self.entries.append(Done(*key, failure is not None))
        else:
            self.entries.append(Dead(*key, _reason(failure, overdue), failure.text[:1_000]))
        self.marks.pop(key, None)
        self.marking.pop(key, None)
        shelf = self.shelves[TopicKey(request.namespace, request.topic)]
        size = size_of(request)
        shelf.held -= 1
        shelf.bytes -= size
        self.held -= 1
        self.held_bytes -= size

    def cancel(self, key: Key) -> None:
        """The caller gives up what is not held here: it may be among what is left on disk."""
        self.unsure.pop(key, None)
        if self.left:
            self.entries.append(Done(*key, cancelled=True))

    def must_mark(self, key: Key, sent: tuple[str, int, int]) -> bool:
        """Return whether a cast must not leave yet: ``sent``, as in `Sent`, has to be on disk first, which this has
        written."""
        if self.marks.get(key) == sent:
            return False
        if self.marking.get(key) != sent:
            self.marking[key] = sent
            self.entries.append(Sent(key[0], key[1], sent[0], sent[1], sent[2]))
        return True

    def commit(self, now: float) -> Commit | None:
        """Return what is to be written now, if anything is and the disk is free. Once that has refused something, ends
        go by themselves: they need little room, and make some."""
        if not self.entries or self.flight is not None or self.phase is not Phase.OPEN:
            return None
        going, staying = self.entries, list[Entry]()
        if self.why:
            puts: list[Entry] = [entry for entry in self.entries if isinstance(entry, Put)]
            ends: list[Entry] = [entry for entry in self.entries if not isinstance(entry, Put)]
            going, staying = (ends, puts) if ends and now >= self.retry_at else (puts, ends)
        elif not self.puts and now < self.retry_at:
            return None
        if not going:
            return None
        flight, self.entries = going[:COMMIT_ENTRIES], going[COMMIT_ENTRIES:] + staying
        self.flight = flight
        self.puts = sum(isinstance(entry, Put) for entry in self.entries)
        return Commit(flight)

    def landed(self) -> list[Entry]:
        """Return the entries of the commit that is over."""
        entries, self.flight = self.flight or [], None
        return entries

    def refused(self, why: str, now: float) -> bool:
        """The disk would not do something; return whether that is news."""
        is_news = self.why != why
        self.why, self.refused_at = why, now
        return is_news

    def recovered(self, entries: list[Entry], now: float) -> bool:
        """These are on disk; return whether it is well again, after it was not."""
        self.stuck = False
        if not self.why:
            return False
        if now - self.refused_at >= WELL_S or any(isinstance(entry, Put) for entry in entries):
            self.why = ""
        return not self.why

    def again(self, entries: list[Entry], now: float) -> None:
        """The disk would not take these: try them again a little later, before what came since."""
        self.entries = entries + self.entries
        self.stuck = self.stuck or bool(entries)
        self.retry_at = now + RETRY_S

    def take_back(self) -> list[Entry]:
        """Return what waits to be written, which now does not."""
        entries, self.entries, self.puts = self.entries, [], 0
        return entries

    def sweep(self, floors: dict[int, int]) -> None:
        """Forget the ends that no replay can ask for: ``floors`` by session, of those that are known."""
        for session, floor in floors.items():
            if floor > self.ended.get(session, floor):
                self.ended[session] = floor
                self.entries.append(Sweep(session, floor))

    def expire(self) -> None:
        """Have the spool look for what is past its time, if it holds anything."""
        if self.totals.records or self.totals.done or self.totals.dead:
            self.entries.append(Expire())

    # What is in memory

    def shelf(self, topic: TopicKey) -> Shelf:
        """Return a topic's shelf, making it."""
        shelf = self.shelves.get(topic)
        if shelf is None:
            shelf = self.shelves[topic] = Shelf()
        return shelf

    def leave(self, topic: TopicKey, rows: int) -> None:
        """So many more rows of a topic are on disk only."""
        self.shelf(topic).left += rows
        self.left += rows

    def hold(self, request: Request, number: int) -> None:
        """A row is in memory from now on."""
        shelf, size = self.shelf(TopicKey(request.namespace, request.topic)), size_of(request)
        shelf.after = number
        shelf.held += 1
        shelf.bytes += size
        self.held += 1
        self.held_bytes += size

    def room(self, shelf: Shelf, options: DurableOptions) -> tuple[int, int]:
        """Return how many more rows of a topic may be in memory, and how many bytes; without any, one of any size."""
        records = max(options.window_records - self.held, SHARE_RECORDS - shelf.held, 0)
        bytes_ = max(options.window_bytes - self.held_bytes, SHARE_BYTES - shelf.bytes, 0 if shelf.held else 1)
        return records if bytes_ else 0, bytes_

    def has_room(self, request: Request, options: DurableOptions) -> bool:
        """Return whether a row that was just written may be in memory; with older ones left it has to wait its turn."""
        shelf = self.shelf(TopicKey(request.namespace, request.topic))
        records, bytes_ = self.room(shelf, options)
        return not shelf.left and records > 0 and (not shelf.held or size_of(request) <= bytes_)

    def fetch(self, options: DurableOptions) -> Fetch | None:
        """Return what to read next: the topics that have rows left take turns, each as far as there is room. While the
        disk takes no ends nothing is, for they would gather here."""
        if self.fetching or self.phase is not Phase.OPEN or self.stuck:
            return None
        for topic, shelf in self.shelves.items():
            records, bytes_ = self.room(shelf, options) if shelf.left else (0, 0)
            if records and (records >= min(shelf.left, SHARE_RECORDS // 2) or not shelf.held):
                self.fetching = True
                self.shelves[topic] = self.shelves.pop(topic)
                return Fetch(topic, shelf.after, min(records, FETCH_RECORDS), bytes_)
        return None

    def fetched(self, topic: TopicKey, rows: int, *, more: bool) -> None:
        """Rows of a topic were read; without more behind them none is left, whatever was counted."""
        self.fetching = False
        left = self.shelf(topic).left
        self.leave(topic, -min(rows, left) if more else -left)

    def reopened(self) -> None:
        """The file is another one: nothing is left in it but what it says."""
        self.left, self.fetching = 0, False
        for shelf in self.shelves.values():
            shelf.left = shelf.after = 0

    def tidy(self) -> None:
        """Forget the shelves that are empty."""
        self.shelves = {topic: shelf for topic, shelf in self.shelves.items() if shelf.held or shelf.left}


def is_durable(request: Request) -> bool:
    """Return whether a request is kept on disk."""
    return bool(request.flags & DURABLE)


def is_sent_once(request: Request) -> bool:
    """Return whether a request is kept on disk and never sent again after it may have started."""
    return request.flags & _ONCE == _ONCE


def pack(request: Request) -> bytes:
    """Return a request as the spool keeps it: its body apart, for that may be larger than one record's on the wire."""
    return msgpack.encode((structs.replace(request, body=b""), request.body))


def unpack(record: bytes) -> Request:
    """Return what `pack` was given; raises MsgspecError."""
    request, body = msgpack.decode(record, type=tuple[Request, bytes])
    request.body = body
    return request


def size_of(request: Request) -> int:
    """Return the bytes that a cast is counted with."""
    return len(request.body) + 128


def _reason(failure: Failure, overdue: bool) -> str:
    if failure.limit == "attempts_max":
        return "poison"
    return "expired" if overdue else Status(failure.status).name.lower()
