"""The spool of an agent: one SQLite file in its data directory, in WAL mode, flushed to the disk with each commit.

A file that cannot be used (it is no database, damaged, or of another format) is moved aside whole, so that somebody
can look at it, and a new one is begun. A disk that is full or broken is an error of the verb, and of that verb only.
"""

import contextlib
import copy
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from mesh.boot import boot_id, since_boot
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
from mesh.spool.base import CLOCK_NOTE_S, EXPIRY_MARGIN_S, DeadLetter, DeadOptions, SpoolError, SpoolLost
from mesh.types import TopicKey

__all__ = ["SqliteSpool"]

APPLICATION_ID = 0x6D657373
SCHEMA_VERSION = 1
EXPIRED_MAX = 1_000  # rows that one commit looks at
WAL_BYTES_KEPT = 64 << 20
ROOM_KEPT_BYTES = 1 << 20  # on a disk that gets full, for what makes room
ASIDE_MAX = 9  # files set aside; the last name is used again
IN_USE_WAIT_S = 5.0

# One row for each identity, its record beside it, so that a change of the row does not write the record again.
_SCHEMA = f"""
CREATE TABLE cast (
    number INTEGER PRIMARY KEY AUTOINCREMENT, session INTEGER NOT NULL, seq INTEGER NOT NULL, state INTEGER NOT NULL,
    namespace TEXT NOT NULL, topic TEXT NOT NULL, server TEXT NOT NULL, size INTEGER NOT NULL,
    ttl REAL NOT NULL, expires REAL NOT NULL,
    sent_node TEXT NOT NULL DEFAULT '', sent_session INTEGER NOT NULL DEFAULT 0,
    sent_incarnation INTEGER NOT NULL DEFAULT 0,
    died REAL NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', text TEXT NOT NULL DEFAULT '',
    UNIQUE (session, seq)
);
CREATE TABLE record (number INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
CREATE TABLE about (
    boot TEXT NOT NULL, noted REAL NOT NULL, noted_wall REAL NOT NULL, session INTEGER NOT NULL
);
CREATE INDEX live_by_topic ON cast (namespace, topic, number) WHERE state = 1;
CREATE INDEX live ON cast (number) WHERE state = 1;
CREATE INDEX dead ON cast (number) WHERE state = 3;
CREATE INDEX due ON cast (expires);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
_LIVE, _DONE, _DEAD = int(Standing.LIVE), int(Standing.DONE), int(Standing.DEAD)
_PUT = f"""INSERT INTO cast (session, seq, state, namespace, topic, server, size, ttl, expires)
    VALUES (?, ?, {_LIVE}, ?, ?, ?, ?, ?, ?) ON CONFLICT (session, seq) DO NOTHING"""
_FIND = "SELECT number, state, size, reason, text, expires FROM cast WHERE session = ? AND seq = ?"
_SENT = "UPDATE cast SET sent_node = ?, sent_session = ?, sent_incarnation = ? WHERE session = ? AND seq = ?"
_SWEEP = f"DELETE FROM cast WHERE session = ? AND seq < ? AND state = {_DONE}"
_DUE = "SELECT number, state, size, session, seq, namespace, topic FROM cast WHERE expires <= ? LIMIT ?"
_DIE = f"UPDATE cast SET state = {_DEAD}, died = ?, expires = ?, reason = ?, text = ? WHERE number = ?"
_REVIVE = f"""UPDATE cast SET number = :new, session = :session, seq = :new, state = {_LIVE}, expires = :now + ttl,
    sent_node = '', sent_session = 0 WHERE number = :number"""
_FETCH = """SELECT c.number, session, seq, expires, size, bytes, sent_node, sent_session, sent_incarnation
    FROM cast AS c JOIN record USING (number)
    WHERE state = 1 AND namespace = ? AND topic = ? AND c.number > ? ORDER BY c.number LIMIT ?"""
_LETTER = "number, topic, namespace, server, session, seq, size, died, reason, text"
_MAKE_ROOM = "make room on it; durable casts are taken again as soon as there is some"
_OVERDUE = "its time was over before anybody took it"


_Result = TypeVar("_Result")


class _Counts(Struct):
    """What the file holds, so that it need not be counted at each commit."""

    records: int = 0
    bytes: int = 0
    done: int = 0
    dead: int = 0
    dead_bytes: int = 0


class SqliteSpool:
    """The spool in the file ``path``. ``clock`` gives seconds since boot, ``boot`` names the boot, ``wall`` is unix
    time."""

    def __init__(
        self,
        path: Path,
        options: DeadOptions,
        *,
        clock: Callable[[], float] = since_boot,
        wall: Callable[[], float] = time.time,
        boot: str = "",
    ) -> None:
        self._path = path
        self._options = options
        self._clock = clock
        self._wall = wall
        self._boot = boot
        self._database: sqlite3.Connection | None = None
        self._inode = (0, 0)
        self._session = 0
        self._counts = _Counts()
        self._noted = 0.0

    # Opening

    def open(self) -> Opened:
        self.close()
        with self._errors():
            self._boot = self._boot or boot_id()
            try:
                problem = self._open()
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    raise
                problem = str(error)
            aside = ""
            if problem:
                aside = self._set_aside(problem)
                self._open()
            return self._survey(aside)

    def _open(self) -> str:
        """Connect to the file, laying it out if it is new; return why it cannot be used, or an empty string."""
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        database = sqlite3.connect(self._path, timeout=IN_USE_WAIT_S, isolation_level=None, check_same_thread=False)
        self._database = database
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        application, version = _pragma(database, "application_id"), _pragma(database, "user_version")
        is_new = not database.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
        if not is_new and application != APPLICATION_ID:
            return "it is another program's database"
        if not is_new and version != SCHEMA_VERSION:
            return f"it is of format {version}, and this agent writes {SCHEMA_VERSION}"
        if not is_new and (answer := str(_pragma(database, "quick_check"))) != "ok":
            return answer.splitlines()[0]
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA secure_delete = OFF")  # an end must not write as much as the record it ends
        database.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_KEPT}")
        with self._transaction():
            if is_new:
                for statement in _SCHEMA.split(";\n"):
                    database.execute(statement)
                session = random.SystemRandom().getrandbits(62) + 1
                clocks = (self._boot, self._clock(), self._wall(), session)
                database.execute("INSERT INTO about VALUES (?, ?, ?, ?)", clocks)
            else:
                self._rebase(database)
        status = self._path.stat()
        self._inode = (status.st_dev, status.st_ino)
        return ""

    def _rebase(self, database: sqlite3.Connection) -> None:
        """After a reboot, reckon all times in seconds of this boot."""
        boot, noted, noted_wall = database.execute("SELECT boot, noted, noted_wall FROM about").fetchone()
        if boot != self._boot:
            away_s = max(0.0, self._wall() - noted_wall)
            database.execute("UPDATE cast SET expires = expires + ?", (self._clock() - noted - away_s,))
        self._note_clocks(database)

    def _note_clocks(self, database: sqlite3.Connection) -> None:
        self._noted = self._clock()
        database.execute(
            "UPDATE about SET boot = ?, noted = ?, noted_wall = ?", (self._boot, self._noted, self._wall())
        )

    def _survey(self, aside: str) -> Opened:
        database = self._connected()
        counts = self._counts = _Counts()
        for state, rows, size in database.execute("SELECT state, count(*), sum(size) FROM cast GROUP BY state"):
            if state == _LIVE:
                counts.records, counts.bytes = rows, size
            elif state == _DONE:
                counts.done = rows
            else:
                counts.dead, counts.dead_bytes = rows, size
        self._session = database.execute("SELECT session FROM about").fetchone()[0]
        last = database.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()[0]
        topics = database.execute(
            f"SELECT namespace, topic, count(*) FROM cast WHERE state = {_LIVE} GROUP BY namespace, topic"
        )
        surveys = [Survey(TopicKey(namespace, topic), rows) for namespace, topic, rows in topics]
        ended = database.execute(f"SELECT DISTINCT session FROM cast WHERE state = {_DONE} ORDER BY session")
        return Opened(self.totals(), last, surveys, [session for (session,) in ended], aside)

    def _set_aside(self, problem: str) -> str:
        """Move the file, with its log, to a name that is free; return a sentence that says so."""
        self.close()
        names = (self._path.with_name(f"{self._path.name}.damaged-{number}") for number in range(1, ASIDE_MAX + 1))
        aside = next((name for name in names if not name.exists()), self._path.with_name(f"{self._path.name}.damaged"))
        for ending in ("-wal", "-shm", ""):
            with contextlib.suppress(FileNotFoundError):
                os.replace(f"{self._path}{ending}", f"{aside}{ending}")
        return f"{self._path} cannot be used ({problem}): it is now {aside}, what is in it is not delivered"

    def close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            with contextlib.suppress(sqlite3.Error):
                database.close()

    # Verbs

    def commit(self, entries: Sequence[Entry]) -> Committed:
        with self._errors():
            self._check_file()
            self._check_room(sum(entry.size for entry in entries if isinstance(entry, Put)))
            puts, expired = self._with_room(lambda: self._commit(entries))
        return Committed(self.totals(), puts, expired)

    def _commit(self, entries: Sequence[Entry]) -> tuple[list[tuple[Standing, int, str]], list[Expired]]:
        puts: list[tuple[Standing, int, str]] = []
        expired: list[Expired] = []
        with self._transaction() as database:
            changes = database.total_changes
            for entry in entries:
                if isinstance(entry, Put):
                    puts.append(self._put(database, entry))
                elif isinstance(entry, Sent):
                    sent = (entry.node, entry.target, entry.incarnation, entry.session, entry.seq)
                    database.execute(_SENT, sent)
                elif isinstance(entry, Done | Dead):
                    self._end(database, entry)
                elif isinstance(entry, Sweep):
                    self._counts.done -= database.execute(_SWEEP, (entry.session, entry.floor)).rowcount
                else:
                    expired += self._expire(database)
            self._trim(database)
            if database.total_changes != changes or self._clock() - self._noted >= CLOCK_NOTE_S:
                self._note_clocks(database)
        return puts, expired

    def _put(self, database: sqlite3.Connection, put: Put) -> tuple[Standing, int, str]:
        row = (put.session, put.seq, *put.topic, put.server, put.size, put.ttl_s, self._clock() + put.ttl_s)
        cursor = database.execute(_PUT, row)
        if not cursor.rowcount:
            number, state, _, reason, text, _ = database.execute(_FIND, (put.session, put.seq)).fetchone()
            return Standing(state), number, f"{reason}: {text}" if reason else ""
        number = cursor.lastrowid or 0
        database.execute("INSERT INTO record VALUES (?, ?)", (number, put.record))
        self._counts.records += 1
        self._counts.bytes += put.size
        return Standing.NEW, number, ""

    def _end(self, database: sqlite3.Connection, end: Done | Dead) -> None:
        row = database.execute(_FIND, (end.session, end.seq)).fetchone()
        if row is None or row[1] != _LIVE:
            return
        number, _, size, _, _, expires = row
        if isinstance(end, Done) and end.cancelled and expires <= self._clock():
            return
        if isinstance(end, Dead):
            self._die(database, number, size, end.reason, end.text)
            return
        database.execute(f"UPDATE cast SET state = {_DONE}, size = 0 WHERE number = ?", (number,))
        database.execute("DELETE FROM record WHERE number = ?", (number,))
        self._counts.records -= 1
        self._counts.bytes -= size
        self._counts.done += 1

    def _die(self, database: sqlite3.Connection, number: int, size: int, reason: str, text: str) -> None:
        kept_until = self._clock() + self._options.dead_age_s
        database.execute(_DIE, (self._wall(), kept_until, reason, text, number))
        counts = self._counts
        counts.records -= 1
        counts.bytes -= size
        counts.dead += 1
        counts.dead_bytes += size

    def _expire(self, database: sqlite3.Connection) -> list[Expired]:
        expired = []
        due = database.execute(_DUE, (self._clock() - EXPIRY_MARGIN_S, EXPIRED_MAX)).fetchall()
        for number, state, size, session, seq, *topic in due:
            if state == _LIVE:
                self._die(database, number, size, "expired", _OVERDUE)
                expired.append(Expired(session, seq, number, TopicKey(*topic)))
            elif state == _DONE:
                database.execute("DELETE FROM cast WHERE number = ?", (number,))
                self._counts.done -= 1
            else:
                self._forget(database, number, size)
        return expired

    def _trim(self, database: sqlite3.Connection) -> None:
        """Forget the oldest dead letters while there are too many."""
        counts, options = self._counts, self._options
        while counts.dead and (counts.dead > options.dead_records_max or counts.dead_bytes > options.dead_bytes_max):
            oldest = f"SELECT number, size FROM cast WHERE state = {_DEAD} ORDER BY number LIMIT 1"
            self._forget(database, *database.execute(oldest).fetchone())

    def _forget(self, database: sqlite3.Connection, number: int, size: int) -> None:
        for table in ("cast", "record"):
            database.execute(f"DELETE FROM {table} WHERE number = ?", (number,))
        self._counts.dead -= 1
        self._counts.dead_bytes -= size

    def fetch(self, fetch: Fetch) -> Fetched:
        rows: list[Kept] = []
        size = 0
        with self._errors():
            now = self._clock()
            cursor = self._connected().execute(_FETCH, (*fetch.topic, fetch.after, fetch.records + 1))
            for number, session, seq, expires, bytes_, record, *sent in cursor:
                if rows and (len(rows) == fetch.records or size + bytes_ > fetch.bytes):
                    cursor.close()
                    return Fetched(fetch.topic, rows, True)
                size += bytes_
                rows.append(Kept(number, session, seq, expires - now, record, (sent[0], sent[1], sent[2])))
        return Fetched(fetch.topic, rows, False)

    # Dead letters

    def dead(self, after: int, limit: int) -> list[DeadLetter]:
        with self._errors():
            query = f"SELECT {_LETTER} FROM cast WHERE state = {_DEAD} AND number > ? ORDER BY number LIMIT ?"
            return [DeadLetter(*row) for row in self._connected().execute(query, (after, limit))]

    def record(self, number: int) -> tuple[DeadLetter, bytes] | None:
        with self._errors():
            query = f"SELECT {_LETTER}, bytes FROM cast JOIN record USING (number) WHERE state = {_DEAD} AND number = ?"
            row = self._connected().execute(query, (number,)).fetchone()
            return (DeadLetter(*row[:-1]), row[-1]) if row else None

    def revive(self, numbers: Sequence[int]) -> list[Survey]:
        with self._errors():
            self._check_file()
            surveys = self._with_room(lambda: self._revive(numbers))
        return [Survey(topic, rows) for topic, rows in surveys.items()]

    def _revive(self, numbers: Sequence[int]) -> dict[TopicKey, int]:
        surveys: dict[TopicKey, int] = {}
        with self._transaction() as database:
            for number, size, topic in self._dead_of(database, numbers):
                last = database.execute("SELECT max(seq) FROM sqlite_sequence").fetchone()[0]
                values = {"new": last + 1, "session": self._session, "now": self._clock(), "number": number}
                database.execute(_REVIVE, values)
                database.execute("UPDATE record SET number = :new WHERE number = :number", values)
                database.execute("UPDATE sqlite_sequence SET seq = :new WHERE name = 'cast'", values)
                counts = self._counts
                counts.dead -= 1
                counts.dead_bytes -= size
                counts.records += 1
                counts.bytes += size
                surveys[topic] = surveys.get(topic, 0) + 1
        return surveys

    def purge(self, numbers: Sequence[int]) -> int:
        with self._errors():
            self._check_file()
            return self._with_room(lambda: self._purge(numbers))

    def _purge(self, numbers: Sequence[int]) -> int:
        with self._transaction() as database:
            found = self._dead_of(database, numbers)
            for number, size, _ in found:
                self._forget(database, number, size)
        return len(found)

    def _dead_of(self, database: sqlite3.Connection, numbers: Sequence[int]) -> list[tuple[int, int, TopicKey]]:
        query = f"SELECT size, namespace, topic FROM cast WHERE number = ? AND state = {_DEAD}"
        rows = [(number, database.execute(query, (number,)).fetchone()) for number in dict.fromkeys(numbers)]
        return [(number, row[0], TopicKey(row[1], row[2])) for number, row in rows if row]

    def totals(self) -> Totals:
        counts = self._counts
        oldest = f"SELECT expires - ttl FROM cast WHERE state = {_LIVE} ORDER BY number LIMIT 1"
        with self._errors():
            row = self._connected().execute(oldest).fetchone()
        oldest_s = max(0.0, self._clock() - row[0]) if row else 0.0
        return Totals(counts.records, counts.bytes, counts.done, counts.dead, oldest_s)

    # The file

    def _connected(self) -> sqlite3.Connection:
        if self._database is None:
            raise SpoolLost(f"the spool {self._path} is not open")
        return self._database

    def _check_file(self) -> None:
        """Begin a new file where somebody has removed ours: what is in a removed one is lost with this process."""
        self._connected()
        try:
            status = self._path.stat()
            same = (status.st_dev, status.st_ino) == self._inode
        except FileNotFoundError:
            same = False
        if not same:
            self.close()
            raise SpoolLost(f"the spool {self._path} was removed or replaced: a new one is begun")

    def _check_room(self, size: int) -> None:
        """Take new records only while there is room for their ends too, and for moving the log into the file."""
        if not size or self._room_left(size) >= 0:
            return
        database = self._connected()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        unused = int(_pragma(database, "freelist_count")) * int(_pragma(database, "page_size"))
        left = self._room_left(size, unused)
        if left < 0:
            raise SpoolError(f"the spool {self._path}: its disk is full, {-left} bytes are missing: {_MAKE_ROOM}")

    def _room_left(self, size: int, unused: int = 0) -> int:
        """Return how many bytes would be free after all with ``size`` more in the log, and then in the file, of which
        so many are unused."""
        status = os.statvfs(self._path.parent)
        log = os.stat(f"{self._path}-wal").st_size
        return status.f_bavail * status.f_frsize - size - max(0, log + size - unused) - ROOM_KEPT_BYTES

    def _with_room(self, write: Callable[[], _Result]) -> _Result:
        """Do a transaction; where the disk is full, once more with the log moved into the file, which makes room."""
        try:
            return write()
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_FULL:
                raise
            self._connected().execute("PRAGMA wal_checkpoint(TRUNCATE)")
            return write()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Have what is done meanwhile be on disk at the end, or none of it be done."""
        database = self._connected()
        before = copy.copy(self._counts)
        try:
            database.execute("BEGIN IMMEDIATE")
            yield database
            database.execute("COMMIT")
        except BaseException:
            self._counts = before
            with contextlib.suppress(sqlite3.Error):
                if database.in_transaction:
                    database.execute("ROLLBACK")
            raise

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Say of what goes wrong where it was and what to do; a damaged file is for `open` to set aside."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            kind = SpoolLost if _is_damage(error) else SpoolError
            raise kind(f"the spool {self._path}: {error}: {_advice(error)}") from error


def _pragma(database: sqlite3.Connection, name: str) -> int | str:
    value: int | str = database.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _code(error: Exception) -> int:
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _is_damage(error: Exception) -> bool:
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _advice(error: Exception) -> str:
    code = _code(error)
    if code == sqlite3.SQLITE_FULL:
        return _MAKE_ROOM
    if code == sqlite3.SQLITE_BUSY:
        return "another process uses the file: stop it"
    if _is_damage(error):
        return "the file is damaged, it is set aside and a new one begun"
    return "this user must be able to write the file and its directory, and the disk must work"
