"""Apps of the simulated world that are real client sessions, and the ledger in which everybody writes what happened."""

from collections.abc import Callable

from mesh.client.connection import Connection
from mesh.client.events import CancelAsked, Delivered, Ended, Event, Id, Lost, Outcome
from mesh.client.session import Session
from mesh.core.records import Failure, Kind, Receipt, Reply, Request, Status
from mesh.core.rng import Rng
from mesh.sim.world import World

__all__ = ["Client", "Ledger"]

NOT_RUN = (Status.UNROUTABLE, Status.OVERLOADED, Status.EXPIRED, Status.REJECTED, Status.AGENT_UNAVAILABLE)
"""Outcomes that say that no handler began."""


class Ledger:
    """What was sent, what was begun and where, and how it ended."""

    def __init__(self) -> None:
        self.sent: dict[Id, Request] = {}
        self.begun: dict[Id, list[int]] = {}
        self.ended: dict[Id, list[Outcome]] = {}

    def problems(self) -> list[str]:
        """Return every promise that was broken; all apps but dead ones are there, and all deadlines have passed."""
        found = []
        for id, request in self.sent.items():
            outcomes = self.ended.get(id, [])
            runs = len(self.begun.get(id, []))
            what = f"{Kind(request.kind).name} {id} ran {runs} times, ended {outcomes}"
            if len(outcomes) != 1:
                found.append(f"{what}: it must end once")
                continue
            (outcome,) = outcomes
            if request.kind == Kind.CALL and not request.flags & 1 and runs > 1:
                found.append(f"{what}: it must not run twice")
            if isinstance(outcome, Failure) and outcome.status in NOT_RUN and runs:
                found.append(f"{what}: it was said not to have run")
            if runs == 0 and (isinstance(outcome, Reply) or (outcome is None and request.kind == Kind.CAST)):
                found.append(f"{what}: it was said to have run")
            if isinstance(outcome, Receipt) and outcome.finished > len(set(self.begun.get(id, []))):
                found.append(f"{what}: more finished than began")
        return found

    def outcomes(self, *kinds: Kind) -> dict[str, int]:
        """Return how often requests of these kinds ended how."""
        counts: dict[str, int] = {}
        for id, outcomes in self.ended.items():
            if id in self.sent and self.sent[id].kind in kinds:
                for outcome in outcomes:
                    name = Status(outcome.status).name if isinstance(outcome, Failure) else type(outcome).__name__
                    counts[name] = counts.get(name, 0) + 1
        return counts


class Client:
    """One app: it serves with some workers, each of which takes a while, and calls; it redials while it lives."""

    def __init__(self, world: World, node: str, id: int, ledger: Ledger, *, work_s: tuple[float, float]) -> None:
        self.world, self.node, self.ledger, self.work_s = world, node, ledger, work_s
        self.rng = Rng(id)
        self.session = Session(id, f"app{id}", connection=Connection(id))
        self.workers = 0
        self.queue: list[Delivered] = []
        self.busy = 0
        self.is_up = False
        self.is_alive = True
        self._dial()

    # A speaker

    def connected(self, now: float) -> None:
        self.is_up = True
        self.session.connected(now)

    def received(self, data: bytes, now: float) -> None:
        if self.is_up:
            self._after(self.session.received(data, now))

    def disconnected(self, now: float) -> None:
        if self.is_up:
            self.is_up = False
            self.session.disconnected("the socket is gone", now)
            self.world.at(self.session.connection.redial_at, self._dial)

    def deadline(self) -> float | None:
        return self.session.deadline() if self.is_alive else None

    def tick(self, now: float) -> None:
        if self.is_alive:
            self._after(self.session.tick(now))

    def take(self, now: float) -> list[bytes]:
        frames: list[bytes] = []
        while self.session.wants_write:
            frames += self.session.take(now)
        return frames

    def _dial(self) -> None:
        if not self.is_alive or self.is_up:
            return
        if self.node in self.world.agents:
            self.world.attach(self.node, self)
        else:
            self.session.disconnected("nobody listens", self.world.now)
            self.world.at(self.session.connection.redial_at, self._dial)

    def hang_up(self) -> None:
        """Lose the socket, if there is one; a new one is opened soon."""
        if self.is_up and self.node in self.world.agents:
            self.world.detach(self.node, self)

    def die(self) -> None:
        """End this process; what it had sent and had not heard of ends nowhere."""
        self.is_alive = False
        if self.is_up and self.node in self.world.agents:
            self.world.detach(self.node, self, dead=True)
        for id in [id for id in self.ledger.sent if id[1] == self.session.id]:
            del self.ledger.sent[id]

    # What it does

    def serve(self, topic: str, workers: int) -> None:
        self.workers = workers
        self.session.serve(topic, f"{self.node}-{self.session.id}", workers, 16)
        self.world.hear(self.node, self)

    def send(self, kind: Kind, topic: str, body: bytes, timeout_s: float, flags: int = 0) -> None:
        if not self.is_alive:
            return
        request = Request(int(kind), 0, topic, "", round(timeout_s * 1000), body, flags)
        seq = self.session.submit(request, timeout_s, self.world.now)
        self.ledger.sent[self.node, self.session.id, seq] = request
        self.world.hear(self.node, self)
        self._wake()

    def _wake(self) -> None:
        """Have deadlines kept while there is no agent to talk to."""
        due = self.session.deadline()
        if due is not None:
            self.world.at(due, self._late)

    def _late(self) -> None:
        due = self.session.deadline()
        if self.is_alive and due is not None and due <= self.world.now:
            self.tick(self.world.now)
            self.world.hear(self.node, self)
            self._wake()

    def _after(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Delivered):
                self.queue.append(event)
            elif isinstance(event, Ended):
                id = (self.node, self.session.id, event.seq)
                self.ledger.ended.setdefault(id, []).append(event.outcome)
            elif isinstance(event, Lost):
                self.hang_up()
            elif isinstance(event, CancelAsked):
                self.world.say(f"app {self.session.id} is asked to cancel {event.id}")
        self._work()

    def _work(self) -> None:
        while self.queue and self.busy < self.workers:
            request = self.queue.pop(0).request
            id = (request.node, request.session, request.seq)
            if self.session.begin(id, self.world.now):
                self.ledger.begun.setdefault(id, []).append(self.session.id)
                self.busy += 1
                self.world.after(self.work_s, self._end(request, id))

    def _end(self, request: Request, id: Id) -> Callable[[], None]:
        def end() -> None:
            if not self.is_alive:
                return
            self.busy -= 1
            if request.kind == Kind.CALL:
                self.session.answer(Reply(*id, request.body), self.world.now)
            else:
                self.session.settle(id)
            self._work()
            self.world.hear(self.node, self)

        return end
