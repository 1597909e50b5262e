"""What can go wrong, one function for each kind: it does the damage, and `Stage.until` undoes it in its time.

A kind is a name in `KINDS`. A fault is data: its kind, when and for how long, the node and the other node or the app
that it meets, and a number that each kind reads in its own way.
"""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from mesh.core.rng import Rng
from mesh.sim.process import Process
from mesh.sim.world import World

__all__ = ["BETWEEN", "KINDS", "LATER", "TO_APPS", "Fault", "Stage", "Victim", "draw_fault", "meaning", "strike"]


class Fault(Struct, frozen=True):
    """One fault: at ``at``, for ``for_s``, to node ``one`` (and ``other``) or to app number ``app``."""

    kind: str
    at: float
    for_s: float
    one: str
    other: str
    app: int
    amount: float

    def __str__(self) -> str:
        return f"{self.kind} {self.one} {self.other} app {self.app} for {self.for_s:.3f} s, {self.amount:.2f}"


class Victim(Protocol):
    """An app that faults may meet."""

    @property
    def process(self) -> Process:
        """Its process."""
        ...

    def die(self) -> None:
        """End at once."""
        ...

    def leave(self) -> None:
        """End in order."""
        ...


class Stage(Protocol):
    """Where faults happen: a world and its apps, in which processes come back."""

    world: World
    nodes: tuple[str, ...]

    def app(self, number: int) -> Victim:
        """Return the process that now plays this app."""
        ...

    def until(self, fault: Fault, undo: Callable[[], None]) -> None:
        """Undo a fault when its time is over."""
        ...

    def restart(self, name: str) -> None:
        """Start an agent, unless it runs."""
        ...

    def replace(self, number: int) -> None:
        """Have a new process play this app, unless the old one lives."""
        ...


def draw_fault(
    kind: str, rng: Rng, nodes: tuple[str, ...], apps: int, span: tuple[float, float], dead_after_s: float
) -> Fault:
    """Draw a fault of a kind that is over before the end of the span; lengths are about what is noticed in time."""
    at = rng.uniform(*span)
    longest_s = (0.05, 0.5, dead_after_s, 3 * dead_after_s)[rng.below(4)]
    for_s = min(rng.uniform(0.001, longest_s), span[1] - at)
    first = rng.below(len(nodes))
    second = (first + 1 + rng.below(max(1, len(nodes) - 1))) % len(nodes)
    return Fault(kind, at, for_s, nodes[first], nodes[second], rng.below(apps), rng.uniform(0, 1))


def strike(stage: Stage, fault: Fault) -> bool:
    """Do the damage; False: what it was meant for is not there now."""
    world = stage.world
    is_between = fault.kind in _BETWEEN
    if fault.kind in _TO_APPS:
        if not stage.app(fault.app).process.is_alive:
            return False
    elif fault.one not in world.agents or (is_between and (fault.one == fault.other)):
        return False
    world.say(f"FAULT {fault}")
    _STRIKES[fault.kind](stage, fault)
    return True


# Connections between agents


def _cut(stage: Stage, fault: Fault) -> None:
    """A connection is reset; both ends notice."""
    stage.world.cut(fault.one, fault.other)


def _half_cut(stage: Stage, fault: Fault) -> None:
    """A connection is reset; one end notices, the other when it next sends."""
    stage.world.network.cut(fault.one, fault.other, only=fault.one)


def _silence(stage: Stage, fault: Fault) -> None:
    """Packets are dropped both ways."""
    stage.world.silence(fault.one, fault.other)
    stage.until(fault, lambda: stage.world.heal(fault.one, fault.other))


def _mute(stage: Stage, fault: Fault) -> None:
    """Packets are dropped one way."""
    stage.world.network.silence(fault.one, fault.other)
    stage.until(fault, lambda: stage.world.heal(fault.one, fault.other))


def _stall(stage: Stage, fault: Fault) -> None:
    """What one node sends to another arrives, but late: TCP sends it again and again."""
    stage.world.network.stalled[fault.one, fault.other] = stage.world.now + fault.for_s


def _straggle(stage: Stage, fault: Fault) -> None:
    """What was sent last on a connection is read long after its sender has lost it and opened another."""
    world = stage.world
    world.network.stalled[fault.one, fault.other] = world.now + fault.for_s

    def lose() -> None:
        world.network.stalled.pop((fault.one, fault.other), None)
        if fault.one in world.agents:
            world.network.cut(fault.one, fault.other, only=fault.one)

    world.at(world.now + fault.for_s * fault.amount, lose)


def _slow(stage: Stage, fault: Fault) -> None:
    """The way between two nodes takes up to two hundred times as long."""
    slow = stage.world.network.slow
    for way in ((fault.one, fault.other), (fault.other, fault.one)):
        slow[way] = 5.0 + 195.0 * fault.amount
    stage.until(fault, lambda: stage.world.heal(fault.one, fault.other))


def _noise(stage: Stage, fault: Fault) -> None:
    """Some frames arrive with a wrong bit; the transport resets the connection."""
    stage.world.network.noisy[fault.one, fault.other] = 0.2 * fault.amount
    stage.until(fault, lambda: stage.world.heal(fault.one, fault.other))


def _deaf(stage: Stage, fault: Fault) -> None:
    """A node answers no dial."""
    stage.world.network.deaf[fault.one] = None
    stage.until(fault, lambda: stage.world.network.deaf.pop(fault.one, None))


def _partition(stage: Stage, fault: Fault) -> None:
    """The fleet falls into two parts that do not hear each other."""
    middle = 1 + int(fault.amount * (len(stage.nodes) - 1))
    pairs = [(one, other) for one in stage.nodes[:middle] for other in stage.nodes[middle:]]
    for one, other in pairs:
        stage.world.silence(one, other)

    def heal() -> None:
        for one, other in pairs:
            stage.world.heal(one, other)

    stage.until(fault, heal)


# Agents


def _pause(stage: Stage, fault: Fault) -> None:
    """An agent's process is stopped and goes on later; its entries' TTL may run out meanwhile."""
    world = stage.world
    world.pause(fault.one, fault.for_s)
    ttl_s = world.options.catalogue_ttl_s
    if fault.for_s > ttl_s:
        world.at(world.now + ttl_s, lambda: world.forget(fault.one))
        stage.until(fault, lambda: world.matchmaker.repair(fault.one))


def _lag(stage: Stage, fault: Fault) -> None:
    """An agent's loop is late for a moment, again and again."""
    for number in range(5):
        at = stage.world.now + number * fault.for_s / 5
        stage.world.at(at, lambda: _lag_once(stage.world, fault))


def _lag_once(world: World, fault: Fault) -> None:
    if fault.one in world.agents:
        world.pause(fault.one, min(0.3, fault.for_s / 8))


def _kill(stage: Stage, fault: Fault) -> None:
    """An agent's process is killed, and its supervisor starts another."""
    stage.world.kill(fault.one)
    stage.until(fault, lambda: stage.restart(fault.one))


def _kill_twice(stage: Stage, fault: Fault) -> None:
    """An agent is killed, and its successor soon after."""
    world = stage.world
    world.kill(fault.one)
    world.at(world.now + fault.for_s / 2, lambda: stage.restart(fault.one))

    def again() -> None:
        if fault.one in world.agents:
            world.kill(fault.one)
        stage.restart(fault.one)

    stage.until(fault, again)


def _lose_disk(stage: Stage, fault: Fault) -> None:
    """An agent's process is killed and its disk is lost; its supervisor starts another, with an empty one."""
    world = stage.world
    world.kill(fault.one)
    if fault.one in world.disks:
        world.disks[fault.one].lose(world.now)
        world.started.pop(fault.one, None)
    stage.until(fault, lambda: stage.restart(fault.one))


def _bad_disk(stage: Stage, fault: Fault) -> None:
    """A machine's disk refuses everything for a while."""
    disk = stage.world.disks.get(fault.one)
    if disk is None:
        return
    disk.spool.fault = "input/output error"

    def undo() -> None:
        disk.spool.fault = ""

    stage.until(fault, undo)


def _drain(stage: Stage, fault: Fault) -> None:
    """An agent drains, stops, and is started again."""
    world, agent = stage.world, stage.world.agents[fault.one]
    world.turn(agent, lambda: agent.node.drain(agent.time()))


# Apps


def _hang_up(stage: Stage, fault: Fault) -> None:
    """An app's socket is closed; what it wrote is read."""
    stage.app(fault.app).process.hang_up()


def _socket_error(stage: Stage, fault: Fault) -> None:
    """An app's socket breaks; what was on its way is lost, both ways."""
    stage.app(fault.app).process.hang_up(lossy=True)


def _stop_app(stage: Stage, fault: Fault) -> None:
    """An app's process is stopped and goes on later."""
    stage.app(fault.app).process.pause(fault.for_s)


def _slow_app(stage: Stage, fault: Fault) -> None:
    """An app takes long to read each frame."""
    process = stage.app(fault.app).process
    before, process.read_s = process.read_s, 0.05 * fault.amount

    def undo() -> None:
        process.read_s = before

    stage.until(fault, undo)


def _clog(stage: Stage, fault: Fault) -> None:
    """An app's socket takes nothing from its agent for a while; what the app writes is read."""
    world, process = stage.world, stage.app(fault.app).process
    if not process.is_up or process.node not in world.agents:
        return
    world.clog(process.node, process)

    def undo() -> None:
        if process.node in world.agents:
            world.unclog(process.node, process)

    stage.until(fault, undo)


def _die(stage: Stage, fault: Fault) -> None:
    """An app's process dies; another takes its place, with a session of its own."""
    stage.app(fault.app).die()
    stage.until(fault, lambda: stage.replace(fault.app))


def _leave(stage: Stage, fault: Fault) -> None:
    """An app ends in order; another takes its place."""
    app = stage.app(fault.app)
    app.leave()

    def undo() -> None:
        app.die()
        stage.replace(fault.app)

    stage.until(fault, undo)


# The matchmaker


def _away(stage: Stage, fault: Fault) -> None:
    """The matchmaker is gone for a while."""
    stage.world.matchmaker.is_away = True
    stage.until(fault, stage.world.matchmaker.back)


def _wipe(stage: Stage, fault: Fault) -> None:
    """The matchmaker loses its data; agents repair it a little later."""
    stage.world.matchmaker.wipe()
    stage.until(fault, stage.world.matchmaker.repair)


def _empty(stage: Stage, fault: Fault) -> None:
    """One agent is told that there is nobody, as one without the right to read is."""
    _mislead(stage, fault, {fault.one: ()})


def _split(stage: Stage, fault: Fault) -> None:
    """Each half of the fleet is told only of itself."""
    middle = 1 + int(fault.amount * (len(stage.nodes) - 1))
    halves = (stage.nodes[:middle], stage.nodes[middle:])
    _mislead(stage, fault, {name: half for half in halves for name in half})


def _mislead(stage: Stage, fault: Fault, seen: dict[str, tuple[str, ...]]) -> None:
    matchmaker = stage.world.matchmaker
    matchmaker.misled.update(seen)
    matchmaker.show_all()

    def undo() -> None:
        for name in seen:
            matchmaker.misled.pop(name, None)
        matchmaker.show_all()

    stage.until(fault, undo)


def _stale(stage: Stage, fault: Fault) -> None:
    """One agent is told nothing new for a while."""
    matchmaker = stage.world.matchmaker
    matchmaker.frozen[fault.one] = None

    def undo() -> None:
        matchmaker.frozen.pop(fault.one, None)
        matchmaker.show_all(fault.one)

    stage.until(fault, undo)


_BETWEEN: dict[str, Callable[[Stage, Fault], None]] = {
    "cut": _cut,
    "half-cut": _half_cut,
    "silence": _silence,
    "mute": _mute,
    "stall": _stall,
    "straggle": _straggle,
    "slow": _slow,
    "noise": _noise,
    "partition": _partition,
}
_TO_AGENTS: dict[str, Callable[[Stage, Fault], None]] = {
    "deaf": _deaf,
    "pause": _pause,
    "lag": _lag,
    "kill": _kill,
    "kill-twice": _kill_twice,
    "lose-disk": _lose_disk,
    "bad-disk": _bad_disk,
    "drain": _drain,
    "away": _away,
    "wipe": _wipe,
    "empty": _empty,
    "split": _split,
    "stale": _stale,
}
_TO_APPS: dict[str, Callable[[Stage, Fault], None]] = {
    "hang-up": _hang_up,
    "socket-error": _socket_error,
    "stop-app": _stop_app,
    "slow-app": _slow_app,
    "clog": _clog,
    "die": _die,
    "leave": _leave,
}
_STRIKES = {**_BETWEEN, **_TO_AGENTS, **_TO_APPS}

KINDS: tuple[str, ...] = tuple(_STRIKES)
"""The names of all kinds of faults."""

TO_APPS: tuple[str, ...] = tuple(_TO_APPS)
"""Those that meet an app: agents and links are well."""

LATER: tuple[str, ...] = ("lose-disk", "bad-disk", "clog")
"""Those that a seed draws after all else, so that it goes on to mean what it meant before there were any."""

BETWEEN: tuple[str, ...] = tuple(_BETWEEN)
"""The kinds that meet the way between two nodes."""


def meaning(kind: str) -> str:
    """Return what a kind of fault does, in a sentence."""
    return _STRIKES[kind].__doc__ or kind
