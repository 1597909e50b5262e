"""Who local apps are: whom the kernel shows at the other end of a socket, by this machine's names, or a token names.

The kernel tells the user by ``SO_PEERCRED`` and the groups by ``SO_PEERGROUPS``, as numbers. What they are called may
take a directory service its time to say, so it is asked in a thread of its own, and remembered until the next reload. A
number without a name is called ``#`` and the number.

A user whom the kernel cannot show here, as of a container with users of its own, is the overflow user: nobody.
"""

import ctypes
import errno
import grp
import pwd
import socket
import struct
from pathlib import Path

from gevent.threadpool import ThreadPool
from msgspec import Struct, structs

from mesh.core.codec import decode, encode
from mesh.core.records import AppHello
from mesh.core.session import Credentials, Named
from mesh.errors import ProtocolError
from mesh.security.tokens import Bearer, Tokens, digest_of

__all__ = ["People", "Person", "peer_of"]

NAMES_MAX = 4096
"""Names that are remembered; above it all are forgotten."""

UNKNOWN_TOKEN = "this agent knows no such token: see its [policy.tokens], and MESH_TOKEN_FILE of the app"

_UCRED = struct.Struct("3i")
_SO_PEERGROUPS = getattr(socket, "SO_PEERGROUPS", 59)
_GROUPS_AT_ONCE = 256  # Python's getsockopt returns no more than 1024 bytes
_GROUPS_MAX = 65_536
_OVERFLOW = Path("/proc/sys/kernel/overflowuid")


class Person(Struct, frozen=True):
    """Whom the kernel shows at the other end of a socket, in its numbers."""

    pid: int
    uid: int
    gids: tuple[int, ...]


def peer_of(sock: socket.socket) -> Person:
    """Ask the kernel who connected."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        found = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _GROUPS_AT_ONCE)
    except OSError as error:
        found = _all_groups(sock) if error.errno == errno.ERANGE else b""
    gids = struct.unpack(f"{len(found) // 4}I", found)
    return Person(pid, uid, tuple(dict.fromkeys((gid, *gids))))


def _all_groups(sock: socket.socket) -> bytes:
    """Return the groups of somebody who is in very many."""
    buffer, size = (ctypes.c_uint32 * _GROUPS_MAX)(), ctypes.c_uint32(4 * _GROUPS_MAX)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(sock.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, buffer, ctypes.byref(size)):
        raise OSError(ctypes.get_errno(), "the kernel does not tell the groups of an app")
    return bytes(buffer)[: size.value]


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"#{gid}"


class People:
    """The people of one agent. ``bearers``: by which digests of tokens connections were named."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self.users: dict[int, str] = {}
        self.groups: dict[int, str] = {}
        self.bearers: dict[int, tuple[bytes, Bearer]] = {}
        self.nobody = int(_OVERFLOW.read_text()) if _OVERFLOW.exists() else 65_534
        self.thread = ThreadPool(1)

    # Names

    def known(self, person: Person) -> Credentials | None:
        """Return what a person is called, or None if that has to be looked up."""
        if person.uid == self.nobody:
            return Credentials(person.uid, person.pid)
        user = self.users.get(person.uid)
        groups = [self.groups[gid] for gid in person.gids if gid in self.groups]
        if user is None or len(groups) != len(person.gids):
            return None
        return Credentials(person.uid, person.pid, user, tuple(groups))

    def look_up(self, person: Person) -> Credentials:
        """Find out what a person is called, in a greenlet that waits for it."""
        users, groups = self.thread.apply(_names, (person, dict(self.users), dict(self.groups)))
        if len(self.users) + len(self.groups) > NAMES_MAX:
            self.forget()
        self.users[person.uid] = users
        self.groups.update(zip(person.gids, groups, strict=True))
        return Credentials(person.uid, person.pid, users, groups)

    def forget(self) -> None:
        """Look names up anew from now on."""
        self.users.clear()
        self.groups.clear()

    # Tokens

    def look(self, conn: int, data: memoryview) -> tuple[Named, bytes] | None:
        """Look at an app's first frame: return whom its token names, and the frame without it; None: it has none."""
        try:
            batch = decode(data)
        except (ProtocolError, ValueError):
            return None  # the node sees it too, and says so
        hello = batch.records[0] if batch.records else None
        if not isinstance(hello, AppHello) or not hello.token:
            return None
        digest = digest_of(hello.token)
        bearer = self.tokens.bearer(digest)
        named = Named(problem=UNKNOWN_TOKEN) if bearer is None else Named(bearer.user, bearer.groups)
        if bearer is not None:
            self.bearers[conn] = digest, bearer
        return named, encode(batch.counter, [structs.replace(hello, token=b""), *batch.records[1:]])

    def left(self, conn: int) -> None:
        """A connection is over."""
        self.bearers.pop(conn, None)

    def use(self, tokens: Tokens) -> list[int]:
        """From now on believe these tokens; return the connections whose token names nobody now, or somebody else."""
        self.tokens = tokens
        self.forget()
        return [conn for conn, (digest, bearer) in self.bearers.items() if tokens.bearer(digest) != bearer]


def _names(person: Person, users: dict[int, str], groups: dict[int, str]) -> tuple[str, tuple[str, ...]]:
    """Return what a person and each of its groups is called; blocks for what is not known."""
    user = users.get(person.uid) or _user_name(person.uid)
    return user, tuple(groups.get(gid) or _group_name(gid) for gid in person.gids)
