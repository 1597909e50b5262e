"""The serving half of a session: what this app was asked to do, and what it answered.

The truth of what ran is here. Every id that came is kept until its caller's floor has passed it, or until a second
after its own deadline, whichever is first; a copy of it is not run again but answered again. Answers are kept as
long, within ``answers_bytes``; beyond that the id stays and a copy is answered as Indeterminate.

An agent hears the answers again after each reconnect, for it may be a new one, and what was written last may not
have arrived: an answer is taken from anyone, and a second one means nothing.
"""

import enum

from msgspec import Struct, field

from mesh.client.events import Id
from mesh.core.ranges import to_ranges
from mesh.core.records import (
    Answer,
    Ask,
    Failure,
    Flag,
    Floor,
    FloorAsk,
    Record,
    Reply,
    Request,
    Serve,
    Settled,
    Status,
    Unserve,
    Verdict,
)
from mesh.core.stamps import SERVING_APP, Stamp, arrive, depart, receive
from mesh.core.vocabulary import CALL, FANOUT

__all__ = ["ANSWERS_BYTES", "IDS_MAX", "EndedCasts", "KnownCaller", "Service", "Serving", "Stage", "Work"]

ANSWERS_BYTES = 16 << 20
"""Bytes of answers that are kept for copies of what was asked."""

IDS_MAX = 65_536
"""Ids that are remembered; above it work is refused."""

MARGIN_S = 1.0
"""How much longer than its deadline an id is remembered, for clocks that run at different rates."""

SWEEP_S = 5.0
"""How often what has expired is looked for."""

FLOOR_PULL_S = 10.0
"""How long nothing is heard of a caller before it is asked how far it has settled."""

RANGES_MAX = 4_096
"""Ranges in one record."""


GIVEN_UP = "its caller gave it up before it began"


class Stage(enum.IntEnum):
    """How far a request has come here."""

    QUEUED = 0
    RUNNING = 1
    ENDED = 2


QUEUED, RUNNING, ENDED = Stage
"""By names of their own, as in `mesh.core.vocabulary`, for they are asked for with every message."""


class Work(Struct):
    """One request that came. ``answer``: what was said to it, None for casts and for what could not be kept;
    ``trace``: the stamps that its reply will bear."""

    kind: int
    topic: str
    deadline: float
    stage: Stage = QUEUED
    failed: bool = False
    answer: Reply | Failure | None = None
    trace: list[Stamp] | None = None


class KnownCaller(Struct):
    """What is remembered of one calling session; it is forgotten when nothing of it can come any more."""

    floor: int = 0
    expires: float = 0.0
    heard_at: float = 0.0
    works: dict[int, Work] = field(default_factory=dict)


class Service(Struct):
    """One topic that this app serves. ``told``: the agent has said that it is; ``leaving``: no more of it."""

    topic: str
    server: str
    workers: int
    prefetch: int
    told: bool = False
    leaving: bool = False


class EndedCasts(Struct):
    """Casts and fan-outs of one caller that ended since the last turn, those whose handler raised apart."""

    done: list[int] = field(default_factory=list)
    failed: list[int] = field(default_factory=list)


class Serving(Struct):
    """The state of this half."""

    services: dict[str, Service] = field(default_factory=dict)
    callers: dict[tuple[str, int], KnownCaller] = field(default_factory=dict)
    settling: dict[tuple[str, int], EndedCasts] = field(default_factory=dict)
    ids: int = 0
    in_hand: int = 0
    answers_bytes: int = 0
    answers_bytes_max: int = ANSWERS_BYTES
    ids_max: int = IDS_MAX
    sweep_at: float = 0.0

    # Work comes in

    def take_in(self, request: Request, now: float, place: str) -> tuple[float | None, Record | None]:
        """Take a request; return its deadline if it is to be run, or what is to be said instead. ``place``: the name of
        this app."""
        key = (request.node, request.session)
        caller = self.callers.get(key)
        if caller is None:
            if not self.callers:
                self.sweep_at = now + SWEEP_S
            caller = self.callers[key] = KnownCaller()
        caller.heard_at = now
        if request.floor > caller.floor:
            self._raise_floor(caller, request.floor)
        id = (request.node, request.session, request.seq)
        known = caller.works.get(request.seq)
        if known is not None:
            return None, self._again(id, known) if known.stage is ENDED else None
        if request.seq < caller.floor:
            return None, self._refusal(id, request.kind, Status.CANCELLED, "its caller has settled it", "")
        service = self.services.get(request.topic)
        if service is None:
            text = f"{request.topic!r} is not served by this app"
            return None, self._refusal(id, request.kind, Status.UNROUTABLE, text, "")
        if self.ids >= self.ids_max:
            text = "the app remembers as many ids as it may"
            return None, self._refusal(id, request.kind, Status.OVERLOADED, text, "ids_max")
        deadline = now + request.timeout_ms / 1000
        work = caller.works[request.seq] = Work(request.kind, request.topic, deadline)
        caller.expires = max(caller.expires, deadline + MARGIN_S)
        self.ids += 1
        self.in_hand += 1
        if request.trace is not None:
            work.trace = arrive(request.trace, SERVING_APP, place, now)
        if request.flags & Flag.PROBE and request.kind == CALL:
            self.begin(id, now)
            return None, self.answer(Reply(*id, b""), now)
        return deadline, None

    def _refusal(self, id: Id, kind: int, status: Status, text: str, limit: str) -> Record:
        """Return how to say that a request was not run. Parts of a fan-out are only ever settled."""
        if kind == FANOUT:
            return Settled(id[0], id[1], [(id[2], id[2])], 1)
        return Failure(*id, int(status), text, limit=limit)

    def _again(self, id: Id, work: Work) -> Record:
        """Return the answer to a request that has ended, once more."""
        if work.answer is not None:
            return work.answer
        if work.kind == CALL:
            text = "it ran, and its reply is no longer kept"
            return Failure(*id, int(Status.INDETERMINATE), text, limit="answers_bytes")
        return Settled(id[0], id[1], [(id[2], id[2])], int(work.failed))

    def begin(self, id: Id, now: float) -> Record | bool:
        """A worker is free for this request: True, run it; False, drop it; else drop it and say this."""
        work = self._find(id)
        if work is None or work.stage is not QUEUED:
            return False
        if now >= work.deadline:
            return self._end_unrun(id, work, Status.EXPIRED, "its time was over before a worker was free")
        work.stage = RUNNING
        if work.trace is not None:
            work.trace = depart(work.trace, SERVING_APP, now)
        return True

    def _find(self, id: Id) -> Work | None:
        caller = self.callers.get((id[0], id[1]))
        return caller.works.get(id[2]) if caller else None

    # It ends

    def answer(self, answer: Reply | Failure, now: float) -> Reply | Failure:
        """A call has ended; return what to say."""
        id = (answer.node, answer.session, answer.seq)
        work = self._find(id)
        if work is not None and work.stage is not ENDED:
            if work.trace is not None and isinstance(answer, Reply):
                receive(work.trace, now)
                answer.trace = work.trace
            self._end(id, work, answer)
        return answer

    def settle(self, id: Id, failed: bool) -> None:
        """A cast or a part of a fan-out has ended; it is said with others at the end of the turn."""
        work = self._find(id)
        if work is None or work.stage is ENDED:
            return
        work.failed = failed
        self._end(id, work, None)
        self._settling(id, failed)

    def _settling(self, id: Id, failed: bool) -> None:
        ended = self.settling.setdefault((id[0], id[1]), EndedCasts())
        (ended.failed if failed else ended.done).append(id[2])

    def _end_unrun(self, id: Id, work: Work, status: Status, text: str) -> Record:
        """End what has not begun; return how to say so."""
        refusal = self._refusal(id, work.kind, status, text, "")
        work.failed = True
        self._end(id, work, refusal if isinstance(refusal, Failure) else None)
        return refusal

    def _end(self, id: Id, work: Work, answer: Reply | Failure | None) -> None:
        work.stage = ENDED
        self.in_hand -= 1
        caller = self.callers[id[0], id[1]]
        if id[2] < caller.floor:
            del caller.works[id[2]]
            self.ids -= 1
            return
        size = _size(answer)
        if self.answers_bytes + size <= self.answers_bytes_max:
            work.answer = answer
            self.answers_bytes += size

    def _raise_floor(self, caller: KnownCaller, floor: int) -> None:
        """Forget what has ended below a caller's floor."""
        works = caller.works
        below = range(caller.floor, floor) if floor - caller.floor < len(works) else [s for s in works if s < floor]
        caller.floor = floor
        for seq in below:
            self._settled(works, seq)

    def _settled(self, works: dict[int, Work], seq: int) -> None:
        work = works.get(seq)
        if work is not None and work.stage is ENDED:
            self._forget(works, seq, work)

    def _forget(self, works: dict[int, Work], seq: int, work: Work) -> None:
        del works[seq]
        self.ids -= 1
        self.answers_bytes -= _size(work.answer)

    def take_settled(self) -> list[Record]:
        """Return the casts that have ended since the last time."""
        records: list[Record] = []
        for (node, session), ended in self.settling.items():
            done = to_ranges(ended.done)
            failed = to_ranges(ended.failed)
            records += [Settled(node, session, part) for part in _parts(done)]
            records += [Settled(node, session, part, sum(b - a + 1 for a, b in part)) for part in _parts(failed)]
        self.settling.clear()
        return records

    # The caller, or its agent, wants to know

    def cancel(self, id: Id) -> Record | bool:
        """The caller gave a request up: True, tell its handler; False, it is over; else it had not begun, say this."""
        work = self._find(id)
        if work is None or work.stage is ENDED:
            return False
        if work.stage is RUNNING:
            return True
        return self._end_unrun(id, work, Status.CANCELLED, GIVEN_UP)

    def refused(self, id: Id, kind: int) -> Record:
        """The caller gave up a request whose body was still coming; return what to say."""
        return self._refusal(id, kind, Status.CANCELLED, GIVEN_UP, "")

    def ask(self, ask: Ask) -> list[Record]:
        """Say what became of ids, and then again the answers to those that have ended.

        NEVER is said only of what may still come: below the floor it may have come and been forgotten.
        """
        records: list[Record] = []
        verdicts: list[int] = []
        for session, seq in ask.ids:
            id = (ask.node, session, seq)
            caller = self.callers.get((ask.node, session))
            work = self._find(id)
            if work is not None:
                verdicts.append(int(Verdict.RUNNING))
                if work.stage is ENDED:
                    records.append(self._again(id, work))
            else:
                is_below = caller is not None and seq < caller.floor
                verdicts.append(int(Verdict.LOST if is_below else Verdict.NEVER))
        return [Answer(ask.node, ask.incarnation, ask.number, ask.target, ask.ids, verdicts), *records]

    def settled(self, floor: Floor) -> None:
        """A caller says how far it has settled, and what above that."""
        caller = self.callers.get((floor.node, floor.session))
        if caller is None:
            return
        if floor.floor > caller.floor:
            self._raise_floor(caller, floor.floor)
        for first, last in floor.settled:
            seqs = range(first, last + 1)
            for seq in seqs if len(seqs) < len(caller.works) else [seq for seq in caller.works if seq in seqs]:
                self._settled(caller.works, seq)

    # Services come and go

    def serve(self, service: Service) -> Serve:
        """Serve a topic, or the same one with other numbers."""
        self.services[service.topic] = service
        return _serve(service)

    def unserve(self, topic: str) -> Unserve | None:
        """Ask for no more of a topic."""
        service = self.services.get(topic)
        if service is None or service.leaving:
            return None
        service.leaving = True
        return Unserve(topic, service.server)

    def resume(self) -> list[Record]:
        """Return what a connection just opened is told: what is served, and every answer that is still kept."""
        records: list[Record] = [
            Unserve(service.topic, service.server) if service.leaving else _serve(service)
            for service in self.services.values()
        ]
        self.settling.clear()
        for (node, session), caller in self.callers.items():
            for seq, work in caller.works.items():
                if work.stage is not ENDED:
                    continue
                if work.kind == CALL or work.answer is not None:
                    records.append(self._again((node, session, seq), work))
                else:
                    self._settling((node, session, seq), work.failed)
        return records

    def give_up(self) -> list[Record]:
        """This app ends: say of calls that have not begun that they will not."""
        records: list[Record] = []
        for (node, session), caller in self.callers.items():
            for seq, work in list(caller.works.items()):
                if work.stage is QUEUED and work.kind == CALL:
                    text = "the app that served it ended before it began"
                    records.append(self._end_unrun((node, session, seq), work, Status.UNROUTABLE, text))
        return records

    def sweep(self, now: float) -> list[Record]:
        """Forget what has expired; return questions to callers that said nothing for long. What runs beyond its
        deadline stays until it ends."""
        self.sweep_at = now + SWEEP_S
        records: list[Record] = []
        for key, caller in list(self.callers.items()):
            for seq, work in list(caller.works.items()):
                if work.stage is ENDED and work.deadline + MARGIN_S <= now:
                    self._forget(caller.works, seq, work)
            if not caller.works and caller.expires <= now:
                del self.callers[key]
            elif caller.works and now - caller.heard_at >= FLOOR_PULL_S:
                records.append(FloorAsk(*key))
        return records


def _serve(service: Service) -> Serve:
    return Serve(service.topic, service.server, service.workers, service.prefetch)


def _size(answer: Reply | Failure | None) -> int:
    """Return what an answer is charged against ``answers_bytes``."""
    if answer is None:
        return 0
    return len(answer.body) if isinstance(answer, Reply) else len(answer.text) + len(answer.traceback)


def _parts(ranges: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    return [ranges[start : start + RANGES_MAX] for start in range(0, len(ranges), RANGES_MAX)]
