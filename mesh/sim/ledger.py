"""What was sent, what ran and where, and how it ended: everybody writes it here, and what is not true is found at once.

The promises that are checked are those of the delivery table. A message ends exactly once, unless its app died or
gave it up. An outcome that says that nothing ran is true before and after it is given; one that says that a handler
ended is too. What must not run twice runs once; no session runs the same message twice, whatever it is. What a
session sends to what only one instance can serve arrives there in its order, where nothing was sent again: a message
that may go elsewhere can be aimed at another instance first, and a fan-out waits until all are known. What goes by the
disk keeps its order among its like. A durable cast that was accepted is ended by a handler or is a dead letter, whoever
died, as long as its disk lives.
"""

from collections.abc import Callable

from msgspec import Struct, field

from mesh.client.events import Id, Outcome
from mesh.core.records import Failure, Flag, Kind, Receipt, Reply, Request, Status

__all__ = ["NOT_RUN", "SILENT", "UNTOLD_S", "Ledger", "Message", "body_of", "name_of"]

NOT_RUN = (Status.UNROUTABLE, Status.OVERLOADED, Status.EXPIRED, Status.REJECTED, Status.AGENT_UNAVAILABLE)
"""Outcomes that say that no handler began."""

SILENT = "no sign of life"
"""What is said of a call that was watched, and whose app was silent for too long."""

_QUEUES = ("queue_records", "queue_bytes")
"""The limits whose end a call may ask to wait for."""

UNTOLD_S = 0.2
"""How long word of a death is under way, to the calling app's agent and from there to the app."""

STAMP_BYTES = 8
"""Every body begins with the number of its message, as far as it is long enough."""


class Message(Struct):
    """One request. Times are the world's; ``begun``: the sessions that ran it, ``ended``: those that finished it;
    ``given_up``: nobody waits for its outcome, ``cancelled``: because its app said so; ``again``: another agent was, or
    may be, sent it too; ``lot``: drawn for what may go elsewhere again, below a thousand; ``deaths``: of sessions that
    had begun it and not ended it, the last one at ``died_at``; ``hidden``: so many its agent may not have heard of."""

    request: Request
    body: bytes
    sent_at: float
    deadline: float
    held: bool = False
    given_up: bool = False
    cancelled: bool = False
    refused: bool = False
    again: bool = False
    lot: int = 1000
    deaths: int = 0
    died_at: float = 0.0
    hidden: int = 0
    begun: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def may_repeat(self) -> bool:
        """Whether more than one session may run it."""
        if self.request.kind == Kind.CALL:
            return bool(self.request.flags & Flag.IDEMPOTENT)
        return self.request.kind == Kind.FANOUT or not self.request.flags & Flag.ONCE


def body_of(number: int, size: int) -> bytes:
    """Return a body of this size that tells which message it belongs to."""
    return number.to_bytes(STAMP_BYTES, "little")[:size].ljust(size, b".")


def name_of(outcome: Outcome) -> str:
    """Return an outcome in a word."""
    if isinstance(outcome, Failure):
        return Status(outcome.status).name
    return "Settled" if outcome is None else type(outcome).__name__


class Ledger:
    """All messages of a run, and what is wrong with them. ``strict``: nothing goes wrong, so nothing is sent twice;
    ``single``: topics with one instance; ``ordered_bytes_max``: above it a body travels in pieces, and is passed.

    ``hears``: whether a message's agent now hears what becomes of it; ``attempts_max``: so many processes may die of a
    message whose agent hears of each; 0: any number. ``patient``: every app lives, and comes back in time to each new
    agent, so nobody to whom a fan-out went is unknown before its time is over. ``lively``: nothing keeps an app from
    showing signs of life."""

    def __init__(self, found: Callable[[str], None], *, strict: bool = False) -> None:
        self.found = found
        self.strict = strict
        self.messages: dict[Id, Message] = {}
        self.last: dict[tuple[int, int, str, str, int], int] = {}
        self.single: dict[str, None] = {}
        self.ordered_bytes_max = 0
        self.attempts_max = 0
        self.hears: Callable[[Id], bool] = lambda id: True
        self.patient = self.lively = False

    def sent(self, id: Id, request: Request, now: float, timeout_s: float) -> None:
        """An app has submitted a request."""
        message = self.messages[id] = Message(request, request.body, now, now + timeout_s)
        if message.may_repeat and request.kind != Kind.FANOUT:
            message.lot = (id[1] * 7919 + id[2] * 104_729) % 1000

    def held(self, id: Id) -> None:
        """The agent has accepted a cast."""
        self.messages[id].held = True

    def give_up(self, id: Id, *, cancelled: bool = False) -> None:
        """Its app cancelled it, or died."""
        message = self.messages[id]
        message.given_up, message.cancelled = True, message.cancelled or cancelled

    def died(self, session: int, now: float) -> None:
        """A session's process has died, at whatever it had begun."""
        for id, message in self.messages.items():
            if session in message.begun and session not in message.ended:
                message.deaths, message.died_at = message.deaths + 1, now
                message.hidden += not self.hears(id)

    def killed(self, node: str, elsewhere: list[str], now: float) -> None:
        """An agent is killed. It may have been about to tell its own apps of a death; and unless one other node serves
        their topic (``elsewhere``), it would have told of a death here, or two nodes may now have the same message."""
        for id, message in self.messages.items():
            if id[0] != node or message.request.topic not in elsewhere or now - message.died_at < UNTOLD_S:
                message.hidden += 1

    def lost(self, session: int) -> None:
        """An app has lost its agent: what has not ended is sent to the next, given back or repeated."""
        for (_, sender, _), message in self.messages.items():
            message.again |= sender == session and not message.outcomes

    # It runs

    def delivered(self, session: int, request: Request) -> None:
        """A request has come to a serving session."""
        id = (request.node, request.session, request.seq)
        message = self.messages.get(id)
        if message is None:
            self.found(f"{id} came to {session}, and nobody sent it")
            return
        if request.body != message.body:
            self.found(f"{self.name(id)} came to {session} with another body")
        is_again = message.again or request.dispatch > 1 or request.flags & Flag.RESUMED
        is_ordered = request.kind != Kind.FANOUT and len(request.body) <= self.ordered_bytes_max
        if is_again or not is_ordered or not (request.server or request.topic in self.single):
            return
        by_disk = request.flags & (Flag.DURABLE | Flag.ONCE) if request.flags & Flag.DURABLE else 0
        key = (request.session, session, request.topic, request.server, by_disk)
        if self.last.get(key, -1) > request.seq:
            self.found(f"{self.name(id)} came to {session} after {self.last[key]}, which was sent later")
        self.last[key] = max(request.seq, self.last.get(key, -1))

    def begun(self, session: int, id: Id) -> None:
        """A handler has begun."""
        message = self.messages[id]
        if session in message.begun:
            self.found(f"{self.name(id)} ran twice in one session, {session}")
        elif message.begun and not message.may_repeat:
            self.found(f"{self.name(id)} must not run twice: in {message.begun} and in {session}")
        elif message.begun and self.strict and message.request.kind != Kind.FANOUT:
            self.found(f"{self.name(id)} ran twice though nothing went wrong: in {message.begun} and in {session}")
        elif self.attempts_max and message.deaths >= self.attempts_max + message.hidden:
            if message.request.kind != Kind.FANOUT:
                self.found(f"{self.name(id)} is begun in {session}, though {message.deaths} processes died of it")
        message.begun.append(session)
        for outcome in message.outcomes:
            if isinstance(outcome, Failure) and outcome.status in NOT_RUN:
                self.found(f"{self.name(id)} runs in {session} after it ended as {name_of(outcome)}: {outcome.text}")

    def ended(self, session: int, id: Id) -> None:
        """A handler has ended, well or not."""
        self.messages[id].ended.append(session)

    # It ends

    def outcome(self, id: Id, outcome: Outcome, now: float = 0.0) -> None:
        """Its app was told how a request ended."""
        message = self.messages[id]
        message.outcomes.append(outcome)
        if len(message.outcomes) > 1:
            self.found(f"{self.name(id)} ended twice: {[name_of(one) for one in message.outcomes]}")
        problem = self._untrue(message, outcome, now)
        if problem:
            text = f" ({outcome.text})" if isinstance(outcome, Failure) else ""
            self.found(f"{self.name(id)} ended as {name_of(outcome)}{text}: {problem}")

    def _untrue(self, message: Message, outcome: Outcome, now: float) -> str:
        """Return what is wrong with an outcome when it is given, or an empty string."""
        kind = message.request.kind
        if isinstance(outcome, Failure):
            if outcome.status in NOT_RUN and message.begun:
                return f"it ran in {message.begun}"
            if outcome.status == Status.REMOTE_ERROR and not message.ended:
                return "no handler failed"
            if outcome.status == Status.CANCELLED:
                return "nobody cancelled it"
            if message.request.flags & Flag.ROOM and outcome.limit in _QUEUES:
                return "it was to wait for room"
            if self.lively and SILENT in outcome.text:
                return "nothing kept its app from showing one"
            return ""
        if isinstance(outcome, Receipt):
            told = outcome.finished + outcome.failed + outcome.unknown
            if kind != Kind.FANOUT or outcome.finished > len(message.ended):
                return f"{outcome.finished} finished, but {len(message.ended)} did"
            if self.patient and outcome.unknown and now < message.deadline - 1.0:
                return f"{outcome.unknown} of {outcome.asked} are unknown, and all of them live"
            return "" if told == outcome.asked else f"{outcome.asked} were asked, {told} are told of"
        if isinstance(outcome, Reply):
            is_right = outcome.body[:STAMP_BYTES] == message.body[:STAMP_BYTES]
            return "" if kind == Kind.CALL and message.ended and is_right else "it is not its reply"
        return "" if kind == Kind.CAST and message.ended else "no handler ended it"

    # In sum

    def vanished(self, node: str, dead: set[tuple[int, int]], lost_at: float) -> list[Id]:
        """Return which durable casts of a node's apps, accepted and sent after its disk was last lost, no handler has
        ended, though they are no dead letters, by session and seq."""
        return [
            id
            for id, message in self.messages.items()
            if message.held and not message.cancelled and message.request.flags & Flag.DURABLE
            if id[0] == node and message.sent_at > lost_at and not message.ended and (id[1], id[2]) not in dead
        ]

    def open(self) -> list[Id]:
        """Return what has not ended and whose app waits for it."""
        return [id for id, message in self.messages.items() if not message.outcomes and not message.given_up]

    def counts(self) -> dict[str, int]:
        """Return how often what ended how: ``call Reply`` and so on."""
        counts: dict[str, int] = {}
        for message in self.messages.values():
            for outcome in message.outcomes:
                name = f"{Kind(message.request.kind).name.lower()} {name_of(outcome)}"
                counts[name] = counts.get(name, 0) + 1
        return dict(sorted(counts.items()))

    def name(self, id: Id) -> str:
        """Return a message in words."""
        request = self.messages[id].request
        flags = "".join(f" {flag.name.lower()}" for flag in Flag if request.flags & flag)
        return f"{Kind(request.kind).name.lower()}{flags} {id[0]}/{id[1]}#{id[2]} to {request.topic!r}"
