"""What a node may ask of its shell. Data never goes this way: records gather in the outboxes of links and apps.

A shell carries effects out in order, after each turn. It answers by calling the node's entries; until then the
node assumes nothing.
"""

import enum

from msgspec import Struct

from mesh.core.catalogue import Health, Instance
from mesh.core.ledger import Job
from mesh.types import TopicKey

__all__ = [
    "Claim",
    "CloseApp",
    "CloseLink",
    "Confirm",
    "Effect",
    "FindAgents",
    "Inquire",
    "Level",
    "Note",
    "OpenLink",
    "Register",
    "Renew",
    "Spool",
    "Stop",
    "Unwatch",
    "Watch",
    "Withdraw",
]


class OpenLink(Struct, frozen=True, tag=True):
    """Dial ``host:port``, where ``public_key`` is expected; then say ``connected(conn)`` or ``lost(conn)``."""

    conn: int
    node: str
    host: str
    port: int
    public_key: str = ""


class CloseLink(Struct, frozen=True, tag=True):
    """Close this connection once what was flushed to it has left, or after ``linger_s``."""

    conn: int
    linger_s: float


class CloseApp(Struct, frozen=True, tag=True):
    """Close this app's connection after what was flushed to it has left."""

    app: int
    reason: str


class Confirm(Struct, frozen=True, tag=True):
    """Say ``app_took(app, number)`` once this app's socket has taken all that was flushed to it up to now, at once if
    it has; not at all if it has broken."""

    app: int
    number: int


class Watch(Struct, frozen=True, tag=True):
    """Keep the node told of this topic's snapshots; ``fresh``: read it anew at once, whatever is known."""

    topic: TopicKey
    fresh: bool = False


class Unwatch(Struct, frozen=True, tag=True):
    """This topic's snapshots are of no more interest."""

    topic: TopicKey


class Register(Struct, frozen=True, tag=True):
    """Enter a local instance with the matchmaker and keep it renewed, for as long as it takes."""

    instance: Instance


class Claim(Struct, frozen=True, tag=True):
    """Nobody else lives by this node's id: enter the agent with the matchmaker, in place of whoever was entered."""


class FindAgents(Struct, frozen=True, tag=True):
    """Ask the matchmaker once which agents there are; then say `Node.agents`, with none if it cannot be asked."""


class Renew(Struct, frozen=True, tag=True):
    """From now on renew this local instance with another health."""

    instance: Instance
    health: Health
    text: str


class Withdraw(Struct, frozen=True, tag=True):
    """Take a local instance back from the matchmaker."""

    instance: Instance


class Inquire(Struct, frozen=True, tag=True):
    """Answer an app's query that only the shell can, by the entry `answered`; it may take its time."""

    session: int
    seq: int
    what: str
    arguments: dict[str, str]


class Spool(Struct, frozen=True, tag=True):
    """Have the spool do this, after what it was given before; then say ``spooled`` with the word that came of it."""

    job: Job


class Stop(Struct, frozen=True, tag=True):
    """End this agent's process: with ``status`` as its exit status, above ``incarnation`` if it is started again."""

    status: int
    reason: str
    incarnation: int = 0


class Level(enum.IntEnum):
    """How loud a note is; the numbers are those of the standard library's ``logging``."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


class Note(Struct, frozen=True, tag=True):
    """Something happened that a person may want to know: its constant name, and facts."""

    name: str
    level: Level
    facts: dict[str, str | int | float]


Effect = (
    OpenLink
    | CloseLink
    | CloseApp
    | Confirm
    | Watch
    | Unwatch
    | Register
    | Claim
    | FindAgents
    | Renew
    | Withdraw
    | Inquire
    | Spool
    | Stop
    | Note
)
