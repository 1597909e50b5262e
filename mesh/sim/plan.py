"""One seed decides everything: which nodes and apps there are, their options, what is sent, and what goes wrong.

A plan is data, and is played by `run`. Which kinds of faults and messages a seed may draw from is drawn first (swarm
testing: Groce, Zhang, Eide, Chen, Regehr, "Swarm testing", ISSTA 2012): a run with a few kinds goes deeper than one
that has a little of everything. One seed in eight has no faults at all, and then nothing may fail that does not fail
by itself.

What the simulator learnt later is drawn after all that, by dice of its own (`_later`), and for one seed in two not at
all: such a seed is what it was before.
"""

from typing import TypeVar

from msgspec import Struct, field, structs

from mesh.core.context import NodeOptions
from mesh.core.directory import DirectoryOptions
from mesh.core.durable import DurableOptions
from mesh.core.heat import HeatOptions
from mesh.core.inbox import InboxOptions
from mesh.core.link import LinkOptions
from mesh.core.liveness import LivenessOptions
from mesh.core.outbox import OutboxOptions
from mesh.core.pool import PoolOptions
from mesh.core.records import Flag, Kind
from mesh.core.rng import Rng
from mesh.core.router import RouterOptions
from mesh.sim.apps import Manner, ServicePlan
from mesh.sim.faults import KINDS, LATER, Fault, draw_fault
from mesh.sim.world import NetworkOptions

__all__ = ["AppPlan", "Plan", "Step", "draw"]

NAMES = ("ash", "beech", "cedar", "dogwood", "elm", "fir", "gorse")
TOPICS = ("orders", "stock", "mail")
BEGIN_S, WARM_S = 1.0, 2.0
"""When the first app connects, and when the first message may be sent."""

LATER_SALT = 0xD1B54A32D192ED03
"""What the seed of the later dice differs by."""

T = TypeVar("T")


class AppPlan(Struct, frozen=True, omit_defaults=True):
    """One app: where, what it serves, how its handlers behave, and how long it takes to read a frame."""

    node: str
    services: tuple[ServicePlan, ...] = ()
    manner: Manner = Manner()
    read_s: float = 0.0


class Step(Struct, frozen=True, omit_defaults=True):
    """One message: when, from which app, what, and after how long it is given up (0: never)."""

    at: float
    app: int
    kind: int
    topic: str
    size: int
    timeout_s: float
    flags: int = 0
    server_of: int = -1
    cancel_s: float = 0.0
    monitor_s: float = 0.0


class Plan(Struct, frozen=True, omit_defaults=True):
    """A whole run. ``clocks``: how far each node's clock is ahead, and its rate; ``calm_at``: no fault lasts longer;
    ``has_disks``: agents have spools, and remember what they knew of topics."""

    seed: int
    nodes: tuple[str, ...]
    options: NodeOptions
    network: NetworkOptions
    apps: tuple[AppPlan, ...]
    steps: tuple[Step, ...]
    faults: tuple[Fault, ...]
    calm_at: float
    clocks: dict[str, tuple[float, float]] = field(default_factory=dict)
    has_disks: bool = False


class _Dice:
    """Draws by a seed."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng

    def one_of(self, *values: T) -> T:
        return values[self.rng.below(len(values))]

    def chance(self, share: float) -> bool:
        return self.rng.uniform(0, 1) < share

    def some_of(self, values: tuple[T, ...], share: float) -> list[T]:
        return [value for value in values if self.chance(share)]


def draw(seed: int, only: tuple[str, ...] = ()) -> Plan:
    """Return the plan of a seed; ``only``: with no faults but of these kinds."""
    rng = Rng(seed)
    dice = _Dice(rng)
    nodes = NAMES[: dice.one_of(1, 2, 3, 3, 4, 5, 7)]
    options, network = _options(dice), _network(dice)
    first = tuple(kind for kind in KINDS if kind not in LATER)
    kinds = list(only) or ([] if dice.chance(1 / 8) else dice.some_of(first, dice.one_of(0.1, 0.25, 0.5)))
    apps = _apps(dice, nodes)
    span_s = rng.uniform(3.0, 9.0)
    calm_at = WARM_S + span_s + 1.0
    steps = _steps(dice, apps, options, span_s)
    faults = []
    if kinds:
        for _ in range(1 + rng.below(dice.one_of(3, 6, 20))):
            kind = kinds[rng.below(len(kinds))]
            faults.append(draw_fault(kind, rng, nodes, len(apps), (WARM_S, calm_at), options.liveness.dead_after_s))
    faults.sort(key=lambda fault: fault.at)
    clocks = {}
    if kinds and dice.chance(0.5):
        clocks = {name: (rng.uniform(0, 1000.0), 1.0 + rng.uniform(-0.002, 0.002)) for name in nodes}
    plan = Plan(seed, nodes, options, network, apps, steps, tuple(faults), calm_at, clocks)
    later = _Dice(Rng(seed ^ LATER_SALT))
    return _later(later, plan, only) if later.chance(0.5) or _are_later(only) else plan


def _are_later(only: tuple[str, ...]) -> bool:
    return any(kind in LATER for kind in only)


def _later(dice: _Dice, plan: Plan, only: tuple[str, ...]) -> Plan:
    """Draw what came later: disks, durable casts, calls that are watched or wait for room, messages that kill whoever
    begins them, and the kinds of `LATER`."""
    options = structs.replace(
        plan.options,
        durable=DurableOptions(
            spool_records_max=dice.one_of(20, 1_000_000, 1_000_000), window_records=dice.one_of(64, 64, 4_096)
        ),
    )
    has_disks = dice.chance(0.6) or _are_later(only)
    kinds = [] if only or not plan.faults else dice.some_of(LATER, 0.5)
    if not has_disks:
        kinds = [kind for kind in kinds if kind == "clog"]
    faults = list(plan.faults)
    span, dead_after_s = (WARM_S, plan.calm_at), options.liveness.dead_after_s
    for _ in range(1 + dice.rng.below(dice.one_of(2, 4, 8)) if kinds else 0):
        kind = kinds[dice.rng.below(len(kinds))]
        faults.append(draw_fault(kind, dice.rng, plan.nodes, len(plan.apps), span, dead_after_s))
    faults.sort(key=lambda fault: fault.at)
    steps = _later_steps(dice, plan.steps, has_disks=has_disks)
    poison = dice.one_of(0, 0, 5, 20)
    apps = [structs.replace(app, manner=structs.replace(app.manner, poison=poison)) for app in plan.apps]
    changes = {"options": options, "faults": tuple(faults), "apps": tuple(apps)}
    return structs.replace(plan, **changes, steps=steps, has_disks=has_disks)


def _later_steps(dice: _Dice, steps: tuple[Step, ...], *, has_disks: bool) -> tuple[Step, ...]:
    """Draw which calls are watched, or wait for room, and which casts are durable, sent once or not."""
    watched, roomy = dice.one_of(0.0, 0.5, 1.0), dice.one_of(0.0, 0.3, 1.0)
    durable = dice.one_of(0.2, 0.6, 1.0) if has_disks else 0.0
    drawn = []
    for step in steps:
        flags, kind, monitor_s = step.flags, step.kind, step.monitor_s
        if kind == Kind.CALL:
            flags |= int(Flag.ROOM) if dice.chance(roomy) else 0
            monitor_s = dice.rng.uniform(0.5, 2.0) if dice.chance(watched) else 0.0
        elif kind == Kind.CAST and dice.chance(durable):
            flags |= int(Flag.DURABLE)
        drawn.append(structs.replace(step, flags=flags, monitor_s=monitor_s))
    return tuple(drawn)


def _options(dice: _Dice) -> NodeOptions:
    """Draw options: now those of a usual site, now small limits, so that they are reached."""
    heartbeat_s = dice.one_of(0.2, 0.5, 1.0)
    pick = dice.one_of
    return NodeOptions(
        LivenessOptions(heartbeat_s, 3, 5 * heartbeat_s),
        LinkOptions(
            hello_timeout_s=pick(0.5, 2.0),
            drain_s=pick(1.0, 5.0),
            chunk_bytes=pick(1024, 4096, 256 << 10),
            chunks_in_flight=pick(1, 2, 4),
            body_bytes_max=pick(16 << 10, 64 << 20, 64 << 20),
            credit_records=pick(16, 64, 8192),
            credit_bytes=pick(1 << 20, 16 << 20),
        ),
        HeatOptions(pick(0.5, 5.0), pick(0.1, 1.0), pick(0.0, 3.0), pick(0.5, 5.0)),
        PoolOptions(
            links_max=pick(2, 3, 256, 256),
            idle_close_s=pick(0.05, 0.5, 60.0),
            redial_max_s=pick(0.5, 2.0),
            waiting_records_max=pick(10, 20_000, 20_000),
        ),
        DirectoryOptions(
            absent_grace_s=pick(0.0, 2.0, 10.0),
            watches_max=pick(2, 100, 100),
            watch_idle_s=pick(1.0, 300.0),
            leave_linger_s=pick(0.0, 0.5),
        ),
        RouterOptions(pick("round_robin", "round_robin", "local_first", "least_outstanding")),
        OutboxOptions(
            outstanding_records=pick(5, 50, 10_000, 10_000),
            session_window=1024,
            attempts_max=pick(1, 3),
            resume_grace_s=pick(0.5, 2.0, 5.0),
        ),
        InboxOptions(
            queue_records=pick(2, 10, 10_000, 10_000),
            queue_bytes=pick(1 << 10, 64 << 20),
            answers_bytes=pick(0, 4096, 64 << 20),
        ),
    )


def _network(dice: _Dice) -> NetworkOptions:
    slowest_s = dice.one_of(0.0005, 0.002, 0.02)
    catalogue_s = dice.one_of(0.005, 0.02, 0.5)
    return NetworkOptions((0.0002, slowest_s), (0.00002, 0.0001), (0.001, catalogue_s), dice.one_of(3.0, 10.0))


def _apps(dice: _Dice, nodes: tuple[str, ...]) -> tuple[AppPlan, ...]:
    """Draw several apps for each node: some serve, the others only ask."""
    manner = Manner(
        work_s=dice.one_of((0.0, 0.001), (0.0, 0.02), (0.0, 0.3)),
        fails=dice.one_of(0, 0, 50),
        hangs=dice.one_of(0, 0, 0, 10),
        crashes=dice.one_of(0, 0, 0, 10),
    )
    topics = TOPICS[: dice.one_of(1, 2, 3)]
    apps = []
    for _ in range(len(nodes) + dice.one_of(1, 3)):
        chosen = dice.some_of(topics, 0.6) or [topics[0]]
        services = tuple(ServicePlan(t, dice.one_of(1, 2, 8), dice.one_of(1, 16, 256)) for t in chosen)
        apps.append(AppPlan(dice.one_of(*nodes), services, manner, dice.one_of(0.0, 0.0, 0.0, 0.001)))
    apps += [AppPlan(dice.one_of(*nodes)) for _ in range(1 + dice.rng.below(3))]
    return tuple(apps)


def _steps(dice: _Dice, apps: tuple[AppPlan, ...], options: NodeOptions, span_s: float) -> tuple[Step, ...]:
    """Draw what is sent: of some kinds, evenly or in floods, by all apps."""
    rng = dice.rng
    mixes: list[tuple[Kind, int]] = [
        (Kind.CALL, 0),
        (Kind.CALL, int(Flag.IDEMPOTENT)),
        (Kind.CALL, int(Flag.WAIT)),
        (Kind.CAST, 0),
        (Kind.CAST, int(Flag.ONCE)),
        (Kind.CAST, int(Flag.CONFIRM)),
        (Kind.FANOUT, 0),
    ]
    mixes = [(Kind.CALL, 0), *dice.some_of(tuple(mixes), 0.5)]
    topics = sorted({service.topic for app in apps for service in app.services})
    cancels = dice.one_of(0.0, 0.0, 0.05)
    named = dice.one_of(0.0, 0.0, 0.2)
    big = dice.one_of(0.0, 0.02, 0.1)
    rate = dice.one_of(30, 100, 200)
    flood = dice.one_of(1, 1, 30)
    steps: list[Step] = []
    at = WARM_S
    while at < WARM_S + span_s:
        kind, flags = dice.one_of(*mixes)
        burst = flood if dice.chance(0.02) else 1
        app = rng.below(len(apps))
        for _ in range(burst):
            chunk = options.link.chunk_bytes
            size = rng.below(min(12 * chunk, 600_000)) if dice.chance(big) else rng.below(200)
            timeout_s = rng.uniform(0.3, 6.0) if kind == Kind.CALL else rng.uniform(1.0, 20.0)
            cancel_s = rng.uniform(0.0, 1.0) if dice.chance(cancels) else 0.0
            server_of = rng.below(len(apps)) if dice.chance(named) else -1
            topic = "nowhere" if dice.chance(0.005) else dice.one_of(*topics)
            steps.append(Step(at, app, int(kind), topic, size, timeout_s, flags, server_of, cancel_s))
        at += rng.uniform(0.0, 2.0 / rate) * burst
    return tuple(steps)
