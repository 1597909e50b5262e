"""What the parts of a node share: its state, its options, and the ways out of it.

There are three ways out. Records for a link or an app go to its ``out`` list (``farewells``, with their batch's
counter, for connections of apps that are turned away). Records for this node itself, whose apps may call each other,
go to ``loopback``: the node takes them in as though a link had brought them. Everything else is an effect. ``facts``
is what the shell adds to the node's reports, ``law`` the state's policy, ready to be asked.
"""

from collections.abc import Callable, Iterable

from msgspec import Struct, field

from mesh.core.catalogue import Instance
from mesh.core.directory import Directory, DirectoryOptions
from mesh.core.durable import Durable, DurableOptions
from mesh.core.effects import Effect, Level, Note
from mesh.core.fanout import Fan
from mesh.core.health import HealthOptions
from mesh.core.heat import HeatOptions, Heats
from mesh.core.inbox import Id, Inbox, InboxOptions
from mesh.core.link import LinkOptions
from mesh.core.liveness import LivenessOptions
from mesh.core.outbox import Key, Outbox, OutboxOptions
from mesh.core.peers import Change, Peers
from mesh.core.policy import Law, PolicyOptions, Tally
from mesh.core.pool import Action, Pool, PoolOptions
from mesh.core.probe import Probes
from mesh.core.records import Ask, Failure, Record, Refuse, Reply, Request, Status
from mesh.core.rng import Rng
from mesh.core.router import RouterOptions
from mesh.core.seats import SeatOptions, Seats
from mesh.core.session import App, Pending
from mesh.core.views import ViewOptions, Views

__all__ = ["SEQS_MAX", "Act", "Carry", "Context", "NodeOptions", "State", "Totals", "parts"]

SEQS_MAX = 1 << 16
"""Seqs that one record may settle."""

RANGES_MAX = 4_096
"""Ranges of seqs in one record."""

_BODIED = (Request, Reply)
"""What may come in chunks."""

Act = Callable[[Iterable[Action], float], None]
"""Carries out what the pool decided."""

Carry = Callable[[Iterable[Change], float], None]
"""Carries what happened to links over to the rest of the node."""


class NodeOptions(Struct, frozen=True):
    """Every option of the core, by the machine it tunes."""

    liveness: LivenessOptions = LivenessOptions()
    link: LinkOptions = LinkOptions()
    heat: HeatOptions = HeatOptions()
    pool: PoolOptions = PoolOptions()
    directory: DirectoryOptions = DirectoryOptions()
    router: RouterOptions = RouterOptions()
    outbox: OutboxOptions = OutboxOptions()
    inbox: InboxOptions = InboxOptions()
    durable: DurableOptions = DurableOptions()
    view: ViewOptions = ViewOptions()
    health: HealthOptions = HealthOptions()
    seats: SeatOptions = SeatOptions()


class Totals(Struct):
    """Counters since this node began. ``casts_failed``: those of ours whose handler raised; ``poisoned``: what was not
    placed again, because too many apps had died that had begun it; ``limits``: refusals, by the
    option that was reached."""

    calls: int = 0
    casts: int = 0
    fanouts: int = 0
    served: int = 0
    casts_failed: int = 0
    poisoned: int = 0
    outcomes: dict[int, int] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)


class State(Struct):
    """All that a node knows. An encode and a decode copy it. ``owner_uid``: who, with root, may give it orders;
    ``refusals``: what the policy has refused, by rule;
    ``returning_until``: how long apps of the agent before this one may still come back, so that a topic which nobody
    serves yet may be theirs, 0 if there was none;
    ``gathering``: fan-outs to apps of this node that may still come back."""

    rng: Rng
    peers: Peers
    directory: Directory
    heats: Heats = field(default_factory=Heats)
    pool: Pool = field(default_factory=Pool)
    probes: Probes = field(default_factory=Probes)
    outbox: Outbox = field(default_factory=Outbox)
    durable: Durable = field(default_factory=Durable)
    fans: dict[Key, Fan] = field(default_factory=dict)
    inbox: Inbox = field(default_factory=Inbox)
    apps: dict[int, App] = field(default_factory=dict)
    pending: dict[int, Pending] = field(default_factory=dict)
    conns: dict[int, int] = field(default_factory=dict)
    next_app: int = 1
    dirty_apps: dict[int, None] = field(default_factory=dict)
    totals: Totals = field(default_factory=Totals)
    draining: bool = False
    stopping: bool = False
    owner_uid: int = 0
    drain_until: float = 0.0
    started_at: float = 0.0
    returning_until: float = 0.0
    gathering: dict[Id, None] = field(default_factory=dict)
    departing: list[tuple[float, Instance]] = field(default_factory=list)
    questions: dict[int, list[tuple[float, Ask]]] = field(default_factory=dict)
    floors_wanted: dict[tuple[str, int], dict[int, None]] = field(default_factory=dict)
    ticked_at: float = 0.0
    due_at: float = 0.0
    swept_at: float = 0.0
    shut_out: dict[int, None] = field(default_factory=dict)
    views: Views = field(default_factory=Views)
    policy: PolicyOptions = field(default_factory=PolicyOptions)
    refusals: dict[str, Tally] = field(default_factory=dict)
    seats: Seats = field(default_factory=Seats)


def parts(ranges: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Return ranges in lists that one record can hold."""
    return [ranges[start : start + RANGES_MAX] for start in range(0, len(ranges), RANGES_MAX)]


class Context:
    """One node's state and options, and what it has to say."""

    def __init__(self, state: State, options: NodeOptions) -> None:
        self.node = state.peers.identity.node
        self.state = state
        self.options = options
        self.effects: list[Effect] = []
        self.loopback: list[Record] = []
        self.farewells: list[tuple[int, int, Refuse]] = []
        self.facts: dict[str, object] = {}
        self.law = Law(state.policy)

    def note(self, name: str, level: Level, **facts: str | int | float) -> None:
        """Tell people that something happened."""
        self.effects.append(Note(name, level, facts))

    def tell(self, app: App, record: Record) -> None:
        """Put a record on an app's way out; a large body goes in chunks. An app that is away is told nothing."""
        if app.conn is None:
            return
        self.state.dirty_apps[app.session] = None
        if isinstance(record, _BODIED) and len(record.body) > app.chunker.chunk_bytes:
            announcement, chunks = app.chunker.split(record)
            app.out.append(announcement)
            app.out.extend(chunks)
        else:
            app.out.append(record)

    def too_large(self, reply: Reply) -> Failure:
        """Return what a caller gets in place of a reply whose announced body is over the limit."""
        text = f"it ran; its reply of {reply.size} bytes is over body_bytes_max = {self.options.link.body_bytes_max}"
        id = (reply.node, reply.session, reply.seq)
        return Failure(*id, int(Status.REMOTE_ERROR), text, self.node, "body_bytes_max", "ReplyTooLarge")

    def answer(self, node: str, record: Record) -> None:
        """Send a node what it asked or waits for. Without a link it is dropped: the node asks again when it has one."""
        if node == self.node:
            self.loopback.append(record)
            return
        link = self.state.peers.any_link(node)
        if link is None:
            return
        if isinstance(record, Reply) and len(record.body) > link.chunker.chunk_bytes:
            announcement, chunks = link.chunker.split(record)
            for part in (announcement, *chunks):
                self.state.peers.say(link, part)
        else:
            self.state.peers.say(link, record)
