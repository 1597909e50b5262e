"""ZAP: how ZeroMQ asks whether a key may connect (RFC 27, version 1.0). A pure codec, and the verdict.

Any key may, unless it was revoked: who it is for, HELLO decides by its certificate, and a connection that has not shown
one is short-lived. The verdict's user id is the key, which is how the accepter learns what the handshake proved.
"""

from collections.abc import Container, Sequence

import zmq.utils.z85
from msgspec import Struct

__all__ = ["ADDRESS", "ADMITTED", "DOMAIN", "Question", "Verdict", "decode", "encode", "judge"]

ADDRESS = "inproc://zeromq.zap.01"
"""Where ZeroMQ asks."""

DOMAIN = b"heartmesh"
"""The ``zap_domain`` of the link port."""

ADMITTED = 200
"""The status of a verdict that lets somebody in."""

_VERSION = b"1.0"
_KEY_BYTES = 32


class Question(Struct, frozen=True):
    """What ZeroMQ asks: from where somebody connects (an address without a port), how, and by which key (32 bytes)."""

    number: bytes
    domain: bytes
    address: str
    mechanism: bytes
    key: bytes


class Verdict(Struct, frozen=True):
    """The answer: 200 with the key in Z85 as the user id, or 400 with the reason."""

    status: int
    text: str
    user: str = ""


def decode(frames: Sequence[bytes]) -> Question | None:
    """Return the question in a message's frames, or None if it is none of version 1.0."""
    if len(frames) < 6 or frames[0] != _VERSION:
        return None
    _, number, domain, address, _, mechanism, *credentials = frames
    key = credentials[0] if len(credentials) == 1 else b""
    return Question(number, domain, address.decode(errors="replace"), mechanism, key)


def judge(question: Question, revoked: Container[str]) -> Verdict:
    """Decide on a key. What is not CURVE, not for our link port, or no key is refused too."""
    if question.domain != DOMAIN or question.mechanism != b"CURVE" or len(question.key) != _KEY_BYTES:
        return Verdict(400, "no key was shown")
    user = zmq.utils.z85.encode(question.key).decode()
    return Verdict(400, "its key was revoked") if user in revoked else Verdict(ADMITTED, "", user)


def encode(question: Question, verdict: Verdict) -> list[bytes]:
    """Return the frames of the answer."""
    return [_VERSION, question.number, str(verdict.status).encode(), verdict.text.encode(), verdict.user.encode(), b""]
