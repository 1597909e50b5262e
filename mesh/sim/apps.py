"""Apps of the simulated world: real client sessions, a shell around them, and handlers that behave in all ways.

What can happen to its connection is its `Process`'s; an app can leave in order, and die. What it sends, runs and is
told goes to the ledger.
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
from mesh.sim.process import Process
from mesh.sim.world import World

__all__ = ["App", "Manner", "ServicePlan"]

PARTING_S = 3.0
"""How long an app that leaves waits for its agent's answer."""


class Manner(Struct, frozen=True, omit_defaults=True):
    """How handlers behave: how long they work, evenly between two bounds; of a thousand, how many raise, hang until
    all is calm, and kill their process; and of a thousand messages that may run twice, how many kill whoever begins
    one."""

    work_s: tuple[float, float] = (0.0, 0.01)
    fails: int = 0
    hangs: int = 0
    crashes: int = 0
    poison: int = 0


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
        self.process = Process(world, node, self.session, self._after, read_s=read_s)
        self.desks: dict[str, _Desk] = {}
        self.hung: list[Callable[[], None]] = []
        self.is_leaving = False
        self.on_crash: Callable[[App], None] | None = None
        self.process.dial()

    @property
    def is_alive(self) -> bool:
        """Whether its process is there."""
        return self.process.is_alive

    # It ends

    def die(self) -> None:
        """End this process; what it had sent and had not heard of ends nowhere."""
        if not self.is_alive:
            return
        self.process.end()
        self.ledger.died(self.id, self.world.now)
        for seq in self.session.calling.pending:
            self.ledger.give_up((self.node, self.id, seq))

    def leave(self) -> None:
        """End in order: serve no more, finish what runs, say goodbye."""
        self.is_leaving = True
        self.process.run(self._unserve)
        self.world.at(self.world.now + PARTING_S, self.die)

    def _unserve(self) -> None:
        for topic in self.desks:
            self.session.unserve(topic)

    def calm(self) -> None:
        """From now on handlers are quick and end well, and what hangs ends."""
        self.manner, self.process.read_s = Manner(), 0.0
        hung, self.hung = self.hung, []
        for end in hung:
            self.process.run(end)

    # What it does

    def serve(self, plan: ServicePlan) -> None:
        """Serve a topic as an instance of its own."""
        self.desks[plan.topic] = _Desk(plan, deque())
        self.process.run(lambda: self.session.serve(plan.topic, f"{self.node}-{self.id}", plan.workers, plan.prefetch))

    def send(self, request: Request, timeout_s: float, cancel_s: float = 0.0) -> None:
        """Send a request; ``cancel_s``: give it up after that, if it has not ended."""
        self.process.run(lambda: self._send(request, timeout_s, cancel_s))

    def _send(self, request: Request, timeout_s: float, cancel_s: float) -> None:
        if self.is_leaving:
            return
        try:
            seq = self.session.submit(request, timeout_s, self.process.time())
        except MeshError as error:
            self.world.say(f"app {self.id} may not send: {error}")
            return
        id = (self.node, self.id, seq)
        self.ledger.sent(id, request, self.world.now, timeout_s)
        if cancel_s:
            self.world.at(self.world.now + cancel_s, lambda: self.process.run(lambda: self._cancel(id)))

    def _cancel(self, id: Id) -> None:
        if id[2] in self.session.calling.pending:
            self.ledger.give_up(id, cancelled=True)
            self.session.cancel(id[2])

    def _after(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Delivered):
                self.ledger.delivered(self.id, event.request)
                desk = self.desks[event.request.topic]
                desk.queue.append(event.request)
                self._work(desk)
            elif isinstance(event, Ended):
                self.ledger.outcome((self.node, self.id, event.seq), event.outcome, self.world.now)
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

    def _lost(self, lost: Lost) -> None:
        if "broke the protocol" in lost.reason:
            self.ledger.found(f"app {self.id}: {lost.reason}")
        self.ledger.lost(self.id)
        self.process.hang_up()

    def _told(self, told: ServingTold) -> None:
        self.world.say(f"app {self.id} {'serves' if told.ok else 'no longer serves'} {told.topic} {told.text}")
        if self.is_leaving and not self.session.serving.services and self.session.phase is Phase.OPEN:
            self.session.leave()

    # It works

    def _work(self, desk: _Desk) -> None:
        while self.is_alive and desk.queue and desk.busy < desk.plan.workers:
            request = desk.queue.popleft()
            id = (request.node, request.session, request.seq)
            if not self.session.begin(id, self.process.time()):
                continue
            self.ledger.begun(self.id, id)
            desk.busy += 1
            fate, manner = self.rng.below(1000), self.manner
            is_poison = self.ledger.messages[id].lot < manner.poison
            fails = fate < manner.fails and not is_poison
            end = self._end_of(desk, request, id, fails)
            fate -= manner.fails
            if 0 <= fate < manner.hangs and not is_poison:
                self.hung.append(end)
                continue
            fate -= manner.hangs
            if 0 <= fate < manner.crashes or is_poison:
                self.world.at(self.world.now + self.rng.uniform(*manner.work_s), self._crash)
                continue
            due = self.world.now + self.rng.uniform(*manner.work_s)
            self.world.at(due, partial(self.process.run, end))

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
            else:
                error = Failure(*id, int(Status.REMOTE_ERROR), "no", error_type="ValueError")
                self.session.answer(error if fails else Reply(*id, request.body), self.process.time())
            self._work(desk)

        return end
