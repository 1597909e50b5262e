"""Tokens of apps: files that name whoever shows what is in them. Used where the kernel cannot say whose an app is."""

import hashlib
import hmac
import os
import stat
from collections.abc import Iterable

from msgspec import Struct

from mesh.core.records import TOKEN_BYTES_MAX
from mesh.errors import ConfigError

__all__ = ["TOKEN_BYTES_MIN", "Bearer", "Tokens", "digest_of", "read_tokens"]

TOKEN_BYTES_MIN = 16
"""A shorter token could be guessed."""

_LOOSE = 0o137
"""What the mode of a token's file must not have: 0600 and 0640 are right."""


class Bearer(Struct, frozen=True):
    """Whom a token names."""

    user: str
    groups: tuple[str, ...]


def digest_of(token: bytes) -> bytes:
    """Return what an agent keeps of a token. Tokens are drawn at random and long: nothing slows a guess down."""
    return hashlib.sha256(token).digest()


class Tokens(Struct, frozen=True):
    """The tokens of one agent, by their digests."""

    held: tuple[tuple[bytes, Bearer], ...] = ()

    def bearer(self, shown: bytes) -> Bearer | None:
        """Return whom the token with this digest names; it takes as long whichever it is."""
        found = None
        for digest, bearer in self.held:
            if hmac.compare_digest(digest, shown):
                found = bearer
        return found


def read_tokens(wanted: Iterable[tuple[str, str, Bearer]]) -> Tokens:
    """Return what is in the files of ``(name, path, bearer)``; raises ConfigError with all that is wrong."""
    held: list[tuple[bytes, Bearer]] = []
    names: dict[bytes, str] = {}
    problems = []
    for name, path, bearer in wanted:
        try:
            token = _read(path)
            if token in names:
                raise ValueError(f"holds the token of {names[token]!r} too: each needs its own")
        except (OSError, ValueError) as error:
            problems.append(f"token {name!r}: {path} {_said(error)}")
            continue
        names[token] = name
        held.append((digest_of(token), bearer))
    if problems:
        raise ConfigError(problems, "[policy] tokens")
    return Tokens(tuple(held))


def _said(error: OSError | ValueError) -> str:
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)


def _read(path: str) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        mode = stat.S_IMODE(found.st_mode)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("is no file")
        if mode & _LOOSE:
            raise ValueError(f"is open to others (mode {mode:04o}): chmod 600, or 640 for the group of its apps")
        if found.st_uid not in (0, os.geteuid()):
            raise ValueError(f"belongs to user {found.st_uid}: chown it to root or to the agent's user")
        token = file.read(TOKEN_BYTES_MAX + 2).strip()
    if not (TOKEN_BYTES_MIN <= len(token) <= TOKEN_BYTES_MAX and all(0x21 <= byte <= 0x7E for byte in token)):
        raise ValueError(
            f"must hold one token of {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} printable characters: "
            f"`openssl rand -hex 32` makes one"
        )
    return token
