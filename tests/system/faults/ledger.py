"""What became of every request, from the logs of the apps themselves; and what of that breaks the promise.

Conservation: every request of an app that lived has exactly one outcome; one that says "not run" is true; what must not
repeat ran at most once; what was replied to, or confirmed, or accepted, ran.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct, field

__all__ = [
    "CALLS",
    "GROUPS",
    "IDEMPOTENT",
    "OTHERS",
    "Fault",
    "Line",
    "Request",
    "Row",
    "gather",
    "parse",
    "problems",
    "rows",
]

NOT_RUN = ("Unroutable", "Overloaded", "Expired", "Rejected", "AgentUnavailable")
"""Outcomes that say that no handler saw it."""

GOOD = ("Reply", "Accepted", "Receipt")

PARTLY = ("Indeterminate", "RemoteError")
"""How a fan-out ends that not all are said to have finished: counted, and no breach while its receipt is true."""

ONCE = ("call", "once")
"""Kinds that must not run twice."""

CALLS, IDEMPOTENT, OTHERS = "calls", "idempotent calls", "casts, fan-outs"

GROUPS = {
    "call": CALLS,
    "idempotent": IDEMPOTENT,
    "cast": OTHERS,
    "confirmed": OTHERS,
    "once": OTHERS,
    "fanout": OTHERS,
}
"""Kinds of request, and the row of the table in which each is counted."""

LINES_SHOWN = 8


class Line(Struct, frozen=True):
    """One line of an app's log."""

    at: float
    word: str
    id: str
    details: str


class Request(Struct):
    """One request: when it began and ended, how, and each run of it as ``(instance, moment)``."""

    id: str
    begun: float
    caller_lived: bool
    ends: list[Line] = field(default_factory=list)
    runs: list[tuple[str, float]] = field(default_factory=list)
    done: list[str] = field(default_factory=list)

    @property
    def kind(self) -> str:
        return self.id.split(".")[1]

    @property
    def outcome(self) -> str:
        """The name of how it ended, for a fan-out that not all finished that of how the others did; empty if nobody
        lived to be told."""
        name, *counts = self.ends[0].details.split() if self.ends else ("",)
        if name == "Receipt":
            failed, unknown = map(int, counts[2:4])
            return "Indeterminate" if unknown else "RemoteError" if failed else name
        return name

    @property
    def ended(self) -> float:
        return self.ends[0].at if self.ends else float("inf")

    @property
    def last_at(self) -> float:
        """The last that is known of it: a run of an accepted cast may come long after its end."""
        return max([self.begun, *(end.at for end in self.ends), *(at for _, at in self.runs)])

    @property
    def runs_most(self) -> int:
        """How often it ran where it ran most: in all, for a fan-out at one instance."""
        if self.kind != "fanout":
            return len(self.runs)
        instances = [instance for instance, _ in self.runs]
        return max(map(instances.count, dict.fromkeys(instances)), default=0)

    def __str__(self) -> str:
        return (
            f"{self.id} begun {self.begun:.3f} ended {[f'{e.at:.3f} {e.details}' for e in self.ends]} run {self.runs}"
        )


class Fault(Struct, frozen=True):
    """One thing that was done to the mesh, and when.

    ``allowed``: the outcomes of what must not run twice that the promise grants then, beside the good ones.
    ``targets_s``: within what those in flight are hoped to end, by group.
    """

    name: str
    at: float
    allowed: tuple[str, ...] = ()
    targets_s: Mapping[str, float] = field(default_factory=dict)


class Row(Struct):
    """One fault and one kind of request, all rounds together. ``recovery_s``: from the fault to the end of each request
    that was in flight."""

    fault: str
    kind: str
    rounds: int = 0
    ended: int = 0
    failed: int = 0
    twice: int = 0
    indeterminate: int = 0
    recovery_s: list[float] = field(default_factory=list)
    target_s: float = 0.0


def parse(path: Path, start: int = 0) -> tuple[list[Line], int]:
    """Return the whole lines of an app's log from a place on, and the place where they end."""
    with path.open("rb") as log:
        log.seek(start)
        whole = log.read().rpartition(b"\n")[0]
    lines = []
    for raw in whole.decode(errors="replace").splitlines():
        at, word, id, details = raw.split(" ", 3)
        lines.append(Line(float(at), word, id, details))
    return lines, start + len(whole) + bool(whole)


def gather(logs: Iterable[Path]) -> dict[str, Request]:
    """Return all requests by id. The name of a log, without its ending, is that of the app."""
    read = {path.stem: parse(path)[0] for path in logs}
    requests: dict[str, Request] = {}
    for lines in read.values():
        lived = any(line.word == "closed" for line in lines)
        for line in lines:
            if line.word == "begun":
                requests[line.id] = Request(line.id, line.at, lived)
    for app, lines in read.items():
        for line in lines:
            request = requests.get(line.id)
            if request is None:
                continue
            if line.word == "ended":
                request.ends.append(line)
            elif line.word == "run":
                request.runs.append((app, line.at))
            elif line.word == "done":
                request.done.append(app)
    return requests


def _faults_of(requests: Iterable[Request], faults: Sequence[Fault]) -> Iterable[tuple[Request, Fault]]:
    """Yield each request with the last fault that can have touched it; what came before them all is with the first."""
    moments = [fault.at for fault in faults]
    for request in requests:
        yield request, faults[max(0, bisect_right(moments, request.last_at) - 1)]


def _untruths(request: Request) -> Iterable[str]:
    """Yield what is wrong with the request's books, whatever the fault."""
    ran, outcome = len(request.runs), request.outcome
    if len(request.ends) > 1:
        yield "more than one outcome"
    if request.caller_lived and not request.ends:
        yield "no outcome, though its app lived"
    if request.kind in ONCE and ran > 1:
        yield "ran twice, and must not"
    if outcome in NOT_RUN and ran:
        yield f"{outcome} says not run, and it ran"
    if outcome == "Reply" and not ran:
        yield "a reply, and nobody ran it"
    if outcome == "Accepted" and not ran and request.kind in ("cast", "confirmed") and request.caller_lived:
        yield "accepted, and lost"
    if request.kind == "fanout" and request.ends and request.ends[0].details.startswith("Receipt"):
        finished = int(request.ends[0].details.split()[2])
        if finished > len(dict.fromkeys(request.done)):
            yield f"{finished} are said to have finished, and fewer did"


def problems(requests: Iterable[Request], faults: Sequence[Fault]) -> list[str]:
    """Return what breaks the promise, a few of each kind with the request's whole story."""
    found: dict[str, list[Request]] = {}
    for request, fault in _faults_of(requests, faults):
        sentences = list(_untruths(request))
        allowed = fault.allowed if request.kind in ONCE else PARTLY if request.kind == "fanout" else ()
        if request.ends and request.outcome not in (*GOOD, *allowed):
            sentences.append(f"{request.kind} ended as {request.outcome}")
        for sentence in sentences:
            found.setdefault(f"{fault.name}: {sentence}", []).append(request)
    return [
        "\n  ".join([f"{sentence} ({len(all_of)} times)", *map(str, all_of[:LINES_SHOWN])])
        for sentence, all_of in found.items()
    ]


def rows(requests: Iterable[Request], faults: Sequence[Fault]) -> list[Row]:
    """Return the table's rows: for each name of a fault and each group of kinds."""
    table: dict[tuple[str, str], Row] = {}
    for fault in faults:
        for group in dict.fromkeys(GROUPS.values()):
            row = table.setdefault((fault.name, group), Row(fault.name, group))
            row.rounds += 1
            row.target_s = max(row.target_s, fault.targets_s.get(group, 0.0))
    of_each = list(_faults_of(requests, faults))
    for request, fault in of_each:
        row = table[fault.name, GROUPS[request.kind]]
        row.ended += bool(request.ends)
        row.twice += request.runs_most > 1
        row.indeterminate += request.outcome == "Indeterminate"
        row.failed += bool(request.ends) and request.outcome not in (*GOOD, "Indeterminate")
    for fault in faults:
        for request, _ in of_each:
            if request.begun <= fault.at < request.ended < float("inf"):
                table[fault.name, GROUPS[request.kind]].recovery_s.append(request.ended - fault.at)
    return [row for row in table.values() if row.ended]
