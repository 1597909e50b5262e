"""The embedded matchmaker: the agents of one machine share a SQLite file.

TTLs are kept as (boot id, seconds since boot), so that neither a step of the clock nor a crash keeps anything alive
past its TTL, and what an earlier boot left is dead. While they wait, all watches poll one connection's
``data_version``, which costs microseconds.

A connection is used by one thread at a time and kept for the next; there are no locks but SQLite's own, so the verbs
may run in native threads and greenlets alike. If somebody removed the file, the next verb starts a new one.
"""

import contextlib
import fcntl
import os
import sqlite3
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from mesh.boot import boot_id, since_boot
from mesh.core.catalogue import AgentEntry, Health, Instance, Snapshot
from mesh.matchmaker.base import Entry, MatchmakerError, snapshot
from mesh.types import TopicKey

__all__ = ["SqliteMatchmaker", "SqliteOptions"]

POLL_S = 0.1
TURN_S = 0.001
"""How often a thread looks whether its turn has come; what the one before it does takes less, but for a slow disk."""

APPLICATION_ID = 0x6D657368
SCHEMA_VERSION = 1
_NO_FILE = (0, 0)

# An agent is the row whose topic is empty, which no instance's is.
_SCHEMA = f"""
PRAGMA journal_mode = WAL;
CREATE TABLE fleet (name TEXT NOT NULL);
CREATE TABLE entry (
    topic TEXT NOT NULL, namespace TEXT NOT NULL, node TEXT NOT NULL, server TEXT NOT NULL, session INTEGER NOT NULL,
    boot TEXT NOT NULL, expires REAL NOT NULL, health INTEGER NOT NULL, text TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (topic, namespace, node, server, session)
) WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
_KEY = "topic = :topic AND namespace = :namespace AND node = :node AND server = :server AND session = :session"
_ALIVE = "boot = :boot AND expires > :now"
_REGISTER = """INSERT OR REPLACE INTO entry
    VALUES (:topic, :namespace, :node, :server, :session, :boot, :expires, :health, '', :body)"""
_RENEW = (
    f"UPDATE entry SET expires = :expires, health = :health, text = :text WHERE {_KEY} AND body = :body AND {_ALIVE}"
)
_AGENTS = f"""SELECT body FROM entry WHERE topic = '' AND {_ALIVE} AND health <> :critical
    AND (:node = '' OR node = :node) ORDER BY node"""
_WATCH = f"""SELECT i.body, i.health, min(i.expires, a.expires)
    FROM (SELECT * FROM entry WHERE topic = :topic AND namespace = :namespace AND {_ALIVE} AND health <> :critical) AS i
    JOIN (SELECT * FROM entry WHERE topic = '' AND {_ALIVE} AND health <> :critical) AS a USING (node)"""

_agent_decoder = msgspec.msgpack.Decoder(AgentEntry)
_instance_decoder = msgspec.msgpack.Decoder(Instance)


class SqliteOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the embedded matchmaker."""

    path: Annotated[
        str,
        Meta(
            description="The file that the agents of this machine share. Trade-off: agents meet only in the same file, "
            "and whoever may write it decides where messages go; on a memory file system it costs no disk writes."
        ),
    ] = ""
    ttl_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=3600,
            description="Seconds that an entry lives without a renewal. Trade-off: shorter, and a crashed agent is "
            "forgotten sooner; at least three renewals should fit, or a busy machine forgets the living.",
        ),
    ] = 15.0
    busy_timeout_s: Annotated[
        float,
        Meta(
            ge=0,
            le=60,
            description="Seconds to wait for another agent's write. Trade-off: longer rides out a slow disk; shorter "
            "reports a stuck one sooner.",
        ),
    ] = 2.0


class _Connection(NamedTuple):
    """A connection, and which file it has open."""

    database: sqlite3.Connection
    inode: tuple[int, int]


class _Line:
    """One connection, lent to one thread after the other: those that come meanwhile wait.

    SQLite keeps the descriptors of closed connections for as long as others of the process have the file open, so more
    connections, needed for a moment, would stay as descriptors. Each step here is atomic.
    """

    def __init__(self) -> None:
        self.connection: _Connection | None = None
        self._turn = deque([None])

    def take_turn(self, *, wait: bool = True) -> bool:
        """Have the connection to oneself; False: another has it, and is not waited for."""
        while True:
            try:
                self._turn.pop()
            except IndexError:
                if not wait:
                    return False
                time.sleep(TURN_S)
            else:
                return True

    def end_turn(self) -> None:
        """Let another have it."""
        self._turn.append(None)


class SqliteMatchmaker:
    """The matchmaker of one agent. ``clock`` gives seconds since boot, ``boot`` names the boot."""

    def __init__(
        self, fleet: str, options: SqliteOptions, *, clock: Callable[[], float] | None = None, boot: str = ""
    ) -> None:
        if not options.path:
            raise MatchmakerError("matchmaker: sqlite.path is empty: name the file that this machine's agents share")
        self._fleet = fleet
        self._options = options
        self._path = Path(options.path)
        self._clock = clock or since_boot
        self._boot = boot or boot_id()
        self._writer = _Line()
        self._reader = _Line()
        self._poller = _Line()
        self._polled: tuple[int, ...] = ()
        self._changes = 0
        self._closed = False

    def register(self, entry: Entry) -> None:
        body = msgspec.msgpack.encode(entry)
        with self._connection(self._writer) as connection, connection.database as database:
            database.execute(f"DELETE FROM entry WHERE NOT ({_ALIVE})", self._values())
            database.execute(_REGISTER, self._values(entry) | {"health": int(Health.PASSING), "body": body})

    def renew(self, entry: Entry, health: Health, text: str) -> bool:
        body = msgspec.msgpack.encode(entry)
        with self._connection(self._writer) as connection, connection.database as database:
            values = self._values(entry) | {"health": int(health), "text": text, "body": body}
            cursor = database.execute(_RENEW, values)
            return cursor.rowcount > 0

    def withdraw(self, entry: Entry) -> None:
        with self._connection(self._writer) as connection, connection.database as database:
            which = "node = :node" if isinstance(entry, AgentEntry) else _KEY
            database.execute(f"DELETE FROM entry WHERE {which}", self._values(entry))

    def watch(self, topic: TopicKey, index: int, wait_s: float) -> Snapshot:
        deadline = time.monotonic() + wait_s
        while True:
            changes = self._changes
            seen, next_expiry = self._look(topic)
            if seen.index != index:
                return seen
            while changes == self._changes and self._clock() < next_expiry:
                left = deadline - time.monotonic()
                if left <= 0:
                    return seen
                time.sleep(min(left, POLL_S))
                self._poll()

    def agents(self, node: str = "") -> Sequence[AgentEntry]:
        with self._connection(self._reader) as connection:
            rows = connection.database.execute(_AGENTS, self._values() | {"node": node})
            return [_agent_decoder.decode(body) for (body,) in rows]

    def close(self) -> None:
        self._closed = True
        for line in (self._writer, self._reader, self._poller):
            connection, line.connection = line.connection, None
            if connection is not None:
                connection.database.close()

    def _look(self, topic: TopicKey) -> tuple[Snapshot, float]:
        """Return what is in the file now, and when the first of it dies."""
        with self._connection(self._reader) as connection:
            rows = connection.database.execute(_WATCH, self._values() | topic._asdict()).fetchall()
            instances = [replace(_instance_decoder.decode(body), health=Health(health)) for body, health, _ in rows]
        return snapshot(topic, instances), min((expires for _, _, expires in rows), default=float("inf"))

    def _poll(self) -> None:
        """Count a change if anybody wrote to the file, or replaced it, since the last poll of any watch.

        ``data_version`` tells of writes by other connections, so this one never writes."""
        self._check_open()
        if not self._poller.take_turn(wait=False):  # another watch polls at this moment, for all
            return
        try:
            with self._lent(self._poller) as connection:
                polled = (*connection.inode, _pragma(connection.database, "data_version"))
            if polled != self._polled:
                self._polled = polled
                self._changes += 1
        finally:
            self._poller.end_turn()

    def _values(self, entry: Entry | None = None) -> dict[str, str | float | bytes]:
        """Return the named parameters of a statement: now, and what an entry is stored under."""
        now = self._clock()
        values: dict[str, str | float | bytes] = {"boot": self._boot, "now": now, "critical": int(Health.CRITICAL)}
        if isinstance(entry, AgentEntry):
            values |= {"topic": "", "namespace": "", "node": entry.node, "server": "", "session": 0}
        elif entry:
            values |= entry.topic_key._asdict() | entry.key._asdict()
        return values | {"expires": now + self._options.ttl_s}

    @contextlib.contextmanager
    def _connection(self, line: _Line) -> Iterator[_Connection]:
        """Lend the connection of a line, when its turn has come."""
        self._check_open()
        line.take_turn()
        try:
            with self._lent(line) as connection:
                yield connection
        finally:
            line.end_turn()

    @contextlib.contextmanager
    def _lent(self, line: _Line) -> Iterator[_Connection]:
        """Lend a connection to the file that is at the path now; what goes wrong with it becomes a MatchmakerError."""
        connection, line.connection = line.connection, None
        try:
            if connection is not None and connection.inode != self._inode():
                connection.database.close()
                connection = None
            connection = connection or self._open()
            yield connection
        except (sqlite3.Error, msgspec.MsgspecError, OSError) as error:
            if connection:
                connection.database.close()
                connection = None
            raise MatchmakerError(f"matchmaker file {self._path}: {error}: {self._advice(error)}") from error
        finally:
            if connection and not self._closed:
                line.connection = connection
            elif connection:
                connection.database.close()

    def _open(self) -> _Connection:
        """Connect to the file, after making it if there is none, and check that it is this fleet's."""
        if self._inode() == _NO_FILE:
            self._create()
        inode = self._inode()
        database = self._connect(self._path)
        try:
            application, version = _pragma(database, "application_id"), _pragma(database, "user_version")
            if application != APPLICATION_ID:
                raise MatchmakerError(f"{self._path} is not a matchmaker file: choose another sqlite.path or remove it")
            fleet = database.execute("SELECT max(name) FROM fleet").fetchone()[0] if version == SCHEMA_VERSION else ""
            if (version, fleet) != (SCHEMA_VERSION, self._fleet):
                of = f"fleet {fleet!r}, not {self._fleet!r}" if fleet else f"format {version}, not {SCHEMA_VERSION}"
                raise MatchmakerError(f"matchmaker file {self._path} is of {of}: give each a sqlite.path of its own")
        except BaseException:
            database.close()
            raise
        return _Connection(database, inode)

    def _create(self) -> None:
        """Lay out a new file beside the path and move it there, so that nobody ever sees half of it.

        The directory is locked meanwhile: the first one wins, and SQLite never reads the log of a removed file into
        the new one."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            lock = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
            undo.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._inode() != _NO_FILE:
                return
            for left in ("-wal", "-shm"):
                Path(f"{self._path}{left}").unlink(missing_ok=True)
            descriptor, unfinished = tempfile.mkstemp(dir=self._path.parent, prefix=f".{self._path.name}.")
            os.close(descriptor)
            undo.callback(Path(unfinished).unlink, missing_ok=True)
            with contextlib.closing(self._connect(Path(unfinished))) as database, database:
                database.executescript(_SCHEMA)
                database.execute("INSERT INTO fleet VALUES (?)", (self._fleet,))
            os.rename(unfinished, self._path)

    def _connect(self, path: Path) -> sqlite3.Connection:
        database = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=self._options.busy_timeout_s,
            isolation_level="IMMEDIATE",
            check_same_thread=False,
        )
        database.execute("PRAGMA synchronous = NORMAL")
        return database

    def _inode(self) -> tuple[int, int]:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            return _NO_FILE
        return (status.st_dev, status.st_ino)

    def _advice(self, error: Exception) -> str:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return f"another process held it for {self._options.busy_timeout_s} s: find it with `fuser`"
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or isinstance(error, msgspec.MsgspecError):
            return "it is damaged: remove it and its -wal and -shm, the agents register again by themselves"
        return "this user must be able to write the file and its directory, and there must be room"

    def _check_open(self) -> None:
        if self._closed:
            raise MatchmakerError(f"matchmaker file {self._path} was closed here")


def _pragma(database: sqlite3.Connection, name: str) -> int:
    value: int = database.execute(f"PRAGMA {name}").fetchone()[0]
    return value
