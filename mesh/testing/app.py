"""One app of a test: its process in the simulated world, what it sent, and what it was handed."""

from collections.abc import Callable

from msgspec import Struct, field

from mesh.client.api import Receipt, Reply, error_of, value_of
from mesh.client.connection import Phase
from mesh.client.events import Delivered, Ended, Event, Id, Lost, Outcome, Parted
from mesh.client.serving import Stage
from mesh.client.session import Session
from mesh.core.records import Failure, Kind, Request
from mesh.errors import OutcomeError
from mesh.sim.process import Process
from mesh.sim.world import World
from mesh.types import MessageId

__all__ = ["App", "Sent", "is_assertion"]

KIND_NAMES = {Kind.CALL: "call", Kind.CAST: "cast", Kind.FANOUT: "fanout"}


class Sent(Struct, eq=False):
    """A message that an app sent. ``server``: the instance that it was addressed to, empty for any; ``runs``: how often
    a handler has begun it, ``ran_by``: in which apps, on which nodes; ``errors``: what its handlers raised;
    ``outcome``: what it brought, once it has ended (None before, and for a cast that was handled)."""

    app: str
    kind: str
    topic: str
    server: str
    body: bytes
    headers: dict[str, str]
    id: MessageId
    runs: int = 0
    ended: bool = False
    outcome: Reply | Receipt | OutcomeError | None = None
    ran_by: list[tuple[str, str]] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)


class App:
    """What the fleet knows of one client. ``dispatch`` is told what its session tells, ``end`` ends the client at once;
    ``sent`` is told of each message, ``handled`` of each that a handler here has begun and then of its end."""

    def __init__(
        self,
        world: World,
        node: str,
        session: Session,
        dispatch: Callable[[list[Event]], None],
        sent: Callable[[Id, Sent], None],
        handled: Callable[["App", Request, Stage], None],
    ) -> None:
        self.world = world
        self.node = node
        self.session = session
        self.process = Process(world, node, session, self._told)
        self.process.on_write = self.look
        self.outcomes: dict[int, Sent] = {}
        self.end: Callable[[], None] = lambda: None
        self._dispatch = dispatch
        self._sent = sent
        self._handled = handled
        self._seen = 0
        self._in_hand: dict[Id, tuple[Request, Stage]] = {}
        self._is_leaving = False

    def look(self) -> None:
        """Notice what was sent, and what handlers have begun and ended, since the last look."""
        calling, node = self.session.calling, self.session.limits.node
        while self._seen < calling.next_seq:
            seq, self._seen = self._seen, self._seen + 1
            pending = calling.pending.get(seq)
            if pending is not None:
                sent = _sent(self.session.app, pending.request, MessageId(node, self.session.id, seq))
                self.outcomes[seq] = sent
                self._sent((node, self.session.id, seq), sent)
        for id, (request, stage) in list(self._in_hand.items()):
            now = self._stage_of(id)
            if now is Stage.ENDED:
                del self._in_hand[id]
            elif now is not stage:
                self._in_hand[id] = (request, now)
            if stage is Stage.QUEUED and now is not stage:
                self._handled(self, request, Stage.RUNNING)
            if now is Stage.ENDED:
                self._handled(self, request, now)

    def _stage_of(self, id: Id) -> Stage:
        caller = self.session.serving.callers.get((id[0], id[1]))
        work = caller.works.get(id[2]) if caller is not None else None
        return work.stage if work is not None else Stage.ENDED

    def write(self) -> None:
        """Have the session's word written, when the process runs."""
        self.look()
        self.process.run(_nothing)

    def _told(self, events: list[Event]) -> None:
        self.look()
        for event in events:
            if isinstance(event, Delivered):
                request = event.request
                self._in_hand[request.node, request.session, request.seq] = (request, Stage.QUEUED)
            elif isinstance(event, Ended):
                self._ended(event.seq, event.outcome)
            elif isinstance(event, Lost):
                self.process.hang_up()
        self._dispatch(events)
        if self._is_leaving:
            self._leave_on(events)

    def _ended(self, seq: int, outcome: Outcome) -> None:
        sent = self.outcomes.pop(seq, None)
        if sent is not None:
            sent.ended = True
            sent.outcome = error_of(outcome) if isinstance(outcome, Failure) else value_of(outcome)

    # It ends

    def die(self) -> None:
        """End the process at once."""
        if self.process.is_alive:
            self.process.end()
            self.end()

    def leave(self) -> None:
        """End in order: serve no more, finish what runs, say goodbye."""
        self._is_leaving = True
        self.process.run(self._unserve)

    def _unserve(self) -> None:
        for topic in list(self.session.serving.services):
            self.session.unserve(topic)
        self._leave_on([])

    def _leave_on(self, events: list[Event]) -> None:
        session = self.session
        if any(isinstance(event, Parted) for event in events):
            self.die()
        elif not session.serving.services and session.phase is Phase.OPEN and not session.leaving:
            session.leave()

    def close(self) -> None:
        """The client was closed: nothing more is written, and it dials no more."""
        if self.process.is_alive:
            self.process.end(dead=False)


def _sent(app: str, request: Request, id: MessageId) -> Sent:
    kind, headers = KIND_NAMES[Kind(request.kind)], dict(request.headers or {})
    return Sent(app, kind, request.topic, request.server, request.body, headers, id)


def is_assertion(error: BaseException) -> bool:
    """Whether a test's own check has failed, though in a group."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(AssertionError) is not None
    return isinstance(error, AssertionError)


def _nothing() -> None:
    """There is nothing to do but to write."""
