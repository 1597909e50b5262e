"""The verbs of a spool, and how a job is done with them.

A spool keeps durable casts until they are ended, and those that ended undelivered as dead letters. One agent uses it,
one verb at a time, from any thread; verbs block. A verb does all that it is for or raises `SpoolError` and does
nothing; trying again is the node's.

Times are seconds of the machine since its boot. What is left of a row's time goes on while the agent is down: over a
reboot it is reckoned from the wall clock, noted with each commit and every `CLOCK_NOTE_S` while there are rows. So a
step of the clock while the agent runs changes nothing, and one between the last note and the next opening lengthens or
shortens what is left by as much; it never becomes more than was left at the note.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta, Struct

from mesh.core.durable import unpack
from mesh.core.ledger import (
    Away,
    Commit,
    Committed,
    Entry,
    Fetch,
    Fetched,
    Job,
    Open,
    Opened,
    Refused,
    Show,
    Shown,
    Survey,
    Totals,
    Unread,
    Word,
)
from mesh.errors import MeshError

__all__ = ["CLOCK_NOTE_S", "EXPIRY_MARGIN_S", "DeadLetter", "DeadOptions", "Spool", "SpoolError", "SpoolLost", "do"]

CLOCK_NOTE_S = 60.0
"""How often the clocks are noted when nothing else is written."""

EXPIRY_MARGIN_S = 1.0
"""How long after its time a row is left to the node, which may know a better end of it."""

SHOWN_MAX = 500
"""Dead letters in one answer, and in one wish."""

BODY_SHOWN_BYTES = 64 << 10
"""How much of a dead letter's body is shown."""


class DeadOptions(Struct, frozen=True):
    """What is kept of durable casts that ended undelivered."""

    dead_records_max: Annotated[
        int,
        Meta(
            ge=0,
            le=1 << 24,
            description="Dead letters that are kept; the oldest go first. More leaves more time to look at them.",
        ),
    ] = 10_000
    dead_bytes_max: Annotated[
        int, Meta(ge=0, le=1 << 40, description="Bytes of their bodies, likewise; beside spool_bytes_max.")
    ] = 256 << 20
    dead_age_s: Annotated[
        float,
        Meta(ge=0, le=366 * 86_400, description="How long a dead letter is kept; longer needs room for more of them."),
    ] = 7 * 86_400.0


class SpoolError(MeshError):
    """The disk would not: the text says what, where, and what to do."""


class SpoolLost(SpoolError):
    """The file is gone or damaged: only `Spool.open` helps."""


class DeadLetter(Struct, frozen=True):
    """A cast that ended undelivered. ``died_at``: unix seconds, by the clock of then."""

    number: int
    topic: str
    namespace: str
    server: str
    session: int
    seq: int
    bytes: int
    died_at: float
    reason: str
    text: str


class Spool(Protocol):
    """The durable casts of one agent."""

    def open(self) -> Opened:
        """Make ready, again if it was before, and say what is there. What cannot be used is set aside first."""

    def commit(self, entries: Sequence[Entry]) -> Committed:
        """Do these in order, all or none of them, and return once that is on disk."""

    def fetch(self, fetch: Fetch) -> Fetched:
        """Return live rows of a topic."""

    def dead(self, after: int, limit: int) -> list[DeadLetter]:
        """Return dead letters numbered above ``after``, oldest number first."""

    def record(self, number: int) -> tuple[DeadLetter, bytes] | None:
        """Return a dead letter with its record, or None if there is none of this number."""

    def revive(self, numbers: Sequence[int]) -> list[Survey]:
        """Make live rows of dead letters, with all their time before them and an identity of the spool's own, for their
        callers' is settled; return how many of each topic. Numbers of none mean nothing."""

    def purge(self, numbers: Sequence[int]) -> int:
        """Forget dead letters; return how many there were."""

    def totals(self) -> Totals:
        """Return what is held."""

    def close(self) -> None:
        """Let go of the file; `open` makes ready again."""


def do(spool: Spool, job: Job) -> Word:
    """Do one job; return the word for the node."""
    try:
        if isinstance(job, Commit):
            return spool.commit(job.entries)
        if isinstance(job, Fetch):
            return spool.fetch(job)
        return spool.open() if isinstance(job, Open) else _show(spool, job)
    except SpoolError as error:
        if isinstance(job, Open):
            return Away(str(error))
        if isinstance(job, Show):
            return Shown(job.session, job.seq, False, str(error).encode(), None, [])
        kind = Refused if isinstance(job, Commit) else Unread
        return kind(str(error), isinstance(error, SpoolLost))


def _show(spool: Spool, job: Show) -> Shown:
    revived: list[Survey] = []
    try:
        answer, revived = _VERBS[job.verb](spool, job.arguments)
        ok, body = True, msgspec.json.encode(answer)
    except (KeyError, ValueError) as error:
        ok, body = False, f"{job.verb}: {error}".encode()
    return Shown(job.session, job.seq, ok, body, spool.totals(), revived)


_Answer = tuple[dict[str, object], list[Survey]]


def _list(spool: Spool, arguments: dict[str, str]) -> _Answer:
    limit = min(int(arguments.get("limit", SHOWN_MAX)), SHOWN_MAX)
    letters = spool.dead(int(arguments.get("after", 0)), limit + 1)
    return {"dead": letters[:limit], "more": len(letters) > limit}, []


def _record(spool: Spool, arguments: dict[str, str]) -> _Answer:
    number = int(arguments["number"])
    found = spool.record(number)
    if found is None:
        raise ValueError(f"there is no dead letter {number}")
    letter, record = found
    request = unpack(record)
    shown: dict[str, object] = {**msgspec.structs.asdict(letter), "headers": request.headers or {}}
    return shown | {"body_base64": request.body[:BODY_SHOWN_BYTES]}, []


def _retry(spool: Spool, arguments: dict[str, str]) -> _Answer:
    revived = spool.revive(_numbers(arguments))
    return {"retried": sum(survey.records for survey in revived)}, revived


def _purge(spool: Spool, arguments: dict[str, str]) -> _Answer:
    return {"purged": spool.purge(_numbers(arguments))}, []


def _numbers(arguments: dict[str, str]) -> list[int]:
    numbers = [int(text) for text in arguments["numbers"].split(",")]
    if len(numbers) > SHOWN_MAX:
        raise ValueError(f"{len(numbers)} numbers at once, and {SHOWN_MAX} are allowed")
    return numbers


_VERBS: dict[str, Callable[[Spool, dict[str, str]], _Answer]] = {
    "dead_list": _list,
    "dead_show": _record,
    "dead_retry": _retry,
    "dead_purge": _purge,
}
