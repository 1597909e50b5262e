"""The calling half of a session: what this app asked for and has not heard the end of.

A request is *queued* until it is written to a connection, and kept after that until it has ended: with what the agent
says, or, when the agent says nothing in time, with an outcome given here. Which outcome that may be rests on one
fact, whether it was ever written (``first_on``): what never was, certainly did not run.

After a reconnect everything that is kept is written again, marked RESUMED if it had been written before; the agent
knows its identity and runs it once. So that a new agent can ask those who may have run it, the nodes that were
reached are kept as long as anything from that time is.
"""

import heapq

from msgspec import Struct, field

from mesh.client.events import Aimed, Ended, Event, Held, Outcome
from mesh.core.codec import held_bytes
from mesh.core.ranges import expand
from mesh.core.records import (
    Accepted,
    AppWelcome,
    Cancel,
    Failure,
    Reach,
    Receipt,
    Record,
    Request,
    Settled,
    Status,
    Targets,
)
from mesh.core.stamps import ASKING_APP, depart
from mesh.core.vocabulary import CALL, CAST, DURABLE, RESUMED
from mesh.errors import Overloaded, ProtocolError

__all__ = ["GRACE_S", "Calling", "Pending", "Reached"]

GRACE_S = 0.25
"""How long after its deadline an answer of the agent is waited for."""

REACHED_MAX = 65_536
"""Serving apps that may be remembered as reached; the agent's own limit is below."""

REACHED_SLACK = 64
"""Serving apps of which nothing is outstanding that may be remembered, beside as many as there are others."""

TURN_BYTES = 1 << 20
TURN_RECORDS = 4_096
"""What is written in one turn, so that a long backlog is never copied as a whole."""


class Pending(Struct):
    """A request that has not ended. ``first_on``: the connection it was first written to, 0 if to none; ``attempts``:
    how many processes died of it."""

    request: Request
    deadline: float
    charged: int
    first_on: int = 0
    held: bool = False
    overdue: bool = False
    targets: dict[str, int] | None = None
    attempts: int = 0


class Reached(Struct):
    """A serving app that may hold requests of ours below seq ``until``; None: newer ones too, for our agent goes on
    there."""

    reach: Reach
    until: int | None = None


class Calling(Struct):
    """The state of this half. Seqs are dense; all below ``floor`` have ended, none from ``written`` on was written."""

    next_seq: int = 0
    written: int = 0
    floor: int = 0
    bytes: int = 0
    unheld: int = 0
    pending: dict[int, Pending] = field(default_factory=dict)
    queue: list[int] = field(default_factory=list)
    fresh: list[int] = field(default_factory=list)
    timers: list[tuple[float, int]] = field(default_factory=list)
    reached: dict[tuple[str, int, int], Reached] = field(default_factory=dict)
    reached_sweep: int = REACHED_SLACK

    @property
    def hangs_on_us(self) -> bool:
        """Whether anything that has not ended would be given up with this app; a held durable cast would not."""
        return any(not (p.held and p.request.flags & DURABLE) for p in self.pending.values())

    # A request begins

    def full(self, request: Request, limits: AppWelcome) -> str | None:
        """Return the limit that one more request would break, or None."""
        if len(self.pending) >= limits.outstanding_records:
            return "outstanding_records"
        if self.bytes and self.bytes + held_bytes(request) > limits.outstanding_bytes:
            return "outstanding_bytes"
        if self.next_seq - self.floor >= limits.session_window:
            return "session_window"
        return None

    def submit(self, request: Request, timeout_s: float, limits: AppWelcome, now: float) -> int:
        """Queue a request and return its seq; raises Overloaded when a limit is reached."""
        limit = self.full(request, limits)
        if limit is not None:
            text = f"{limit} = {getattr(limits, limit)} is reached in this app"
            raise Overloaded(text, limit=limit, where=limits.node)
        seq = request.seq = self.next_seq
        self.next_seq += 1
        charged = held_bytes(request)
        deadline = now + timeout_s
        self.pending[seq] = Pending(request, deadline, charged)
        self.bytes += charged
        self.queue.append(seq)
        self._remind(deadline, seq)
        return seq

    def _remind(self, when: float, seq: int) -> None:
        """Have `expire` look at a request. Timers of what has ended are swept when they are the most."""
        if len(self.timers) > 2 * len(self.pending) + 256:
            self.timers = [timer for timer in self.timers if timer[1] in self.pending]
            heapq.heapify(self.timers)
        heapq.heappush(self.timers, (when, seq))

    # It is written

    def take(self, connection: int, now: float) -> list[Request]:
        """Return what may be written next, oldest first, at most a turn's worth."""
        requests: list[Request] = []
        self.fresh.clear()
        size = count = 0
        for seq in self.queue:
            count += 1
            pending = self.pending.get(seq)
            if pending is None:
                continue
            request = pending.request
            request.floor = self.floor
            left_ms = round((pending.deadline - now) * 1000)
            request.timeout_ms = left_ms if left_ms > 0 else 1
            if request.trace is not None:
                request.trace = depart(request.trace, ASKING_APP, now)
            if not pending.first_on:
                pending.first_on = connection
                self.fresh.append(seq)
                self.unheld += request.kind != CALL and not pending.held
                self.written = max(self.written, seq + 1)
            else:
                request.flags |= RESUMED
            requests.append(request)
            size += len(request.body)
            if size >= TURN_BYTES or len(requests) >= TURN_RECORDS:
                break
        del self.queue[:count]
        return requests

    def unwritten(self) -> None:
        """Not one byte of the last `take` was written: its new requests are as though never taken."""
        for seq in self.fresh:
            pending = self.pending.get(seq)
            if pending is not None:
                self._unwrite(pending)
        self.fresh.clear()

    def _unwrite(self, pending: Pending) -> None:
        """It is as though a request had never been written."""
        pending.first_on = 0
        self.unheld -= pending.request.kind != CALL and not pending.held

    def resume(self, new_agent: bool) -> list[Record]:
        """Queue everything anew for a connection just opened; return what is to be told first: who was reached,
        where fan-outs went, and of what processes died."""
        self.queue = list(self.pending)
        if new_agent:
            for entry in self.reached.values():
                if entry.until is None:
                    entry.until = self.written
        self._forget_reached()
        records: list[Record] = [entry.reach for entry in self.reached.values()]
        for seq, pending in self.pending.items():
            if pending.targets or pending.attempts:
                records.append(Targets(seq, list((pending.targets or {}).items()), pending.attempts))
        return records

    # It is heard of

    def reach(self, reach: Reach) -> None:
        """The agent is about to send requests of ours to a serving app that it had not reached before, or has none
        there any more: what it said of those that are gone may not have come, so the entry stays for their sake."""
        key = (reach.node, reach.session, reach.incarnation)
        if reach.over:
            if key in self.reached:
                self.reached[key].until = self.written
            return
        if len(self.reached) >= self.reached_sweep:
            self._forget_reached()
            self.reached_sweep = 2 * len(self.reached) + REACHED_SLACK
        if len(self.reached) >= REACHED_MAX:
            raise ProtocolError(f"more than {REACHED_MAX} others were reached")
        self.reached[key] = Reached(reach)

    def _forget_reached(self) -> None:
        """Forget those of whom nothing can be outstanding."""
        self.reached = {k: e for k, e in self.reached.items() if e.until is None or e.until > self.floor}

    def accepted(self, accepted: Accepted, limits: AppWelcome) -> list[Event]:
        """The agent holds casts and fan-outs; a fan-out is told once its targets are known too."""
        seqs: list[int] = []
        events: list[Event] = []
        for seq in expand(accepted.ranges, limits.session_window):
            pending = self.pending.get(seq)
            if pending is None or pending.held:
                continue
            self._hold(pending)
            if pending.request.kind == CAST:
                seqs.append(seq)
            elif pending.targets is not None:
                events.append(Aimed(seq, sum(pending.targets.values())))
        if seqs:
            events.append(Held(seqs))
        return events

    def _hold(self, pending: Pending) -> None:
        pending.held = True
        self.unheld -= pending.first_on != 0 and pending.request.kind != CALL

    def given_back(self, seq: int) -> None:
        """The agent ends, and has never sent this request: it waits for the next one, as though just made."""
        pending = self.pending.get(seq)
        if pending is not None and pending.first_on:
            self._unwrite(pending)
            pending.overdue = False
            if pending.request.kind == CALL:
                pending.request.flags &= ~RESUMED
            self.queue.append(seq)

    def targeted(self, targets: Targets) -> list[Event]:
        """The agent names the nodes, and how many instances on each, that a fan-out goes to; or it says how many
        processes died of a request, which the next agent is to know."""
        pending = self.pending.get(targets.seq)
        if pending is None:
            return []
        if targets.attempts:
            pending.attempts = max(pending.attempts, targets.attempts)
            return []
        is_first = pending.targets is None
        targets_now = pending.targets = {**(pending.targets or {}), **dict(targets.nodes)}
        return [Aimed(targets.seq, sum(targets_now.values()))] if pending.held and is_first else []

    def first_unheld(self) -> int:
        """Return the lowest seq of a cast or fan-out that the agent has not accepted, or else the next seq."""
        for seq, pending in self.pending.items():
            if not pending.held and pending.request.kind != CALL:
                return seq
        return self.next_seq

    def settled(self, record: Settled, limits: AppWelcome) -> list[Event]:
        """Handlers have ended casts."""
        events: list[Event] = []
        for seq in expand(record.ranges, limits.session_window):
            events += self.end(seq, None)
        return events

    # It ends

    def end(self, seq: int, outcome: Outcome) -> list[Event]:
        """A request has ended; one that had already is no news."""
        pending = self.pending.pop(seq, None)
        if pending is None:
            return []
        self.bytes -= pending.charged
        if not pending.held:
            self.unheld -= pending.first_on != 0 and pending.request.kind != CALL
        if seq == self.floor:
            floor = seq + 1
            while floor < self.next_seq and floor not in self.pending:
                floor += 1
            self.floor = floor
        if isinstance(outcome, Receipt) and not outcome.asked and pending.targets:
            outcome.asked = sum(pending.targets.values())
        return [Ended(seq, outcome)]

    def refused(self, text: str, limits: AppWelcome, session: int) -> list[Event]:
        """No agent will take this app: end its calls, and what no agent has seen. What an agent may hold of the rest
        waits for another until its time is over."""
        events: list[Event] = []
        for seq, pending in list(self.pending.items()):
            if not pending.first_on:
                status = Status.AGENT_UNAVAILABLE
            elif pending.request.kind == CALL:
                status = Status.INDETERMINATE
            else:
                continue
            events += self.end(seq, Failure(limits.node, session, seq, int(status), text))
        return events

    def cancel(self, seq: int, limits: AppWelcome, session: int) -> Cancel | None:
        """Give a request up without an outcome; return what to tell the agent, if it can know of it."""
        pending = self.pending.get(seq)
        if pending is None:
            return None
        self.end(seq, None)
        return Cancel(limits.node, session, seq) if pending.first_on else None

    def deadline(self) -> float | None:
        """Return when `expire` is due."""
        while self.timers and self.timers[0][1] not in self.pending:
            heapq.heappop(self.timers)
        return self.timers[0][0] if self.timers else None

    def expire(self, away: str, limits: AppWelcome, session: int, now: float) -> tuple[list[Event], list[Record]]:
        """End what is past its time; ``away`` says why there is no agent, or is empty. Returns what to tell, too.

        What was written gets `GRACE_S` more, for the agent knows better how it ended. A durable cast is the agent's to
        end, even when it is late: cancelled, it would be no dead letter.
        """
        events: list[Event] = []
        records: list[Record] = []
        while self.timers and self.timers[0][0] <= now:
            _, seq = heapq.heappop(self.timers)
            pending = self.pending.get(seq)
            if pending is None:
                continue
            if pending.first_on and not pending.overdue:
                pending.overdue = True
                heapq.heappush(self.timers, (pending.deadline + GRACE_S, seq))
                continue
            status, text = _verdict(pending, away)
            if pending.first_on and not pending.request.flags & DURABLE:
                records.append(Cancel(limits.node, session, seq))
            events += self.end(seq, Failure(limits.node, session, seq, int(status), text))
        return events, records


def _verdict(pending: Pending, away: str) -> tuple[Status, str]:
    """Return how a request ends of which the agent said nothing in time."""
    if pending.first_on:
        return Status.INDETERMINATE, f"no word of it in time{', and ' + away if away else ''}"
    if away:
        return Status.AGENT_UNAVAILABLE, away
    return Status.EXPIRED, "it was not written within its time"
