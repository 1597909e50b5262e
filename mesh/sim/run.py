"""Plays a plan, checks all the way, and says what was found.

A run has three parts. While messages are sent, faults strike. At ``calm_at`` all faults are over: every agent and app
is there again and handlers are quick; within `_settle_s`, a bound made of the options, everything that can still end
must have ended, and then every app that calls must be answered by every topic (*liveness*). At the end, when every
deadline is past, every table must be empty.
"""

import traceback
from collections.abc import Callable
from functools import partial
from time import process_time

from msgspec import Struct, field

from mesh.client.connection import BACKOFF_MAX_S
from mesh.core.effects import Note, Stop
from mesh.core.records import Kind, Reply, Request
from mesh.sim import checkers
from mesh.sim.apps import App
from mesh.sim.disk import Disk
from mesh.sim.faults import TO_APPS, Fault, strike
from mesh.sim.ledger import UNTOLD_S, Ledger, Message, body_of, name_of
from mesh.sim.plan import BEGIN_S, Plan, Step
from mesh.sim.world import Agent, World
from mesh.spool.base import DeadOptions
from mesh.spool.memory import MemorySpool

__all__ = ["Result", "play"]

LOOK_S = 0.25
"""How often budgets are looked at."""

PROBE_S, PROBES_APART_S = 10.0, 0.1
"""How long a call may take after everything has settled, and how soon the next one follows."""

TAIL_S = 8.0
"""How long after the last deadline ids are remembered at most: a second, and the pace of the sweeps."""

GENERATION = 1000
"""What is added to the id of an app for each process that succeeds it."""

QUIET = ("away", "wipe", "empty", "split", "stale", "bad-disk")
"""Faults that keep nobody from showing a sign of life."""

KILLS = {"kill": 1, "kill-twice": 2}
"""How many agents a fault kills and does nothing else."""

REPAIR_S = 0.2
"""How soon an agent that stopped by itself is started again."""


class Result(Struct):
    """What a run came to. ``deliveries``: records that a node or a session was given; ``cpu_s``: of this process."""

    seed: int
    findings: list[str] = field(default_factory=list)
    deliveries: int = 0
    messages: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    trace: list[str] = field(default_factory=list)


class _Run:
    """A world, its apps, and what is found; a `faults.Stage`."""

    def __init__(self, plan: Plan, trace: bool) -> None:
        self.plan = plan
        self.nodes = plan.nodes
        self.result = Result(plan.seed)
        self.world = World(plan.seed, plan.network, frames=trace, traced=trace)
        self.world.on_frame = self._count
        self.world.on_note = self._noted
        self.world.on_stop = self._stopped
        self.world.network.on_send = self._sending
        is_deadly = any(app.manner.crashes or app.manner.poison for app in plan.apps)
        is_strict = not plan.faults and not is_deadly
        self.ledger = Ledger(self.found, strict=is_strict)
        self.ledger.ordered_bytes_max = plan.options.link.chunk_bytes
        self.ledger.lively = all(fault.kind in QUIET for fault in plan.faults)
        if all(fault.kind in KILLS for fault in plan.faults):
            self.ledger.hears = self._hears
            self.ledger.attempts_max = plan.options.outbox.attempts_max
            self.ledger.patient = not is_deadly and plan.options.outbox.resume_grace_s > BACKOFF_MAX_S
        topics = [service.topic for app in plan.apps for service in app.services]
        self.ledger.single = {topic: None for topic in topics if topics.count(topic) == 1}
        self.apps: list[App] = []
        self.is_calm = False
        self.is_attentive = all(fault.kind in TO_APPS for fault in plan.faults)

    def found(self, text: str) -> None:
        """Something is not as it must be."""
        self.world.say(f"FOUND {text}")
        self.result.findings.append(f"{self.world.now:.6f} {text}")

    def _count(self, data: bytes) -> None:
        self.result.deliveries += len(checkers.tags(data))

    def _noted(self, name: str, note: Note) -> None:
        problem = checkers.alarm(note)
        if problem:
            self.found(f"{name}: {problem}")

    def _sending(self, agent: Agent, receiver: str, conn: int, data: bytes) -> None:
        problem = checkers.stale_send(agent.node, conn, data)
        if problem:
            self.found(f"{agent.name}: {problem}")

    # A stage

    def app(self, number: int) -> App:
        """Return the process that now plays this app."""
        return self.apps[number % len(self.apps)]

    def until(self, fault: Fault, undo: Callable[[], None]) -> None:
        """Undo a fault when its time is over."""
        self.world.at(self.world.now + fault.for_s, undo)

    def restart(self, name: str) -> None:
        """Start an agent, unless it runs."""
        if name not in self.world.agents:
            self.world.start(name, self.plan.options)

    def replace(self, number: int) -> None:
        """Have a new process play this app, unless the old one lives."""
        number %= len(self.apps)
        old = self.apps[number]
        if not old.is_alive:
            self.apps[number] = self._start_app(number, old.id + GENERATION)

    def _stopped(self, name: str, stop: Stop) -> None:
        if stop.status:
            self.found(f"{name} stops with {stop.status}: {stop.reason}")
        self.world.at(self.world.now + REPAIR_S, lambda: self.restart(name))

    # Apps

    def _start_app(self, number: int, id: int) -> App:
        plan = self.plan.apps[number]
        app = App(self.world, self.ledger, plan.node, id, plan.manner, read_s=plan.read_s)
        app.on_crash = lambda app: self.world.at(self.world.now + 0.1, lambda: self.replace(number))
        if self.is_calm:
            app.calm()
        for service in plan.services:
            app.serve(service)
        return app

    def _take(self, number: int, step: Step) -> None:
        """Send a message."""
        server = ""
        if step.server_of >= 0:
            served = self.app(step.server_of)
            server = f"{served.node}-{served.id}"
        body = body_of(number, step.size)
        request = Request(step.kind, 0, step.topic, server, round(step.timeout_s * 1000), body, step.flags)
        request.monitor_ms = round(step.monitor_s * 1000)
        app = self.app(step.app)
        if app.is_alive:
            app.send(request, step.timeout_s, step.cancel_s)

    def _strike(self, fault: Fault) -> None:
        if strike(self, fault):
            self.result.faults[fault.kind] = self.result.faults.get(fault.kind, 0) + 1
            for _ in range(KILLS.get(fault.kind, 0)):
                self.ledger.killed(fault.one, self._served_elsewhere(fault.one), self.world.now)

    def _hears(self, id: tuple[str, int, int]) -> bool:
        """Return whether the app of a message is connected to its agent for long enough to have told it everything."""
        processes = [app.process for app in self.apps if app.id == id[1] and app.process.is_up]
        return any(self.world.now - process.up_at > UNTOLD_S for process in processes)

    def _served_elsewhere(self, node: str) -> list[str]:
        """Return the topics that one node serves, and another one than this."""
        nodes: dict[str, set[str]] = {}
        for app in self.plan.apps:
            for service in app.services:
                nodes.setdefault(service.topic, set()).add(app.node)
        return [topic for topic, served in nodes.items() if len(served) == 1 and node not in served]

    # The parts of a run

    def play(self) -> None:
        """Play the plan, up to its end or the first finding."""
        plan, world = self.plan, self.world
        for name, (ahead_s, rate) in plan.clocks.items():
            world.set_clock(name, ahead_s, rate)
        for name in plan.nodes:
            if plan.has_disks:
                world.disks[name] = Disk(MemorySpool(DeadOptions(), partial(world.time, name)))
            world.start(name, plan.options)
        world.run(BEGIN_S)
        self.apps = [self._start_app(number, number + 1) for number in range(len(plan.apps))]
        for number, step in enumerate(plan.steps):
            world.at(step.at, partial(self._take, number, step))
        for fault in plan.faults:
            world.at(fault.at, partial(self._strike, fault))
        settled_at = plan.calm_at + _settle_s(plan)
        if not self._go_on(plan.calm_at):
            return
        self._calm()
        if not self._go_on(settled_at):
            return
        self._expect_settled()
        self._probe()
        deadlines = [message.deadline for message in self.ledger.messages.values()]
        if self._go_on(max([world.now + PROBE_S, *deadlines]) + plan.options.outbox.resume_grace_s + TAIL_S):
            self._expect_nothing()

    def _go_on(self, until: float) -> bool:
        """Let time pass, with an eye on the budgets; False: something was found."""
        world = self.world
        while world.now < until and not self.result.findings:
            world.run(min(until, world.now + LOOK_S))
            for name, agent in world.agents.items():
                for problem in checkers.over_budget(agent.node):
                    self.found(f"{name}: {problem}")
                if self.is_attentive:
                    for problem in checkers.unwatched(agent.node, partial(self._silent_s, name)):
                        self.found(f"{name}: {problem}")
                if agent.paused_until + LOOK_S < world.now:
                    for problem in checkers.overdue(agent.node, agent.time()):
                        self.found(f"{name}: {problem}")
        return not self.result.findings

    def _silent_s(self, node: str, key: tuple[int, int], session: int) -> float:
        """Return for how long an app has been stopped that had begun a request of a node's app before."""
        if session not in self.ledger.messages[node, *key].begun:
            return 0.0
        now = self.world.now
        stopped = (app.process for app in self.apps if app.id == session and app.process.paused_until > now)
        return max((now - process.stopped_at for process in stopped), default=0.0)

    def _calm(self) -> None:
        """No fault lasts any longer."""
        world = self.world
        world.say("CALM")
        self.is_calm = True
        for one in self.nodes:
            self.restart(one)
            for other in self.nodes:
                world.heal(one, other)
        world.network.deaf.clear()
        world.matchmaker.back()
        for disk in world.disks.values():
            disk.spool.fault = ""
        for number, app in enumerate(self.apps):
            app.calm()
            self.replace(number)

    def _served(self) -> dict[str, None]:
        """Return the topics that somebody serves."""
        apps = [app for app in self.apps if app.is_alive and not app.is_leaving]
        return {topic: None for app in apps for topic in app.desks}

    def _expect_settled(self) -> None:
        """What somebody serves must have ended by now, whatever its deadline; the rest may wait for it."""
        served = self._served()
        for id in self.ledger.open():
            message = self.ledger.messages[id]
            may_wait = message.request.topic not in served or message.request.server
            if not may_wait or message.deadline + 1.0 < self.world.now:
                self.found(f"{self.ledger.name(id)} has not ended, and all has been calm since {self.plan.calm_at:.3f}")

    def _probe(self) -> None:
        """Every app calls every topic that is served, one after the other, and must be answered."""
        before = dict.fromkeys(self.ledger.messages)
        apps = [app for app in self.apps if app.is_alive and not app.is_leaving]
        number = 0
        for app in apps:
            for topic in self._served():
                request = Request(int(Kind.CALL), 0, topic, "", round(PROBE_S * 1000), body_of(number, 8))
                send = partial(app.send, request, PROBE_S)
                self.world.at(self.world.now + PROBES_APART_S * number, send)
                number += 1
        self._go_on(self.world.now + PROBES_APART_S * number + PROBE_S + 1.0)
        for id, message in self.ledger.messages.items():
            if id not in before and not message.given_up and not _is_answered(message):
                ends = " and ".join(f"{name_of(o)} {getattr(o, 'text', '')}" for o in message.outcomes)
                self.found(f"{self.ledger.name(id)} is not answered though all is well: {ends or 'nothing'}")

    def _expect_nothing(self) -> None:
        """Everything has ended, and nothing of it is left."""
        for id in self.ledger.open():
            self.found(f"{self.ledger.name(id)} never ended")
        for name, agent in self.world.agents.items():
            for problem in checkers.leaks(agent.node):
                self.found(f"{name} leaks: {problem}")
        for app in self.apps:
            if app.is_alive:
                for problem in checkers.session_leaks(app.session):
                    self.found(f"app {app.id} leaks: {problem}")
        for name, disk in self.world.disks.items():
            self._expect_all_delivered(name, disk)

    def _expect_all_delivered(self, name: str, disk: Disk) -> None:
        """What was accepted for a disk has been delivered, or is a dead letter; else nothing is on it."""
        spool = disk.spool
        letters = spool.dead(0, len(self.ledger.messages))
        for id in self.ledger.vanished(name, {(letter.session, letter.seq) for letter in letters}, disk.lost_at):
            self.found(f"{self.ledger.name(id)} was accepted, and is neither delivered nor a dead letter")
        totals = spool.totals()
        if totals.records or totals.done:
            self.found(f"{name} leaks on its disk: {totals.records} that wait, {totals.done} that are done")


def _is_answered(message: Message) -> bool:
    """Return whether a probe ended as it must. How many topics an agent watches is a limit that may stay reached."""
    (outcome,) = message.outcomes or [None]
    return isinstance(outcome, Reply) or getattr(outcome, "limit", "") == "watches_max"


def _settle_s(plan: Plan) -> float:
    """Return how long after the last fault everything must have settled: a silent link is found dead, dialled again at
    the longest pause, greeted twice, asked about, and what hangs behind it is worked off."""
    options = plan.options
    link_s = options.liveness.dead_after_s + options.pool.redial_max_s + 2 * options.link.hello_timeout_s
    return link_s + options.outbox.resume_grace_s + options.link.drain_s + 5.0


def play(plan: Plan, *, trace: bool = False) -> Result:
    """Play a plan. An exception of the core is a finding like any other. ``trace``: with every record."""
    began = process_time()
    run = _Run(plan, trace)
    try:
        run.play()
    except Exception:  # noqa: BLE001
        run.found(f"the core broke:\n{traceback.format_exc()}")
    result = run.result
    result.messages = len(run.ledger.messages)
    result.outcomes = run.ledger.counts()
    result.virtual_s = run.world.now
    result.cpu_s = process_time() - began
    result.trace = run.world.trace
    return result
