"""One session with the local agent, as values: bytes and times go in, bytes and events come out.

A session outlives its connections. It is driven with seven verbs: `connected` and `disconnected` (a socket was opened,
is gone), `received` (a batch came), `tick` (its `deadline` came), `take` (what is to be written), and what the app
wants: `submit`, `serve`, `answer` … What happened is returned as events, each meant for the shell to act on at once.

What a new connection is told, in this order: HELLO, with a greater connection number; then, once welcomed, what is
served and every answer that is kept, the nodes that were reached, and every request that has not ended. So nothing
that an old socket may have swallowed is missed. The shell reads the old one to its end first, closes it, and only
then opens the new one.
"""

from collections.abc import Callable
from typing import Any

from msgspec import Struct, field, structs

from mesh.client.calling import Calling
from mesh.client.connection import AWAY, BACKOFF_MAX_S, CLOSED, DRAINING, GREETING, OPEN, Connection, Phase
from mesh.client.events import (
    CancelAsked,
    Delivered,
    Event,
    Id,
    Leaving,
    Lost,
    Opened,
    Parted,
    Refused,
    Reported,
    ServingTold,
)
from mesh.client.serving import RANGES_MAX, Service, Serving
from mesh.core.codec import decode, encode_split
from mesh.core.ranges import to_ranges
from mesh.core.records import (
    PROTOCOL_MINOR,
    Accepted,
    AppHello,
    AppWelcome,
    Ask,
    Cancel,
    Chunk,
    ChunkAck,
    Failure,
    Floor,
    FloorAsk,
    GiveBack,
    Goodbye,
    Ping,
    Pong,
    Query,
    Reach,
    Receipt,
    Record,
    Refuse,
    RefuseReason,
    Reply,
    Report,
    Request,
    Settled,
    Status,
    Targets,
)
from mesh.core.records import Serving as Served
from mesh.core.stamps import ASKING_APP, arrive, receive
from mesh.errors import ProtocolError, SessionClosed

__all__ = ["Session"]

FINAL = (
    *(RefuseReason.PROTOCOL, RefuseReason.FLEET, RefuseReason.NOT_ME),
    *(RefuseReason.SECURITY, RefuseReason.MALFORMED),
)
"""Reasons that trying again cannot change."""


SEQS_MAX = 1 << 16
"""Seqs that one record may settle."""


def _unwelcomed() -> AppWelcome:
    """Return the limits that hold before an agent has told its own: the defaults of the design."""
    return AppWelcome(
        protocol=PROTOCOL_MINOR,
        fleet="",
        node="",
        incarnation=0,
        heartbeat_ms=1_000,
        body_bytes_max=64 << 20,
        chunk_bytes=256 << 10,
        chunks_in_flight=2,
        outstanding_records=10_000,
        outstanding_bytes=64 << 20,
        session_window=65_536,
        call_timeout_ms_max=3_600_000,
        resume_grace_ms=5_000,
    )


class Session(Struct):
    """All that a session knows; an encode and a decode copy it. ``place`` names the agent's socket in texts.

    ``id``, and the seed of ``connection``, are random and drawn by the shell. ``limits`` is the last welcome. The shell
    reads ``token`` from ``token_file`` before each connection.
    """

    id: int
    app: str
    namespace: str = ""
    fleet: str = ""
    place: str = "its socket"
    token_file: str = ""
    token: bytes = b""
    limits: AppWelcome = field(default_factory=_unwelcomed)
    out: list[Record] = field(default_factory=list)
    connection: Connection = field(default_factory=lambda: Connection(0))
    calling: Calling = field(default_factory=Calling)
    serving: Serving = field(default_factory=Serving)
    queries: dict[int, Query] = field(default_factory=dict)
    query_no: int = 0
    leaving: bool = False

    # The connection

    @property
    def phase(self) -> Phase:
        """Where the connection is."""
        return self.connection.phase

    def connected(self, now: float) -> None:
        """A socket to the agent was opened: say hello."""
        self.connection.connected(now)
        number = self.connection.number
        self.out = [AppHello(0, PROTOCOL_MINOR, self.id, number, self.app, self.namespace, self.fleet, self.token)]

    def disconnected(self, reason: str, now: float) -> None:
        """The socket is gone, or could not be opened; ``connection.redial_at`` says when to try again."""
        if self.phase is not CLOSED:
            self.connection.disconnected(reason, now)
            self.out = []

    def close(self) -> None:
        """This session is over: it takes and tells nothing more."""
        self.connection.close()
        self.out = []

    def away(self) -> str:
        """Say why there is no agent to give anything to; empty when there is one."""
        if self.phase is OPEN:
            return ""
        if self.phase is DRAINING:
            return f"the agent at {self.place} drains, and none took its place"
        return f"no agent at {self.place} ({self.connection.why_away})"

    def received(self, data: bytes | memoryview, now: float) -> list[Event]:
        """One batch came. What breaks the protocol ends in `Lost`."""
        events: list[Event] = []
        connection = self.connection
        if connection.phase is AWAY or connection.phase is CLOSED:
            return events
        try:
            batch = decode(data)
            if batch.counter != connection.counter_in:
                raise ProtocolError(f"batch {batch.counter} came where {connection.counter_in} was due")
            connection.counter_in += 1
            connection.heard(now)
            for record in batch.records:
                verb = _VERBS.get(type(record))
                if verb is None or (connection.phase is GREETING and verb not in _GREETINGS):
                    raise ProtocolError(f"an agent may not send {type(record).__name__} now")
                verb(self, record, now, events)
        except ValueError as error:
            events.append(Lost(f"the agent broke the protocol: {error}"))
        return events

    def _welcome(self, welcome: AppWelcome, now: float, events: list[Event]) -> None:
        if self.phase is not GREETING:
            raise ProtocolError("a second welcome")
        if welcome.protocol > PROTOCOL_MINOR:
            raise ProtocolError(f"protocol 1.{welcome.protocol} was not offered")
        is_new = (welcome.node, welcome.incarnation) != (self.limits.node, self.limits.incarnation)
        self.limits = welcome
        self.connection.welcomed(welcome)
        for record in self.serving.resume():
            self._say(record)
        self.out += self.calling.resume(is_new)
        self.out += self.queries.values()
        events.append(Opened(welcome))

    def _refuse(self, refuse: Refuse, now: float, events: list[Event]) -> None:
        reason = refuse.text or f"reason {refuse.reason}"
        is_final = self.phase is GREETING and refuse.reason in FINAL
        self.connection.retry_after_s = min(BACKOFF_MAX_S * 10, refuse.retry_after_ms / 1000)
        told = Refused(refuse.reason, reason, is_final, refuse.limit, refuse.retry_after_ms / 1000)
        events += [told, Lost(f"refused: {reason}")]
        if is_final:
            events += self.calling.refused(
                f"the agent at {self.place} refused this app: {reason}", self.limits, self.id
            )

    def _goodbye(self, goodbye: Goodbye, now: float, events: list[Event]) -> None:
        if self.leaving:
            events.append(Parted())
        elif self.phase is OPEN:
            self.connection.draining()
            events.append(Leaving(goodbye.reason))

    def leave(self) -> None:
        """Say goodbye; `Parted` is the answer. What was handed to this app and has not begun goes back."""
        for record in self.serving.give_up():
            self._say(record)
        self._say(Goodbye())
        self.leaving = True

    # What is written

    def _say(self, record: Record) -> None:
        """Put a record on its way; nothing is said while away, for a new connection is told all that matters."""
        if not self.connection.is_up:
            return
        if isinstance(record, Reply) and len(record.body) > self.limits.chunk_bytes:
            announcement, chunks = self.connection.chunker.split(record)
            self.out += [announcement, *chunks]
        else:
            self.out.append(record)

    @property
    def wants_write(self) -> bool:
        """Whether `take` would return anything."""
        if self.out:
            return True
        if self.phase is OPEN:
            return bool(self.calling.queue or self.serving.settling)
        return self.phase is DRAINING and bool(self.serving.settling)

    def take(self, now: float) -> list[bytes]:
        """Return the next batches to write, at most about 1 MiB of requests; call again while `wants_write`."""
        records = self.out
        if self.connection.is_up and self.serving.settling:
            records += self.serving.take_settled()
        if self.phase is OPEN and self.calling.queue:
            for request in self.calling.take(self.connection.number, now):
                if len(request.body) > self.limits.chunk_bytes:
                    announcement, chunks = self.connection.chunker.split(request)
                    records += [announcement, *chunks]
                else:
                    records.append(request)
        if not records:
            return []
        self.out = []
        batches = encode_split(self.connection.counter_out, records, self.limits.protocol)
        self.connection.counter_out += len(batches)
        return batches

    def unwritten(self) -> None:
        """Not one byte of the last `take` could be written: what was new in it was not seen by anyone."""
        self.calling.unwritten()

    # This app asks

    def submit(self, request: Request, timeout_s: float, now: float) -> int:
        """Queue a request and return its seq. Raises Overloaded, which names the limit, and SessionClosed."""
        if self.phase is CLOSED or self.leaving:
            raise SessionClosed("this client is closed")
        if not self._outstanding:
            self.connection.expect(now)
        if request.trace is not None:
            request.trace = arrive([], ASKING_APP, self.app, now)
        return self.calling.submit(request, timeout_s, self.limits, now)

    def cancel(self, seq: int) -> bool:
        """Give a request of ours up: nothing more is told of it. Return whether it was ever written."""
        record = self.calling.cancel(seq, self.limits, self.id)
        if record is not None:
            self._say(record)
        return record is not None

    def query(self, what: str, arguments: dict[str, str], now: float) -> int:
        """Ask the agent about itself; return the number that `Reported` will bear."""
        if not self._outstanding:
            self.connection.expect(now)
        self.query_no += 1
        query = self.queries[self.query_no] = Query(self.query_no, what, arguments or None)
        self._say(query)
        return self.query_no

    def forget_query(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        self.queries.pop(number, None)

    def _reply(self, record: Reply, now: float, events: list[Event]) -> None:
        if not record.size:
            if record.session == self.id:
                if record.trace is not None:
                    receive(record.trace, now)
                events += self.calling.end(record.seq, record)
        elif not self.connection.chunker.announced(record):
            text = f"it ran; its reply of {record.size} bytes is over body_bytes_max = {self.limits.body_bytes_max}"
            id = (record.node, record.session, record.seq)
            failure = Failure(*id, int(Status.REMOTE_ERROR), text, limit="body_bytes_max", error_type="ReplyTooLarge")
            events += self.calling.end(record.seq, failure)

    def _ended(self, record: Failure | Receipt, now: float, events: list[Event]) -> None:
        if record.session == self.id:
            events += self.calling.end(record.seq, record)

    def _given_back(self, record: GiveBack, now: float, events: list[Event]) -> None:
        if record.session == self.id:
            self.calling.given_back(record.seq)

    def _accepted(self, record: Accepted, now: float, events: list[Event]) -> None:
        events += self.calling.accepted(record, self.limits)

    def _settled(self, record: Settled, now: float, events: list[Event]) -> None:
        if record.session == self.id:
            events += self.calling.settled(record, self.limits)

    def _targets(self, record: Targets, now: float, events: list[Event]) -> None:
        events += self.calling.targeted(record)

    def _reach(self, record: Reach, now: float, events: list[Event]) -> None:
        self.calling.reach(record)

    def _floor_ask(self, record: FloorAsk, now: float, events: list[Event]) -> None:
        calling = self.calling
        seqs = range(calling.floor, min(calling.next_seq, calling.floor + SEQS_MAX))
        ended = to_ranges(seq for seq in seqs if seq not in calling.pending)
        self._say(Floor(record.node, self.id, calling.floor, ended[:RANGES_MAX]))

    def _report(self, record: Report, now: float, events: list[Event]) -> None:
        if self.queries.pop(record.seq, None) is not None:
            events.append(Reported(record.seq, record.ok, record.body))

    # This app is asked

    def serve(self, topic: str, server: str, workers: int, prefetch: int) -> None:
        """Serve a topic; `ServingTold` says whether that was granted."""
        self._say(self.serving.serve(Service(topic, server, workers, prefetch)))

    def unserve(self, topic: str) -> None:
        """Serve a topic no more; `ServingTold` says when the agent has handed its last."""
        record = self.serving.unserve(topic)
        if record is not None:
            self._say(record)

    def begin(self, id: Id, now: float) -> bool:
        """Return whether to run a delivered request now; False: it was cancelled, or its time is over."""
        result = self.serving.begin(id, now)
        if isinstance(result, bool):
            return result
        self._say(result)
        return False

    def answer(self, answer: Reply | Failure, now: float) -> None:
        """A call's handler ended."""
        if isinstance(answer, Reply) and len(answer.body) > self.limits.body_bytes_max:
            text = f"the reply of {len(answer.body)} bytes is over body_bytes_max = {self.limits.body_bytes_max}"
            id = (answer.node, answer.session, answer.seq)
            answer = Failure(*id, int(Status.REMOTE_ERROR), text, limit="body_bytes_max", error_type="ReplyTooLarge")
        self._say(self.serving.answer(answer, now))

    def settle(self, id: Id, *, failed: bool = False) -> None:
        """The handler of a cast or fan-out ended; ``failed``: it raised."""
        self.serving.settle(id, failed)

    def _request(self, request: Request, now: float, events: list[Event]) -> None:
        if request.size:
            if self.connection.chunker.announced(request):
                self.connection.announced_at[request.stream] = now
            else:
                raise ProtocolError(f"a request of {request.size} bytes is over the agent's own limit")
            return
        deadline, instead = self.serving.take_in(request, now, self.app)
        if deadline is not None:
            events.append(Delivered(request, deadline))
        elif instead is not None:
            self._say(instead)

    def _cancel(self, cancel: Cancel, now: float, events: list[Event]) -> None:
        id = (cancel.node, cancel.session, cancel.seq)
        coming = self.connection.chunker.withdraw(*id)
        if coming is not None:
            del self.connection.announced_at[coming.stream]
            self._say(self.serving.refused(id, coming.kind))
            return
        result = self.serving.cancel(id)
        if result is True:
            events.append(CancelAsked(id))
        elif result is not False:
            self._say(result)

    def _ask(self, ask: Ask, now: float, events: list[Event]) -> None:
        for record in self.serving.ask(ask):
            self._say(record)

    def _floor(self, floor: Floor, now: float, events: list[Event]) -> None:
        self.serving.settled(floor)

    def _served(self, served: Served, now: float, events: list[Event]) -> None:
        service = self.serving.services.get(served.topic)
        if service is None:
            return
        if served.ok:
            service.told = True
        elif service.leaving or not service.told:
            del self.serving.services[served.topic]
        events.append(ServingTold(served.topic, served.ok, served.text, served.rule))

    # Bodies in pieces, and signs of life

    def _chunk(self, chunk: Chunk, now: float, events: list[Event]) -> None:
        whole, ack = self.connection.chunker.chunk(chunk)
        self._say(ack)
        if isinstance(whole, Request):
            waited_ms = (now - self.connection.announced_at.pop(chunk.stream)) * 1000
            remaining_ms = max(0, whole.timeout_ms - round(waited_ms))
            self._request(structs.replace(whole, timeout_ms=remaining_ms), now, events)
        elif whole is not None:
            self._reply(whole, now, events)

    def _chunk_ack(self, ack: ChunkAck, now: float, events: list[Event]) -> None:
        self.out += self.connection.chunker.acked(ack)

    def _ping(self, ping: Ping, now: float, events: list[Event]) -> None:
        self._say(Pong(ping.stamp))

    def _pong(self, pong: Pong, now: float, events: list[Event]) -> None:
        """It was heard; that is all."""

    @property
    def _outstanding(self) -> bool:
        return bool(self.calling.pending or self.queries)

    # Time

    def deadline(self) -> float | None:
        """Return when `tick` is due, or None. It does not count ``redial_at``, which is the shell's to keep."""
        due = self.calling.deadline()
        look_due = self.connection.deadline(self._outstanding)
        if look_due is not None and (due is None or look_due < due):
            due = look_due
        if self.serving.callers and (due is None or self.serving.sweep_at < due):
            due = self.serving.sweep_at
        return due

    def tick(self, now: float) -> list[Event]:
        """Do what is due."""
        events, records = self.calling.expire(self.away(), self.limits, self.id, now)
        for record in records:
            self._say(record)
        if self.serving.callers and now >= self.serving.sweep_at:
            for record in self.serving.sweep(now):
                self._say(record)
        found = self.connection.listen(self._outstanding, now)
        if isinstance(found, str):
            events.append(Lost(found))
        elif found is not None:
            self._say(found)
        return events


_Verb = Callable[[Session, Any, float, list[Event]], None]

_VERBS: dict[type, _Verb] = {
    Reply: Session._reply,
    Request: Session._request,
    Failure: Session._ended,
    GiveBack: Session._given_back,
    Accepted: Session._accepted,
    Settled: Session._settled,
    Receipt: Session._ended,
    Targets: Session._targets,
    Reach: Session._reach,
    Chunk: Session._chunk,
    ChunkAck: Session._chunk_ack,
    Cancel: Session._cancel,
    Ask: Session._ask,
    Floor: Session._floor,
    FloorAsk: Session._floor_ask,
    Served: Session._served,
    Report: Session._report,
    Ping: Session._ping,
    Pong: Session._pong,
    Goodbye: Session._goodbye,
    AppWelcome: Session._welcome,
    Refuse: Session._refuse,
}

_GREETINGS = (Session._welcome, Session._refuse)
