"""A spool in memory, for tests and the simulator: it keeps what its agent's death leaves, and fails when told to.

`lose_last` is a crash before the last commit was on the disk; ``fault`` is a disk that is full or broken; ``room`` is
how many bytes of records there still is room for.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from msgspec import Struct, field

from mesh.core.ledger import (
    Committed,
    Dead,
    Done,
    Entry,
    Expired,
    Fetch,
    Fetched,
    Kept,
    Opened,
    Put,
    Sent,
    Standing,
    Survey,
    Sweep,
    Totals,
)
from mesh.spool.base import EXPIRY_MARGIN_S, DeadLetter, DeadOptions, SpoolError, SpoolLost
from mesh.types import TopicKey

__all__ = ["MemorySpool"]

OWN_SESSION = 1 << 61


class _Row(Struct):
    """One cast. ``expires``: when its time is over, or, once it is dead, when it is forgotten."""

    number: int
    put: Put
    expires: float
    standing: Standing = Standing.LIVE
    sent: tuple[str, int, int] = ("", 0, 0)
    died: float = 0.0
    reason: str = ""
    text: str = ""


class _Disk(Struct):
    """What is kept: rows by identity, in the order of their numbers."""

    rows: dict[tuple[int, int], _Row] = field(default_factory=dict)
    last: int = 0


class MemorySpool:
    """A spool whose disk is a value. ``clock`` gives seconds that go on over the agent's restarts."""

    def __init__(self, options: DeadOptions, clock: Callable[[], float]) -> None:
        self.options = options
        self.clock = clock
        self.disk = _Disk()
        self.before = _Disk()
        self.fault = ""
        self.room: int | None = None
        self.is_open = False

    def lose_last(self) -> None:
        """The machine stopped before the last commit was on its disk."""
        self.disk = copy.deepcopy(self.before)
        self.is_open = False

    def lose_all(self) -> None:
        """The disk is another one."""
        self.disk, self.before = _Disk(), _Disk()
        self.is_open = False

    # Verbs

    def open(self) -> Opened:
        if self.fault:
            raise SpoolError(self.fault)
        self.is_open = True
        topics: dict[TopicKey, int] = {}
        for row in self._of(Standing.LIVE):
            topics[row.put.topic] = topics.get(row.put.topic, 0) + 1
        surveys = [Survey(topic, rows) for topic, rows in sorted(topics.items())]
        ended = sorted({row.put.session for row in self._of(Standing.DONE)})
        return Opened(self.totals(), self.disk.last, surveys, ended)

    def commit(self, entries: Sequence[Entry]) -> Committed:
        puts: list[tuple[Standing, int, str]] = []
        expired: list[Expired] = []
        with self._transaction():
            for entry in entries:
                if isinstance(entry, Put):
                    puts.append(self._put(entry))
                elif isinstance(entry, Sent):
                    row = self.disk.rows.get((entry.session, entry.seq))
                    if row is not None:
                        row.sent = (entry.node, entry.target, entry.incarnation)
                elif isinstance(entry, Done | Dead):
                    self._end(entry)
                elif isinstance(entry, Sweep):
                    for row in self._of(Standing.DONE):
                        if row.put.session == entry.session and row.put.seq < entry.floor:
                            self._forget(row)
                else:
                    expired += self._expire()
            self._trim()
        return Committed(self.totals(), puts, expired)

    def _put(self, put: Put) -> tuple[Standing, int, str]:
        known = self.disk.rows.get((put.session, put.seq))
        if known is not None:
            return known.standing, known.number, f"{known.reason}: {known.text}" if known.reason else ""
        if self.room is not None:
            if put.size > self.room:
                raise SpoolError("the disk is full")
            self.room -= put.size
        self.disk.last += 1
        self.disk.rows[put.session, put.seq] = _Row(self.disk.last, put, self.clock() + put.ttl_s)
        return Standing.NEW, self.disk.last, ""

    def _end(self, end: Done | Dead) -> None:
        row = self.disk.rows.get((end.session, end.seq))
        if row is None or row.standing is not Standing.LIVE:
            return
        if isinstance(end, Dead):
            self._die(row, end.reason, end.text)
        elif not end.cancelled or row.expires > self.clock():
            row.standing = Standing.DONE

    def _die(self, row: _Row, reason: str, text: str) -> None:
        now = self.clock()
        row.standing, row.reason, row.text = Standing.DEAD, reason, text
        row.died, row.expires = now, now + self.options.dead_age_s

    def _expire(self) -> list[Expired]:
        expired = []
        for row in list(self.disk.rows.values()):
            if row.expires > self.clock() - EXPIRY_MARGIN_S:
                continue
            if row.standing is Standing.LIVE:
                self._die(row, "expired", "its time was over before anybody took it")
                expired.append(Expired(row.put.session, row.put.seq, row.number, row.put.topic))
            else:
                self._forget(row)
        return expired

    def _trim(self) -> None:
        dead = self._of(Standing.DEAD)
        size = sum(row.put.size for row in dead)
        for row in dead:
            if len(dead) <= self.options.dead_records_max and size <= self.options.dead_bytes_max:
                return
            self._forget(row)
            dead, size = dead[1:], size - row.put.size

    def _forget(self, row: _Row) -> None:
        del self.disk.rows[row.put.session, row.put.seq]

    def fetch(self, fetch: Fetch) -> Fetched:
        rows: list[Kept] = []
        size, now = 0, self.clock()
        self._check()
        for row in self._of(Standing.LIVE):
            if row.put.topic != fetch.topic or row.number <= fetch.after:
                continue
            if rows and (len(rows) == fetch.records or size + row.put.size > fetch.bytes):
                return Fetched(fetch.topic, rows, True)
            size += row.put.size
            rows.append(Kept(row.number, row.put.session, row.put.seq, row.expires - now, row.put.record, row.sent))
        return Fetched(fetch.topic, rows, False)

    def dead(self, after: int, limit: int) -> list[DeadLetter]:
        self._check()
        return [_letter(row) for row in self._of(Standing.DEAD) if row.number > after][:limit]

    def record(self, number: int) -> tuple[DeadLetter, bytes] | None:
        self._check()
        return next(((_letter(row), row.put.record) for row in self._dead_of([number])), None)

    def revive(self, numbers: Sequence[int]) -> list[Survey]:
        topics: dict[TopicKey, int] = {}
        with self._transaction():
            for row in self._dead_of(numbers):
                self._forget(row)
                self.disk.last += 1
                old, new = row.put, self.disk.last
                put = Put(OWN_SESSION, new, old.topic, old.server, old.ttl_s, old.size, old.record)
                self.disk.rows[OWN_SESSION, new] = _Row(new, put, self.clock() + put.ttl_s)
                topics[put.topic] = topics.get(put.topic, 0) + 1
        return [Survey(topic, rows) for topic, rows in topics.items()]

    def purge(self, numbers: Sequence[int]) -> int:
        with self._transaction():
            rows = self._dead_of(numbers)
            for row in rows:
                self._forget(row)
        return len(rows)

    def totals(self) -> Totals:
        live = self._of(Standing.LIVE)
        oldest_s = self.clock() - (live[0].expires - live[0].put.ttl_s) if live else 0.0
        size = sum(row.put.size for row in live)
        counts = (len(self._of(Standing.DONE)), len(self._of(Standing.DEAD)))
        return Totals(len(live), size, *counts, max(0.0, oldest_s))

    def close(self) -> None:
        self.is_open = False

    # The disk

    def _of(self, standing: Standing) -> list[_Row]:
        return [row for row in self.disk.rows.values() if row.standing is standing]

    def _dead_of(self, numbers: Sequence[int]) -> list[_Row]:
        wanted = dict.fromkeys(numbers)
        return [row for row in self._of(Standing.DEAD) if row.number in wanted]

    def _check(self) -> None:
        if not self.is_open:
            raise SpoolLost("the spool is not open")
        if self.fault:
            raise SpoolError(self.fault)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._check()
        before = copy.deepcopy(self.disk)
        try:
            yield
        except BaseException:
            self.disk = before
            raise
        self.before = before


def _letter(row: _Row) -> DeadLetter:
    put = row.put
    place = (put.topic.topic, put.topic.namespace, put.server, put.session, put.seq, put.size)
    return DeadLetter(row.number, *place, row.died, row.reason, row.text)
