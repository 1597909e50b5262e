"""A small world as one value: every choice that the network, the clock and bad luck have is a move, and none is random.

`moves` names what may happen next and `make` makes it happen, in a copy; so a search can try every order. The nodes
and sessions are the real ones, kept encoded, since each move wakes only one or two of them.

What is on its way waits in queues, one for each direction of each connection, and a move takes the first of one: order
is kept within a connection and nowhere else. Time stands still while anything can move by itself; only then does it
go on, to the next moment at which something can (`Kind.TIME`). A **fault** is a move that takes one of ``left``:

* an agent is killed: what it wrote to apps can be read still, what it wrote to peers may be lost with it; what was
  written to it is lost. A later incarnation starts at any time after that.
* a link is cut: one end notices at once, the other when it has read, or lost, what was on its way to it.
* the socket of an app breaks, and with it everything on its way in both directions.
* a connection loses a batch and delivers the next, as though a library had reconnected behind our back.
* an app dies, leaves in order, or gives its latest request up; time passes although things are on their way.
"""

import enum
from hashlib import blake2b

import msgspec
from msgspec import Struct, field, structs

from mesh.client.session import Session
from mesh.core.catalogue import Instance
from mesh.core.records import Request
from mesh.types import TopicKey

__all__ = ["CONNECTED", "LOST", "Fault", "Id", "Kind", "Move", "Process", "Small", "Socket", "Wire", "digest", "moves"]

Id = tuple[str, int, int]
"""``(node, session, seq)`` of a request."""

CONNECTED = b"+"
LOST = b"-"
"""What a queue holds beside frames: the dial came through; the connection is gone."""


class Kind(enum.StrEnum):
    """What may happen. Where no fault is, it happens by itself sooner or later."""

    READ = "reads"
    HEAR = "hears"
    TOLD = "is told"
    DIAL = "connects"
    START = "starts"
    END = "ends a handler"
    TIME = "time passes"
    FAULT = "fault"


class Fault(enum.StrEnum):
    """What may go wrong, or at least otherwise."""

    KILL = "kill"
    CUT = "cut"
    ERROR = "error"
    LEAVE = "leave"
    DIE = "die"
    CANCEL = "cancel"
    GAP = "gap"
    SLOW = "slow"


class Move(Struct, frozen=True):
    """One thing that may happen to ``who``. ``by``: the connection, or the request; ``fault``: what it takes one of
    ``left`` for; ``torn``: what was on its way to the other end is lost too."""

    kind: Kind
    who: str = ""
    by: str = ""
    fault: str = ""
    torn: bool = False

    def __str__(self) -> str:
        if self.kind is Kind.FAULT:
            by = f", {self.who} notices {self.by} first" if self.fault.startswith(Fault.CUT) else ""
            return f"FAULT {self.fault}{by}{', what was on its way is lost' if self.torn else ''}"
        return f"{self.who} {self.kind.value} {self.by}".strip()


class Wire(Struct, frozen=True):
    """One connection between agents; of each pair the dialler's comes first. ``conns``: its numbers there, 0 before the
    accepter heard of it; ``ways``: what is on its way to each end; ``held``: whether each end still has it."""

    ends: tuple[str, str]
    conns: tuple[int, int]
    ways: tuple[tuple[bytes, ...], tuple[bytes, ...]] = ((), ())
    held: tuple[bool, bool] = (True, True)


class Socket(Struct, frozen=True):
    """One connection of an app: what is on its way to each end, the app's first, and whether each still has it."""

    app: str
    node: str
    conn: int
    ways: tuple[tuple[bytes, ...], tuple[bytes, ...]] = ((), ())
    held: tuple[bool, bool] = (True, True)


class Process(Struct):
    """An app: its session, the requests that wait for a worker, and those that run; ``further``: how many more calls it
    makes, each when one has ended, to ``server`` if that is named."""

    node: str
    session: Session
    queue: list[Request] = field(default_factory=list)
    running: list[Request] = field(default_factory=list)
    leaving: bool = False
    workers: int = 1
    further: int = 0
    server: str = ""


class Small(Struct):
    """The world. ``nodes``, ``apps``: encoded; ``lost_at``: when agents were lost whose entries the matchmaker still
    has; ``begun``: who began each request; ``ended``: the statuses that its caller was told, 0 for a good end."""

    now: float = 1.0
    nodes: dict[str, bytes] = field(default_factory=dict)
    incarnations: dict[str, int] = field(default_factory=dict)
    apps: dict[str, bytes] = field(default_factory=dict)
    wires: dict[str, Wire] = field(default_factory=dict)
    sockets: dict[str, Socket] = field(default_factory=dict)
    homes: dict[str, str] = field(default_factory=dict)
    busy: dict[str, list[Id]] = field(default_factory=dict)
    leaving: list[str] = field(default_factory=list)
    catalogue: dict[TopicKey, list[Instance]] = field(default_factory=dict)
    watchers: dict[TopicKey, list[str]] = field(default_factory=dict)
    lost_at: list[tuple[float, str, int]] = field(default_factory=list)
    sent: dict[Id, int] = field(default_factory=dict)
    begun: dict[Id, list[str]] = field(default_factory=dict)
    ended: dict[Id, int] = field(default_factory=dict)
    until: float = 0.0
    left: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """Whether every request has ended."""
        return len(self.ended) == len(self.sent)

    def fork(self) -> "Small":
        """Return a world that is the same and shares only what nobody changes."""
        twin = structs.replace(self)
        for name in ("nodes", "incarnations", "apps", "wires", "sockets", "homes", "busy"):
            setattr(twin, name, dict(getattr(self, name)))
        for name in ("catalogue", "watchers", "sent", "begun", "ended"):
            setattr(twin, name, dict(getattr(self, name)))
        for name in ("leaving", "lost_at", "faults"):
            setattr(twin, name, list(getattr(self, name)))
        return twin


_encoder = msgspec.msgpack.Encoder()


def digest(world: Small) -> bytes:
    """Return a name of this state, the same for equal ones."""
    return blake2b(_encoder.encode(world), digest_size=16).digest()


def moves(world: Small, faults: tuple[str, ...], *, pruned: bool = True) -> list[Move]:
    """Return everything that may happen next. ``faults``: which may, as ``kill a``, ``error caller``, ``slow``.

    What an app reads changes nothing for anybody else until it answers, so where no fault can come between, its own
    moves are tried alone (``pruned``): every order with others leads to the same states (a persistent set).
    """
    wrong = faults if world.left and not world.is_over else ()
    found: list[Move] = []
    for name, socket in world.sockets.items():
        if socket.ways[0] and socket.held[0]:
            own = [Move(Kind.TOLD, socket.app, name), *_ends(world, socket.app)]
            if pruned and Fault.SLOW not in wrong and f"{Fault.ERROR} {socket.app}" not in wrong:
                return own + [move for move in _faults(world, wrong) if move.who == socket.app]
            found += own[:1]
        if socket.ways[1] and socket.held[1]:
            found.append(Move(Kind.HEAR, socket.node, name))
    for name, wire in world.wires.items():
        found += [Move(Kind.READ, wire.ends[side], name) for side in (0, 1) if wire.ways[side] and wire.held[side]]
    connected = [socket.app for socket in world.sockets.values() if socket.held[0]]
    for app in world.apps:
        found += _ends(world, app)
        if app not in connected and world.homes[app] in world.nodes:
            found.append(Move(Kind.DIAL, app))
    found += [Move(Kind.START, node) for node in world.incarnations if node not in world.nodes]
    if not found and not world.is_over:
        found.append(Move(Kind.TIME))
    return found + _faults(world, wrong)


def _ends(world: Small, app: str) -> list[Move]:
    return [Move(Kind.END, app, f"{node}/{session}/{seq}") for node, session, seq in world.busy.get(app, ())]


def _faults(world: Small, wrong: tuple[str, ...]) -> list[Move]:
    """Return the faults that may happen now and would change anything."""
    found: list[Move] = []
    for fault in wrong:
        what, _, who = fault.partition(" ")
        if what == Fault.CUT:
            found += _cuts(world, fault, who.split())
        elif what == Fault.GAP:
            found += _gaps(world, fault, who.split())
        elif what == Fault.SLOW:
            found.append(Move(Kind.FAULT, fault=fault))
        elif what == Fault.KILL and who in world.nodes:
            found.append(Move(Kind.FAULT, who, fault=fault))
            if any(_on_its_way(wire, who) for wire in world.wires.values()):
                found.append(Move(Kind.FAULT, who, fault=fault, torn=True))
        elif what == Fault.ERROR:
            found += [Move(Kind.FAULT, who, name, fault) for name, s in world.sockets.items() if _whole(s, who)]
        elif who in world.apps and who not in world.leaving:
            found.append(Move(Kind.FAULT, who, fault=fault))
    return found


def _whole(socket: Socket, app: str) -> bool:
    return socket.app == app and all(socket.held)


def _on_its_way(wire: Wire, node: str) -> bool:
    """Return whether something that this node sent has not arrived."""
    return any(wire.ends[1 - side] == node and wire.ways[side] and wire.held[side] for side in (0, 1))


def _cuts(world: Small, fault: str, pair: list[str]) -> list[Move]:
    """Return the ways to cut what is between two nodes: which end notices first, and whether the rest arrives."""
    found = []
    for name, wire in world.wires.items():
        if all(wire.held) and sorted(wire.ends) == pair:
            for side, end in enumerate(wire.ends):
                found.append(Move(Kind.FAULT, end, name, fault))
                if wire.ways[1 - side]:
                    found.append(Move(Kind.FAULT, end, name, fault, torn=True))
    return found


def _gaps(world: Small, fault: str, pair: list[str]) -> list[Move]:
    """Return which ends of connections between two nodes may miss a batch and get the next."""
    found = []
    for name, wire in world.wires.items():
        if sorted(wire.ends) == pair:
            frames = [[data for data in way if data not in (LOST, CONNECTED)] for way in wire.ways]
            found += [Move(Kind.FAULT, wire.ends[side], name, fault) for side in (0, 1) if len(frames[side]) > 1]
    return found
