"""Agents that are nothing but their `Peers`, joined by wires that deliver in any order and break in any way.

Each connection keeps its order, as TCP does; nothing else is promised. A wire is *muted* when packets vanish, and
broken with or without what was on its way. What is checked after every step is in `Agent.check` and `Agent.listen`.
"""

from msgspec import Struct, field

from mesh.core.codec import decode, encode
from mesh.core.identity import Identity
from mesh.core.link import LinkOptions, Phase
from mesh.core.liveness import LivenessOptions
from mesh.core.peers import Change, Closed, Peers, Refused
from mesh.core.records import (
    Goodbye,
    Hello,
    Ping,
    Pong,
    Record,
    Refuse,
    RefuseReason,
    Request,
    Welcome,
)
from mesh.types import Endpoint

__all__ = ["OPTIONS", "TERMS", "Agent", "Wire", "World"]

TERMS = LivenessOptions(heartbeat_s=0.5, suspect_after_missed=3, dead_after_s=4.0)
OPTIONS = LinkOptions(hello_timeout_s=2.0, drain_s=3.0)
ESTABLISHED = (Phase.OPEN, Phase.LEAVING)


class Wire:
    """One connection. Side 0 dialled. ``queues[side]``: what is on its way to that side, None for its end."""

    def __init__(self, dialler: "Agent", conn: int, meant: str) -> None:
        self.ends: list[tuple[Agent, int] | None] = [(dialler, conn), None]
        self.meant = meant
        self.queues: list[list[bytes | None]] = [[], []]
        self.muted = False


class Spoken(Struct):
    """The greatest numbers by which a receiver took a request of a node."""

    incarnation: int = 0
    link_no: int = 0


class Agent:
    """One agent: its peers, the wires they use, and what it heard."""

    def __init__(self, world: "World", name: str, incarnation: int) -> None:
        self.world = world
        self.name = name
        self.peers = Peers(Identity(name, "fleet", incarnation, Endpoint(name, 7000)), TERMS, OPTIONS)
        self.wires: dict[int, tuple[Wire, int]] = {}
        self.alive = True
        self.had_rival = False
        self.admits = True
        self.spoken: dict[str, Spoken] = {}
        self.changes: list[Change] = []

    @property
    def incarnation(self) -> int:
        return self.peers.identity.incarnation

    def link(self, name: str) -> Wire | None:
        """The wire of the open link to a node."""
        link = self.peers.open_link(name)
        return self.wires[link.conn][0] if link is not None else None

    def may_dial(self, name: str) -> bool:
        """What the pool asks before it dials: neither a link nor a dial is there."""
        peer = self.peers.peer(name)
        return peer.link is None and peer.dial is None

    def dial(self, name: str) -> Wire:
        link = self.peers.dial(name, self.world.now)
        wire = Wire(self, link.conn, name)
        self.wires[link.conn] = (wire, 0)
        self.world.wires.append(wire)
        return wire

    def speak(self, name: str) -> None:
        """Send a request that bears the numbers of its link."""
        link = self.peers.open_link(name)
        if link is not None:
            own = self.peers.identity.incarnation
            self.peers.say(link, Request(0, link.own_no, "t", "", 1, b"", node=self.name, session=own))
            self.settle([])

    def listen(self, conn: int, record: Record) -> list[Change]:
        """Take one record as the peer hop does."""
        peers, now = self.peers, self.world.now
        link = peers.links.get(conn)
        if link is None:
            return []
        if link.phase in ESTABLISHED:
            peers.heard(link, now)
            if isinstance(record, Refuse):
                return self.refused(conn, record)
            if isinstance(record, Ping):
                peers.say(link, Pong(record.stamp))
            elif isinstance(record, Pong):
                return peers.pong(link, record, now)
            elif isinstance(record, Goodbye):
                peers.goodbye_heard(link, now)
            elif isinstance(record, Request):
                self.hear(link.peer, record, (link.incarnation, link.link_no))
            return []
        if isinstance(record, Hello) and link.phase is Phase.UNPROVEN:
            return peers.hello(link, record, self.admits, now)
        if isinstance(record, Welcome) and link.phase is Phase.GREETING:
            return peers.welcome(link, record, now)
        assert isinstance(record, Refuse), f"{record} in {link.phase.name}"
        assert link.phase is Phase.GREETING
        return self.refused(conn, record)

    def refused(self, conn: int, refuse: Refuse) -> list[Change]:
        changes = self.peers.refused(self.peers.links[conn], refuse, self.world.now)
        self.world.fate(self, refuse)
        return changes

    def hear(self, name: str, request: Request, numbers: tuple[int, int]) -> None:
        """Delivery rule 1: what was sent by a lesser link never speaks after what was sent by a greater one."""
        assert (name, request.session, request.seq) == (request.node, *numbers), "a request by the wrong link"
        last = self.spoken.setdefault(name, Spoken())
        assert (last.incarnation, last.link_no) <= numbers, f"{name} spoke by {numbers} after {last}"
        last.incarnation, last.link_no = numbers

    def tick(self, busy: bool) -> None:
        everybody = list(self.peers.peers) if busy else []
        changes = self.peers.tick(everybody, self.world.now)
        for link in [link for link in self.peers.links.values() if link.phase is Phase.LEAVING]:
            if link.goodbye_sent and link.goodbye_heard and not link.out:
                changes += self.peers.lost(link.conn, "goodbye", self.world.now)
        self.settle(changes)

    def settle(self, changes: list[Change]) -> None:
        """Send what was said, close what is over."""
        self.changes += changes
        if not self.alive:
            return
        for link in (*(self.peers.links[conn] for conn in self.peers.dirty), *self.peers.parting):
            self.world.send(self, link.conn, encode(link.counter_out, link.out))
            link.counter_out += 1
            link.liveness.sent_at = self.world.now
            link.out.clear()
        self.peers.dirty.clear()
        self.peers.parting.clear()
        for change in changes:
            if isinstance(change, Closed | Refused):
                self.world.hang_up(self, change.conn)
        self.check()

    def check(self) -> None:
        """What is always true of one agent's tables."""
        links, known = self.peers.links, self.peers.peers
        assert Phase.CLOSED not in [link.phase for link in links.values()]
        assert sorted(self.wires) == sorted(links), "a connection without a link, or a link without a connection"
        for phases, slot in (
            (ESTABLISHED, [peer.link for peer in known.values()]),
            ((Phase.DIALLING, Phase.GREETING), [peer.dial for peer in known.values()]),
            ((Phase.HELD,), [peer.held for peer in known.values()]),
        ):
            expected = sorted(conn for conn in slot if conn is not None)
            assert expected == sorted(conn for conn, link in links.items() if link.phase in phases), phases
        for peer in known.values():
            for conn in (peer.link, peer.dial, peer.held):
                assert conn is None or links[conn].peer == peer.node
            assert peer.challenged is None or peer.held is not None


class World(Struct):
    """Agents, wires and time."""

    now: float = 100.0
    living: list[Agent] = field(default_factory=list)
    wires: list[Wire] = field(default_factory=list)
    next_incarnation: int = 1

    def start(self, name: str, above: int = 0) -> Agent:
        """Start an agent, whose incarnation is greater than any before."""
        self.next_incarnation = max(self.next_incarnation, above) + 1
        agent = Agent(self, name, self.next_incarnation)
        for other in self.living:
            if other.name == name:
                other.had_rival = agent.had_rival = True
        self.living.append(agent)
        return agent

    def at(self, name: str) -> Agent | None:
        """Who answers at the address of a node: the latest to have started there."""
        return next((agent for agent in reversed(self.living) if agent.name == name), None)

    def kill(self, agent: Agent, *, silent: bool) -> None:
        """End an agent at once. ``silent``: its machine is gone, so nobody is told."""
        agent.alive = False
        self.living.remove(agent)
        for conn, (wire, _) in list(agent.wires.items()):
            self.hang_up(agent, conn)
            wire.muted = wire.muted or silent

    def fate(self, agent: Agent, refuse: Refuse) -> None:
        """What a refusal does to an agent: it is stopped as a duplicate, or starts anew with a greater incarnation."""
        if refuse.reason == RefuseReason.DUPLICATE_NODE:
            assert agent.had_rival, f"{agent.name} is the only one of its name, and was refused as a duplicate"
            self.kill(agent, silent=False)
        elif refuse.reason == RefuseReason.STALE_INCARNATION:
            assert refuse.greater > agent.incarnation, f"{agent.name} was fenced by its own past: {refuse.text}"
            self.kill(agent, silent=False)
            self.start(agent.name, refuse.greater)

    # The network

    def send(self, agent: Agent, conn: int, data: bytes) -> None:
        wire, side = agent.wires.get(conn, (None, 0))
        if wire is not None and wire.ends[1 - side] is not None:
            wire.queues[1 - side].append(data)

    def hang_up(self, agent: Agent, conn: int) -> None:
        """One side closes: the other learns of it behind what was sent."""
        wire, side = agent.wires.pop(conn, (None, 0))
        if wire is not None:
            wire.ends[side] = None
            wire.queues[side].clear()
            if wire.ends[1 - side] is not None:
                wire.queues[1 - side].append(None)

    def connect(self, wire: Wire) -> None:
        """A dial arrives: somebody is there, or nobody."""
        end, accepter = wire.ends[0], self.at(wire.meant)
        assert end is not None
        dialler, conn = end
        if accepter is None or accepter is dialler:
            dialler.settle(dialler.peers.lost(conn, "refused", self.now))
            return
        accepted = accepter.peers.accepted(self.now)
        wire.ends[1] = (accepter, accepted.conn)
        accepter.wires[accepted.conn] = (wire, 1)
        dialler.peers.connected(conn, self.now)
        dialler.settle([])

    def deliver(self, wire: Wire, side: int) -> None:
        """The oldest thing that is on its way to one side arrives."""
        data, end = wire.queues[side].pop(0), wire.ends[side]
        assert end is not None
        agent, conn = end
        if data is None:
            agent.settle(agent.peers.lost(conn, "gone", self.now))
            return
        link, batch = agent.peers.links[conn], decode(data)
        assert link.counter_in == batch.counter
        link.counter_in += 1
        for record in batch.records:
            agent.settle(agent.listen(conn, record))

    def pending(self) -> list[tuple[Wire, int]]:
        """What may happen next on the wires; side -1: the dial arrives."""
        self.wires = [wire for wire in self.wires if wire.ends != [None, None]]
        ready = [(wire, side) for wire in self.wires for side in (0, 1) if wire.queues[side] and not wire.muted]
        return ready + [(wire, -1) for wire in self.wires if self.is_dial(wire) and not wire.muted]

    def is_dial(self, wire: Wire) -> bool:
        end = wire.ends[0]
        return wire.ends[1] is None and end is not None and end[0].peers.links[end[1]].phase is Phase.DIALLING

    def happen(self, number: int) -> bool:
        """Let one of the pending things happen; False: there is none."""
        pending = self.pending()
        if pending:
            self.happen_to(*pending[number % len(pending)])
        return bool(pending)

    def happen_to(self, wire: Wire, side: int) -> None:
        if side < 0:
            self.connect(wire)
        else:
            self.deliver(wire, side)

    def quiet(self) -> None:
        """Let everything arrive, oldest connections first."""
        for _ in range(10_000):
            if not self.happen(0):
                return
        raise AssertionError("the agents never stop talking")

    def cut(self, wire: Wire, *, lose: int) -> None:
        """Break a connection, with the last ``lose`` things on their way to each side."""
        for side, end in enumerate(list(wire.ends)):
            if end is not None and not (side == 0 and self.is_dial(wire)):
                del wire.queues[side][max(0, len(wire.queues[side]) - lose) :]
                wire.queues[side].append(None)
        wire.muted = False

    # What must come true in the end

    def heal(self, limit_s: float, *, busy: bool = False, slow: bool = False) -> None:
        """Faults end and everybody wants everybody: within ``limit_s`` each pair has one link, the same at both ends.

        Wires to machines that are gone stay silent. ``busy``: links are heartbeated. ``slow``: each step of the way
        takes a quarter of a second, else none takes time.
        """
        begun = self.now
        for wire in self.wires:
            if wire.muted and all(end is not None for end in wire.ends):
                self.cut(wire, lose=100)
        while not self.healed():
            assert self.now - begun < limit_s, f"not healed after {limit_s} s"
            for agent in reversed(self.living):
                if agent.alive:
                    self.want_all(agent)
                    agent.tick(busy)
                    if not slow:
                        self.quiet()
            self.one_hop()
            self.now += 0.25

    def one_hop(self) -> None:
        """Let everything arrive that is on its way now."""
        due = [(wire, side) for wire, side in self.pending() for _ in (wire.queues[side] if side >= 0 else [0])]
        for event in due:
            if event in self.pending():
                wire, side = event
                self.happen_to(wire, side)

    def want_all(self, agent: Agent) -> None:
        for name in sorted({other.name for other in self.living} - {agent.name}):
            if agent.may_dial(name):
                agent.dial(name)

    def healed(self) -> bool:
        names = [agent.name for agent in self.living]
        return len(names) == len(set(names)) and all(
            one.link(other.name) is not None and one.link(other.name) is other.link(one.name)
            for one in self.living
            for other in self.living
            if one is not other
        )
