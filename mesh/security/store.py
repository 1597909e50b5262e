"""Keys on disk: an operator's directory of a fleet, and each node's own.

::

    FLEET/fleet.key          what signs; never leaves the operator
    FLEET/fleet.public       what verifies, a key a line; every node has a copy
    FLEET/revoked            the revocations; every node has a copy
    FLEET/issued             the certificates that were signed and have not expired
    NODE/node.key            the node's key pair; never leaves the node
    NODE/next.key            the pair that it changes to
    NODE/node.request        what is to be signed
    NODE/node.certificate    what came of that: the pair that it names is the one in use
    DATA/revoked             in the agent's data directory: the latest revocations that it heard of while it ran

So a node changes to its next pair with the one file that is replaced last. Directories have mode 0700 and secrets 0600;
looser ones are refused, and so is what belongs to another user.
"""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from mesh.errors import ConfigError
from mesh.security.certificates import (
    REVOKED_MAX,
    Certificate,
    Revocations,
    open_revocations,
    peek,
    sign,
    verify,
)
from mesh.security.forms import LINES_MAX, read_lines, write_line
from mesh.security.keys import FleetKey, FleetSecret, NodeSecret, Request, new_fleet, new_node
from mesh.types import name_problem, node_id_problem

__all__ = [
    "CERTIFICATE",
    "REQUEST",
    "REVOKED",
    "NodeKeys",
    "certify",
    "is_fleet",
    "keep_revocations",
    "kept_revocations",
    "load",
    "load_fleet",
    "load_node",
    "make_fleet",
    "make_node",
    "read_request",
    "read_revocations",
    "renew_node",
    "revocations_text",
    "revoke",
    "trusted",
]

FLEET_SECRET, FLEET_PUBLIC, REVOKED, ISSUED = "fleet.key", "fleet.public", "revoked", "issued"
NODE_SECRET, NEXT_SECRET, REQUEST, CERTIFICATE = "node.key", "next.key", "node.request", "node.certificate"

FILE_BYTES_MAX = 1 << 20
REVOKED_BYTES_MAX = 512 << 10
"""Bytes of the revocations as text: what a key of Consul may hold."""

ISSUED_BYTES_MAX = 1 << 26
ISSUED_MAX = 100_000

BACKDATED_S = 300
"""A certificate is valid from so long before it was signed, for clocks differ."""

DAY_S = 86_400


class NodeKeys(Struct, frozen=True):
    """What an agent works with. ``shown``: its certificate as it is sent; ``trusted``: the fleet's public keys."""

    secret: NodeSecret
    shown: bytes
    certificate: Certificate
    trusted: tuple[bytes, ...]
    revocations: Revocations


# An agent's


def load(directory: Path, node: str, fleet: str, unix_s: float) -> NodeKeys:
    """Return the keys of an agent; raises ConfigError that says what is wrong with which file, and what to do."""
    _check_directory(directory, "mesh keys generate")
    secrets = [_read(directory / NODE_SECRET, "node-key", NodeSecret, secret=True)[0]]
    if (directory / NEXT_SECRET).exists():
        secrets += _read(directory / NEXT_SECRET, "node-key", NodeSecret, secret=True)
    fleet_keys = trusted(directory, fleet)
    revocations = _revocations(directory, fleet, fleet_keys)
    path = directory / CERTIFICATE
    (shown,) = _read(path, "certificate", bytes)[:1]
    try:
        certificate = verify(shown, fleet, fleet_keys, revocations.keys, unix_s)
    except ValueError as error:
        raise _wrong(path, f"holds {error}; have {directory / REQUEST} signed by `mesh keys sign`") from None
    if certificate.node != node:
        raise _wrong(path, f"is of node {certificate.node!r}, and this agent is {node!r}: set node_id, or sign another")
    for secret in secrets:
        if secret.public_key == certificate.public_key:
            return NodeKeys(secret, shown, certificate, fleet_keys, revocations)
    raise _wrong(path, f"is for a key that is not in {directory}; have {REQUEST} signed by `mesh keys sign`")


def trusted(directory: Path, fleet: str) -> tuple[bytes, ...]:
    """Return the public keys of a node's fleet, 32 bytes each; raises ConfigError."""
    keys: list[FleetKey] = _read(directory / FLEET_PUBLIC, "fleet", FleetKey)
    for key in keys:
        if key.fleet != fleet:
            raise _wrong(directory / FLEET_PUBLIC, f"is of fleet {key.fleet!r}, and this agent is of {fleet!r}")
    return tuple(key.key for key in keys)


def _revocations(directory: Path, fleet: str, fleet_keys: Sequence[bytes]) -> Revocations:
    path = directory / REVOKED
    data = revocations_text(directory)
    try:
        return read_revocations(data, fleet, fleet_keys)
    except ValueError as error:
        raise _wrong(path, str(error)) from None


def revocations_text(directory: Path) -> bytes:
    """Return the revocations in a directory as they are handed on; raises ConfigError."""
    return _text(directory / REVOKED, REVOKED_BYTES_MAX).encode()


def read_revocations(text: bytes, fleet: str, fleet_keys: Sequence[bytes]) -> Revocations:
    """Return the fleet's revocations in a text, wherever it is from; raises ValueError that says what is wrong."""
    if len(text) > REVOKED_BYTES_MAX:
        raise ValueError(f"is larger than {REVOKED_BYTES_MAX} bytes")
    try:
        (signed,) = read_lines("revoked", text.decode("ascii"), bytes, 1)
    except UnicodeDecodeError:
        raise ValueError("is no text of ours") from None
    return open_revocations(signed, fleet, fleet_keys)


def kept_revocations(data_dir: Path) -> bytes:
    """Return the revocations that an agent before this one kept, nothing if it kept none; raises ConfigError."""
    return revocations_text(data_dir) if (data_dir / REVOKED).exists() else b""


def keep_revocations(data_dir: Path, text: bytes) -> None:
    """Keep revocations for the next agent; raises ConfigError."""
    _write(data_dir / REVOKED, text.decode("ascii"))


def load_node(directory: Path) -> tuple[list[NodeSecret], bytes | None]:
    """Return a node's key pairs and its certificate, whether they fit or not; raises ConfigError."""
    _check_directory(directory, "mesh keys generate")
    paths = [path for path in (directory / NODE_SECRET, directory / NEXT_SECRET) if path.exists()]
    secrets = [_read(path, "node-key", NodeSecret, secret=True)[0] for path in paths]
    path = directory / CERTIFICATE
    return secrets, _read(path, "certificate", bytes)[0] if path.exists() else None


def make_node(directory: Path, node: str) -> Request:
    """Make a node's first key pair, and what is to be signed; raises ConfigError."""
    if problem := node_id_problem(node):
        raise ConfigError([problem], str(directory))
    _make_directory(directory)
    if (directory / NODE_SECRET).exists():
        raise _wrong(directory / NODE_SECRET, "is there already: `mesh keys rotate` makes the next pair")
    secret = new_node()
    _write(directory / NODE_SECRET, write_line("node-key", secret))
    return _ask(directory, Request(node, secret.public_key))


def renew_node(directory: Path) -> Request:
    """Make a node's next key pair, and what is to be signed; the present one stays in use until then."""
    secrets, shown = load_node(directory)
    if not secrets or shown is None:
        raise _wrong(directory, "has no signed key pair yet: have its request signed by `mesh keys sign` first")
    try:
        certificate = peek(shown)
    except ValueError as error:
        raise _wrong(directory / CERTIFICATE, f"is {error}") from None
    if len(secrets) > 1 and secrets[1].public_key == certificate.public_key:
        os.replace(directory / NEXT_SECRET, directory / NODE_SECRET)
    secret = new_node()
    _write(directory / NEXT_SECRET, write_line("node-key", secret))
    return _ask(directory, Request(certificate.node, secret.public_key))


def _ask(directory: Path, request: Request) -> Request:
    _write(directory / REQUEST, write_line("request", request))
    return request


# An operator's


def make_fleet(directory: Path, fleet: str) -> FleetSecret:
    """Make a fleet's signing key; raises ConfigError."""
    if problem := name_problem("fleet", fleet):
        raise ConfigError([problem], str(directory))
    _make_directory(directory)
    if (directory / FLEET_SECRET).exists():
        raise _wrong(directory / FLEET_SECRET, "is there already, and every certificate of its fleet depends on it")
    secret = new_fleet(fleet)
    _write(directory / REVOKED, write_line("revoked", sign(Revocations(fleet, 0, ()), secret.signer)))
    _write(directory / FLEET_PUBLIC, write_line("fleet", secret.public))
    _write(directory / FLEET_SECRET, write_line("fleet-key", secret))
    return secret


def load_fleet(directory: Path) -> tuple[FleetSecret, Revocations, list[Certificate]]:
    """Return a fleet's signing key, its revocations and the certificates that it issued; raises ConfigError."""
    _check_directory(directory, "mesh keys init-fleet")
    (secret,) = _read(directory / FLEET_SECRET, "fleet-key", FleetSecret, secret=True)[:1]
    revocations = _revocations(directory, secret.fleet, trusted(directory, secret.fleet))
    path = directory / ISSUED
    return secret, revocations, [peek(line) for line in _issued(path)]


def is_fleet(directory: Path) -> bool:
    """Return whether a directory is a fleet's."""
    return (directory / FLEET_SECRET).exists()


def _issued(path: Path) -> list[bytes]:
    return _read(path, "certificate", bytes, most=ISSUED_BYTES_MAX, lines=ISSUED_MAX) if path.exists() else []


def read_request(path: Path) -> Request:
    """Return what a node asks to be signed; raises ConfigError."""
    (request,) = _read(path, "request", Request)[:1]
    return request  # type: ignore[no-any-return]


def certify(
    directory: Path, request: Request, out: Path, *, days: float, roles: tuple[str, ...], unix_s: float
) -> Certificate:
    """Sign for a node, and put all that it needs into ``out``, its certificate last; raises ConfigError."""
    secret, revocations, _ = load_fleet(directory)
    _sign_anew(directory, secret, revocations)
    if problem := node_id_problem(request.node):
        raise ConfigError([problem], "the request")
    if request.public_key in revocations.keys:
        raise ConfigError([f"the key of {request.node!r} is revoked: `mesh keys rotate` makes another"], "the request")
    now = int(unix_s)
    until = now + round(days * DAY_S)
    certificate = Certificate(secret.fleet, request.node, request.public_key, now - BACKDATED_S, until, roles)
    shown = sign(certificate, secret.signer)
    kept = [line for line in _issued(directory / ISSUED) if peek(line).valid_until >= now]
    _write(directory / ISSUED, "".join(write_line("certificate", line) for line in (*kept, shown)))
    for name in (FLEET_PUBLIC, REVOKED):
        _write(out / name, _text(directory / name, FILE_BYTES_MAX))
    _write(out / CERTIFICATE, write_line("certificate", shown))
    return certificate


def _sign_anew(directory: Path, secret: FleetSecret, revocations: Revocations) -> None:
    """Have the fleet's revocations be signed by this key, if they are still by another that is trusted."""
    try:
        read_revocations(revocations_text(directory), secret.fleet, [secret.public.key])
    except ValueError:
        after = structs.replace(revocations, number=revocations.number + 1)
        _write(directory / REVOKED, write_line("revoked", sign(after, secret.signer)))


def revoke(directory: Path, whom: str, unix_s: float) -> tuple[Revocations, list[str]]:
    """Revoke a public key, or all that were issued to a node and have not expired; return the list, and what is new.

    Raises ConfigError.
    """
    secret, before, issued = load_fleet(directory)
    keys = [each.public_key for each in issued if whom in (each.node, each.public_key) and each.valid_until >= unix_s]
    new = [key for key in dict.fromkeys(keys) if key not in before.keys]
    if not keys:
        raise _wrong(directory / ISSUED, f"has no certificate of a node or for a key {whom!r} that has not expired")
    if len(before.keys) + len(new) > REVOKED_MAX:
        raise _wrong(directory / REVOKED, f"would have more than {REVOKED_MAX} keys")
    after = Revocations(before.fleet, before.number + 1, (*before.keys, *new))
    _write(directory / REVOKED, write_line("revoked", sign(after, secret.signer)))
    return after, new


# Files


def _read(
    path: Path, kind: str, type: Any, *, secret: bool = False, most: int = FILE_BYTES_MAX, lines: int = LINES_MAX
) -> list[Any]:
    try:
        return read_lines(kind, _text(path, most, secret=secret), type, lines)
    except ConfigError:
        raise
    except ValueError as error:
        raise _wrong(path, str(error)) from None


def _text(path: Path, most: int, *, secret: bool = False) -> str:
    """Return a file's text; raises ConfigError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | (os.O_NOFOLLOW if secret else 0))
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if secret and stat.S_IMODE(found.st_mode) & 0o077:
                raise _wrong(path, f"may be read by others (mode {stat.S_IMODE(found.st_mode):04o}): chmod 600 {path}")
            if secret and found.st_uid not in (0, os.geteuid()):
                raise _wrong(path, f"belongs to user {found.st_uid}: chown it to the user that uses it")
            data = file.read(most + 1)
        if len(data) > most:
            raise _wrong(path, f"is larger than {most} bytes")
        return data.decode("ascii")
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror}{_HINTS.get(path.name, '')}") from None
    except UnicodeDecodeError:
        raise _wrong(path, "is no text of ours") from None


_HINTS = {
    NODE_SECRET: "; make it by `mesh keys generate`",
    CERTIFICATE: "; have node.request signed by `mesh keys sign`",
    FLEET_PUBLIC: "; `mesh keys sign` puts it beside the certificate",
    REVOKED: "; `mesh keys sign` puts it beside the certificate",
    FLEET_SECRET: "; make it by `mesh keys init-fleet`",
    REQUEST: "; make it by `mesh keys generate` or `mesh keys rotate`",
}


def _write(path: Path, text: str) -> None:
    """Replace a file whole, mode 0600; raises ConfigError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="ascii") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        os.replace(temporary, path)
    except OSError as error:
        raise _wrong(path, f"cannot be written: {error.strerror}") from None


def _make_directory(directory: Path) -> None:
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _wrong(directory, f"cannot be made: {error.strerror}") from None
    _check_directory(directory, "")


def _check_directory(directory: Path, maker: str) -> None:
    """Raise ConfigError unless a directory is there, and its user's alone."""
    try:
        found = directory.stat()
    except OSError as error:
        hint = f"; make it by `{maker}`" if maker else ""
        raise _wrong(directory, f"the directory of keys cannot be read: {error.strerror}{hint}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise _wrong(directory, "is not a directory")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise _wrong(directory, f"is open to others (mode {stat.S_IMODE(found.st_mode):04o}): chmod 700 {directory}")
    if found.st_uid not in (0, os.geteuid()):
        raise _wrong(directory, f"belongs to user {found.st_uid}: chown it to the user that uses it")


def _wrong(path: Path, text: str) -> ConfigError:
    return ConfigError([text], str(path))
