"""The constants of the protocol: its limits, and the closed lists of small numbers that stand in records."""

import enum

__all__ = [
    "BODY_BYTES_MAX",
    "BODY_INLINE_MAX",
    "CALL",
    "CAST",
    "DURABLE",
    "FANOUT",
    "IDEMPOTENT",
    "ONCE",
    "PROTOCOL_MINOR",
    "RESUMED",
    "TIMEOUT_MS_MAX",
    "TOKEN_BYTES_MAX",
    "Flag",
    "Kind",
    "RefuseReason",
    "Status",
    "Verdict",
]

PROTOCOL_MINOR = 0
"""The newest minor version of major version 1 that this code speaks."""

BODY_INLINE_MAX = 1 << 20
"""Bytes of body in one record; larger bodies travel as chunks."""

BODY_BYTES_MAX = 1 << 30
"""Bytes of any body: what the option ``body_bytes_max`` may be at most."""

TIMEOUT_MS_MAX = 366 * 86_400_000
"""The longest remaining time that can be written: a cast's ``ttl_s`` may be long, a call's is capped lower."""

TOKEN_BYTES_MAX = 4_096
"""Bytes of the token that names an app: in its file, and in its hello."""


class Kind(enum.IntEnum):
    """What a request wants: one reply, one delivery, or a delivery to every instance."""

    CALL = 0
    CAST = 1
    FANOUT = 2


class Flag(enum.IntEnum):
    """Options of a request, as bits of ``Request.flags``. RESUMED: the app gave it to an earlier connection already;
    ROOM: a call waits while every instance is full; PROBE: the serving app answers a call in its handler's stead."""

    IDEMPOTENT = 1
    WAIT = 2
    CONFIRM = 4
    DURABLE = 8
    ONCE = 16
    RESUMED = 32
    ROOM = 64
    PROBE = 128


# What is asked of every message, by names of their own: Python 3.11 takes several times longer to find a member in its
# class than to find a name, and it is done some fifty times on the way of one message.
CALL, CAST, FANOUT = int(Kind.CALL), int(Kind.CAST), int(Kind.FANOUT)
IDEMPOTENT, DURABLE, ONCE, RESUMED = map(int, (Flag.IDEMPOTENT, Flag.DURABLE, Flag.ONCE, Flag.RESUMED))


class Status(enum.IntEnum):
    """How a message ended, when not with a reply. The vocabulary is closed and never merged."""

    REMOTE_ERROR = 1
    UNROUTABLE = 2
    OVERLOADED = 3
    EXPIRED = 4
    INDETERMINATE = 5
    REJECTED = 6
    AGENT_UNAVAILABLE = 7
    CANCELLED = 8


class RefuseReason(enum.IntEnum):
    """Why a connection was refused at its HELLO. REACHED: it only asked who is here, and this is who was meant."""

    PROTOCOL = 1
    FLEET = 2
    NOT_ME = 3
    STALE_INCARNATION = 4
    DUPLICATE_NODE = 5
    BUSY = 6
    DRAINING = 7
    SECURITY = 8
    STALE_CONNECTION = 9
    MALFORMED = 10
    REACHED = 11


class Verdict(enum.IntEnum):
    """What the serving side knows of an id it was asked about."""

    NEVER = 0
    RUNNING = 1
    LOST = 2
