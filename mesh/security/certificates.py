"""What a fleet's key signs: who a node is, and whose keys count no more. Pure: keys, bytes and the time are arguments.

A **certificate** says that within its validity a CURVE public key is a node's. The **revocations** are one list for the
fleet; a list with a greater number replaces the others, whichever way it came. Both are signed as
``[payload, signature]`` in MessagePack. What is signed begins with what it is, so that neither passes for the other.

Signatures are Ed25519's, by ``cryptography``.
"""

import time
from collections.abc import Container, Sequence
from typing import Annotated, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta, Struct

__all__ = [
    "CERTIFICATE_BYTES_MAX",
    "REVOKED_MAX",
    "Certificate",
    "Revocations",
    "later",
    "moment",
    "open_revocations",
    "peek",
    "sign",
    "verify",
]

CERTIFICATE_BYTES_MAX = 4_096
"""Bytes of a signed certificate; a larger one is not looked at."""

REVOKED_MAX = 9_000
"""Keys that one list may revoke, so that its text fits into a key of Consul. Expired ones need not be in it."""

Key = Annotated[str, Meta(min_length=40, max_length=40)]
Seconds = Annotated[int, Meta(ge=0, le=1 << 40)]


class Certificate(Struct, frozen=True, array_like=True):
    """Whose key this is: ``public_key`` in Z85, validity in unix seconds, both ends included."""

    fleet: Annotated[str, Meta(max_length=255)]
    node: Annotated[str, Meta(max_length=128)]
    public_key: Key
    valid_from: Seconds
    valid_until: Seconds
    roles: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=16)] = ()


class Revocations(Struct, frozen=True, array_like=True):
    """The public keys (Z85) of a fleet that count no more; ``number`` rises with each list."""

    fleet: Annotated[str, Meta(max_length=255)]
    number: Seconds
    keys: Annotated[tuple[Key, ...], Meta(max_length=REVOKED_MAX)]


class _Signed(Struct, array_like=True):
    payload: bytes
    signature: bytes


Payload = Certificate | Revocations
_Kind = TypeVar("_Kind", Certificate, Revocations)
_WHAT: dict[type, bytes] = {Certificate: b"heartmesh certificate 1\0", Revocations: b"heartmesh revocations 1\0"}


def sign(payload: Payload, fleet_key: Ed25519PrivateKey) -> bytes:
    """Return a payload signed by a fleet's key."""
    data = msgspec.msgpack.encode(payload)
    return msgspec.msgpack.encode(_Signed(data, fleet_key.sign(_WHAT[type(payload)] + data)))


def _open(data: bytes, kind: type[_Kind], trusted: Sequence[bytes]) -> tuple[_Kind, bool]:
    """Return what is inside, and whether one of the trusted keys signed it; raises ValueError if it is none."""
    try:
        signed = msgspec.msgpack.decode(data, type=_Signed)
        payload = msgspec.msgpack.decode(signed.payload, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise ValueError("what is none") from None
    for key in trusted:
        try:
            Ed25519PublicKey.from_public_bytes(key).verify(signed.signature, _WHAT[kind] + signed.payload)
        except InvalidSignature:
            continue
        return payload, True
    return payload, False


def peek(data: bytes) -> Certificate:
    """Return what a certificate says, whoever signed it; raises ValueError if it is none."""
    return _open(data, Certificate, ())[0]


def verify(data: bytes, fleet: str, trusted: Sequence[bytes], revoked: Container[str], unix_s: float) -> Certificate:
    """Return what a certificate of a fleet says, now; raises ValueError whose text is what it is instead.

    ``trusted``: the fleet's public keys, 32 bytes each; one of them must have signed it.
    """
    if not data:
        raise ValueError("no certificate")
    if len(data) > CERTIFICATE_BYTES_MAX:
        raise ValueError(f"a certificate of {len(data)} bytes, over {CERTIFICATE_BYTES_MAX}")
    try:
        certificate, signed = _open(data, Certificate, trusted)
    except ValueError:
        raise ValueError("a certificate that cannot be read") from None
    says = f"(it says node {certificate.node!r} of fleet {certificate.fleet!r})"
    if not signed:
        raise ValueError(f"a certificate that no key of this fleet has signed {says}")
    if certificate.fleet != fleet:
        raise ValueError(f"a certificate of another fleet {says}")
    if unix_s < certificate.valid_from:
        raise ValueError(f"a certificate that is valid only from {moment(certificate.valid_from)} {says}")
    if unix_s > certificate.valid_until:
        raise ValueError(f"a certificate that expired at {moment(certificate.valid_until)} {says}")
    if certificate.public_key in revoked:
        raise ValueError(f"a revoked certificate {says}")
    return certificate


def open_revocations(data: bytes, fleet: str, trusted: Sequence[bytes]) -> Revocations:
    """Return a fleet's list; raises ValueError that says why it is not one."""
    try:
        revocations, signed = _open(data, Revocations, trusted)
    except ValueError:
        raise ValueError("holds no revocations that can be read") from None
    if not signed:
        raise ValueError("is signed by no key of this fleet")
    if revocations.fleet != fleet:
        raise ValueError(f"is of fleet {revocations.fleet!r}, this is {fleet!r}")
    return revocations


def later(held: Revocations, told: Revocations) -> Revocations:
    """Return what counts when a list is told while another is held; raises ValueError if that is the older one.

    Two with one number come from two copies of the operator's directory: both count.
    """
    if told.number < held.number:
        raise ValueError(f"is number {told.number}, older than number {held.number} in use")
    if told.number > held.number:
        return told
    new = tuple(key for key in told.keys if key not in held.keys)
    return Revocations(held.fleet, held.number, (*held.keys, *new)) if new else held


def moment(unix_s: float) -> str:
    """Return a time as people read it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(unix_s))
