"""Apps of the simulated world: real client sessions, a shell around them, and handlers that behave in all ways.

An app's process can be stopped (`pause`), read slowly, lose its socket with or without what it wrote, leave in order,
and die. What it sends, runs and is told goes to the ledger.
"""

from collections import deque
from collections.abc import Callable
from functools import partial

from msgspec import Struct

from mesh.client.connection import Connection, Phase
from mesh.client.events import (
    CancelAsked,
    Delivered,
    Ended,
    Event,
    Held,
    Id,
    Lost,
    Parted,
    Refused,
    ServingTold,
)
from mesh.client.session import Session
from mesh.core.records import Failure, Kind, Reply, Request, Status
from mesh.core.rng import Rng
from mesh.errors import MeshError
from mesh.sim.ledger import Ledger
from mesh.sim.world import World

__all__ = ["App", "Manner", "ServicePlan"]

PARTING_S = 3.0
"""How long an app that leaves waits for its agent's answer."""


class Manner(Struct, frozen=True, omit_defaults=True):
    """How handlers behave: how long they work, evenly between two bounds; of a thousand, how many raise, hang until
    all is calm, and kill their process."""

    work_s: tuple[float, float] = (0.0, 0.01)
    fails: int = 0
    hangs: int = 0
    crashes: int = 0


class ServicePlan(Struct, frozen=True, omit_defaults=True):
    """A topic that an app serves."""

    topic: str
    workers: int = 2
    prefetch: int = 16


class _Desk(Struct):
    """The shell's side of one service: what waits for a worker, and how many are busy."""

    plan: ServicePlan
    queue: deque[Request]
    busy: int = 0


class App:
    """One process. ``read_s``: how long it takes over each frame; ``on_crash`` is told when a handler killed it."""

    def __init__(
        self, world: World, ledger: Ledger, node: str, id: int, manner: Manner, *, read_s: float = 0.0
    ) -> None:
        self.world, self.ledger, self.node, self.id, self.manner = world, ledger, node, id, manner
        self.rng = Rng(id * 7919 + 1)
        self.session = Session(id, f"app{id}", connection=Connection(id))
        self.desks: dict[str, _Desk] = {}
        self.hung: list[Callable[[], None]] = []
        self.unread: deque[Callable[[], None]] = deque()
        self.read_s = read_s
        self.reads_at = 0.0
        self.paused_until = 0.0
        self.wakes_at = 0.0
        self.is_up = False
        self.is_alive = True
        self.is_leaving = False
        self.on_crash: Callable[[App], None] | None = None
        self._dial()

    def time(self) -> float:
        """Return what its machine's clock says."""
        return self.world.time(self.node)

    # A speaker

    def connected(self, now: float) -> None:
        self.is_up = True
        self.session.connected(now)

    def received(self, data: bytes, now: float) -> None:
        self._read(lambda: self._received(data))

    def disconnected(self, now: float) -> None:
        self._read(self._disconnected)

    def deadline(self) -> float | None:
        """It keeps its own time, for that goes on while there is no agent."""
        return None

    def tick(self, now: float) -> None: ...

    def take(self, now: float) -> list[bytes]:
        frames: list[bytes] = []
        while self.paused_until <= self.world.now and self.session.wants_write:
            frames += self.session.take(now)
        return frames

    def _read(self, entry: Callable[[], None]) -> None:
        """Do what reading brings: now, or in its order when the process runs and gets to it."""
        if not self.unread and self.reads_at <= self.world.now:
            entry()
            return
        self.unread.append(entry)
        if len(self.unread) == 1:
            self.world.at(self.reads_at, self._read_on)

    def _read_on(self) -> None:
        if self.reads_at > self.world.now:
            self.world.at(self.reads_at, self._read_on)
            return
        self.unread.popleft()()
        self.reads_at = max(self.reads_at, self.world.now + self.read_s)
        if self.unread:
            self.world.at(self.reads_at, self._read_on)
        self.world.hear(self.node, self)

    def _received(self, data: bytes) -> None:
        if self.is_up and self.is_alive:
            self._after(self.session.received(data, self.time()))

    def _disconnected(self) -> None:
        if self.is_up and self.is_alive:
            self.is_up = False
            self.session.disconnected("the socket is gone", self.time())
            self._redial()

    def _redial(self) -> None:
        self.world.at(self.world.when(self.node, self.session.connection.redial_at), self._dial)

    def _dial(self) -> None:
        if not self.is_alive or self.is_up:
            return
        if self.paused_until > self.world.now:
            self.world.at(self.paused_until, self._dial)
        elif self.node in self.world.agents:
            self.world.attach(self.node, self)
            self._wake()
        else:
            self.session.disconnected("nobody listens", self.time())
            self._redial()

    def _wake(self) -> None:
        """Have the session's deadline kept."""
        due = self.session.deadline()
        if due is None or not self.is_alive:
            return
        due = max(self.world.when(self.node, due), self.world.now + 1e-6, self.paused_until)
        if self.world.now < self.wakes_at <= due:
            return
        self.wakes_at = due

        def wake() -> None:
            if self.wakes_at == due and self.is_alive:
                self._run(lambda: self._after(self.session.tick(self.time())))

        self.world.at(due, wake)

    def _run(self, entry: Callable[[], object]) -> None:
        """Do something of its own, when the process runs; then write what it has to say."""
        if not self.is_alive:
            return
        if self.paused_until > self.world.now:
            self.world.at(self.paused_until, lambda: self._run(entry))
            return
        entry()
        self.world.hear(self.node, self)
        self._wake()

    # What goes wrong

    def pause(self, duration_s: float) -> None:
        """Stop the process: it neither reads nor writes nor works for a while."""
        self.paused_until = max(self.paused_until, self.world.now + duration_s)
        self.reads_at = max(self.reads_at, self.paused_until)
        self.world.say(f"app {self.id} is stopped for {duration_s:.3f} s")

    def hang_up(self, *, lossy: bool = False) -> None:
        """Lose the socket, if there is one; a new one is opened soon."""
        if self.is_up and self.node in self.world.agents:
            self.world.detach(self.node, self, lossy=lossy)

    def die(self) -> None:
        """End this process; what it had sent and had not heard of ends nowhere."""
        if not self.is_alive:
            return
        self.is_alive = False
        self.world.say(f"app {self.id} dies")
        if self.is_up and self.node in self.world.agents:
            self.world.detach(self.node, self, dead=True)
        for seq in self.session.calling.pending:
            self.ledger.give_up((self.node, self.id, seq))

    def leave(self) -> None:
        """End in order: serve no more, finish what runs, say goodbye."""
        self.is_leaving = True
        self._run(self._unserve)
        self.world.at(self.world.now + PARTING_S, self.die)

    def _unserve(self) -> None:
        for topic in self.desks:
            self.session.unserve(topic)

    def calm(self) -> None:
        """From now on handlers are quick and end well, and what hangs ends."""
        self.manner, self.read_s = Manner(), 0.0
        hung, self.hung = self.hung, []
        for end in hung:
            self._run(end)

    # What it does

    def serve(self, plan: ServicePlan) -> None:
        """Serve a topic as an instance of its own."""
        self.desks[plan.topic] = _Desk(plan, deque())
        self._run(lambda: self.session.serve(plan.topic, f"{self.node}-{self.id}", plan.workers, plan.prefetch))

    def send(self, request: Request, timeout_s: float, cancel_s: float = 0.0) -> None:
        """Send a request; ``cancel_s``: give it up after that, if it has not ended."""
        self._run(lambda: self._send(request, timeout_s, cancel_s))

    def _send(self, request: Request, timeout_s: float, cancel_s: float) -> None:
        if self.is_leaving:
            return
        try:
            seq = self.session.submit(request, timeout_s, self.time())
        except MeshError as error:
            self.world.say(f"app {self.id} may not send: {error}")
            return
        id = (self.node, self.id, seq)
        self.ledger.sent(id, request, self.world.now, timeout_s)
        if cancel_s:
            self.world.at(self.world.now + cancel_s, lambda: self._run(lambda: self._cancel(id)))

    def _cancel(self, id: Id) -> None:
        if id[2] in self.session.calling.pending:
            self.ledger.give_up(id)
            self.session.cancel(id[2])

    def _after(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Delivered):
                self.ledger.delivered(self.id, event.request)
                desk = self.desks[event.request.topic]
                desk.queue.append(event.request)
                self._work(desk)
            elif isinstance(event, Ended):
                self.ledger.outcome((self.node, self.id, event.seq), event.outcome)
            elif isinstance(event, Held):
                for seq in event.seqs:
                    self.ledger.held((self.node, self.id, seq))
            elif isinstance(event, Lost):
                self._lost(event)
            elif isinstance(event, Refused):
                if event.final:
                    self.ledger.found(f"app {self.id} was refused for good: {event.text}")
            elif isinstance(event, CancelAsked):
                self.world.say(f"app {self.id} is asked to cancel {event.id}")
            elif isinstance(event, Parted):
                self.die()
            elif isinstance(event, ServingTold):
                self._told(event)
        if not self.world.now < self.wakes_at:
            self._wake()

    def _lost(self, lost: Lost) -> None:
        if "broke the protocol" in lost.reason:
            self.ledger.found(f"app {self.id}: {lost.reason}")
        self.hang_up()

    def _told(self, told: ServingTold) -> None:
        self.world.say(f"app {self.id} {'serves' if told.ok else 'no longer serves'} {told.topic} {told.text}")
        if self.is_leaving and not self.session.serving.services and self.session.phase is Phase.OPEN:
            self.session.leave()

    # It works

    def _work(self, desk: _Desk) -> None:
        while self.is_alive and desk.queue and desk.busy < desk.plan.workers:
            request = desk.queue.popleft()
            id = (request.node, request.session, request.seq)
            if not self.session.begin(id, self.time()):
                continue
            self.ledger.begun(self.id, id)
            desk.busy += 1
            fate, manner = self.rng.below(1000), self.manner
            fails = fate < manner.fails
            end = self._end_of(desk, request, id, fails)
            fate -= manner.fails
            if 0 <= fate < manner.hangs:
                self.hung.append(end)
                continue
            fate -= manner.hangs
            if 0 <= fate < manner.crashes:
                self.world.at(self.world.now + self.rng.uniform(*manner.work_s), self._crash)
                continue
            due = self.world.now + self.rng.uniform(*manner.work_s)
            self.world.at(due, partial(self._run, end))

    def _crash(self) -> None:
        if self.is_alive:
            self.die()
            if self.on_crash is not None:
                self.on_crash(self)

    def _end_of(self, desk: _Desk, request: Request, id: Id, fails: bool) -> Callable[[], None]:
        def end() -> None:
            desk.busy -= 1
            self.ledger.ended(self.id, id)
            if request.kind != Kind.CALL:
                self.session.settle(id, failed=fails)
            elif fails:
                self.session.answer(Failure(*id, int(Status.REMOTE_ERROR), "no", error_type="ValueError"))
            else:
                self.session.answer(Reply(*id, request.body))
            self._work(desk)

        return end
