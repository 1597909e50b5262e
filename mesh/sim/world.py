"""A world of nodes in virtual time: the network, the matchmaker and the clock are simulated, the nodes are real.

Everything that happens is an event in one heap, ordered by time and then by the order in which it was made. The seed
decides every delay; nothing else is random. So a world with the same seed and the same script has the same `trace`,
line by line, on any day and under any ``PYTHONHASHSEED``.

A world stands where an agent's shell stands: it calls a node's entries and carries out what `Node.take` returns.
Apps stand where client shells stand: anything that speaks frames (`Speaker`). What goes wrong is said by the script:
`cut` and `silence` for the network, `pause` and `kill` for agents, `detach` for apps, `forget` for the matchmaker.
"""

import heapq
from collections.abc import Callable
from typing import Protocol
from zlib import crc32

from msgspec import Struct, field

from mesh.core.catalogue import AgentEntry, Health, Instance, Snapshot
from mesh.core.context import NodeOptions
from mesh.core.effects import (
    Claim,
    CloseApp,
    CloseLink,
    Effect,
    FindAgents,
    Inquire,
    Note,
    OpenLink,
    Register,
    Renew,
    Spool,
    Stop,
    Unwatch,
    Watch,
    Withdraw,
)
from mesh.core.node import Node
from mesh.core.peers import Identity
from mesh.core.rng import Rng
from mesh.core.session import Credentials
from mesh.spool import base as spool_base
from mesh.types import Endpoint, InstanceKey, TopicKey

__all__ = ["Agent", "NetworkOptions", "Speaker", "World"]

PORT = 7000  # the link port of every agent, whose host is its name
CLOCK_S = 1e-6  # how soon a timer can fire again


class NetworkOptions(Struct, frozen=True):
    """Delays of the simulated world, in seconds, each drawn evenly between its bounds; the matchmaker's TTL."""

    link_delay_s: tuple[float, float] = (0.0002, 0.002)
    socket_delay_s: tuple[float, float] = (0.00002, 0.0001)
    catalogue_delay_s: tuple[float, float] = (0.001, 0.02)
    catalogue_ttl_s: float = 15.0
    disk_delay_s: tuple[float, float] = (0.0005, 0.01)


class Speaker(Protocol):
    """An app: frames go in and come out. It keeps no time of its own: it is ticked when its ``deadline`` has come."""

    def connected(self, now: float) -> None: ...

    def received(self, data: bytes, now: float) -> None: ...

    def disconnected(self, now: float) -> None: ...

    def deadline(self) -> float | None: ...

    def tick(self, now: float) -> None: ...

    def take(self, now: float) -> list[bytes]: ...


class Wire(Struct):
    """One connection: ``ends``, the dialler's first, are names and connection numbers there; ``arrives_at``: when what
    each end sent last is at the other, for a connection keeps its order."""

    ends: list[tuple[str, int]]
    arrives_at: list[float] = field(default_factory=lambda: [0.0, 0.0])


class Agent:
    """A node of the world, and what its shell would hold: its links, its apps by connection, its timer."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.wires: dict[int, Wire] = {}
        self.speakers: dict[int, Speaker] = {}
        self.hung_up: dict[int, None] = {}
        self.spool: spool_base.Spool | None = None
        self.disk_free_at = 0.0
        self.running = True
        self.paused_until = 0.0
        self.tick_at = 0.0

    def conn_of(self, speaker: Speaker) -> int:
        """Return the connection that an app has not closed, or 0."""
        conns = (conn for conn, known in self.speakers.items() if known is speaker and conn not in self.hung_up)
        return next(conns, 0)


class World:
    """Nodes, apps, a network and a matchmaker under one seed. ``frames``: every frame is in the trace too."""

    def __init__(self, seed: int, network: NetworkOptions | None = None, *, frames: bool = False) -> None:
        self.rng = Rng(seed)
        self.network = network or NetworkOptions()
        self.frames = frames
        self.now = 1.0
        self.trace: list[str] = []
        self.stopped: dict[str, Stop] = {}
        self.agents: dict[str, Agent] = {}
        self.silent: dict[tuple[str, str], None] = {}
        self.catalogue: dict[TopicKey, dict[InstanceKey, Instance]] = {}
        self.watchers: dict[TopicKey, dict[str, float]] = {}
        self.index = 1
        self.incarnation = 1_000
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = 0

    # The clock

    def at(self, when: float, event: Callable[[], object]) -> None:
        """Have ``event`` happen at ``when``, or now if that has passed."""
        self._order += 1
        heapq.heappush(self._events, (max(when, self.now), self._order, event))

    def after(self, bounds: tuple[float, float], event: Callable[[], object]) -> None:
        """Have ``event`` happen after a delay drawn between ``bounds``."""
        self.at(self.now + self.rng.uniform(*bounds), event)

    def run(self, until: float) -> None:
        """Let everything happen that is due up to ``until``."""
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = until

    def say(self, line: str) -> None:
        self.trace.append(f"{self.now:.6f} {line}")

    def _say_frame(self, way: str, data: bytes) -> None:
        if self.frames:
            self.say(f"{way} {len(data)} bytes {crc32(data):08x}")

    # Nodes

    def start(self, name: str, options: NodeOptions, spool: spool_base.Spool | None = None) -> Agent:
        """Start an agent; one of the same name that was killed is succeeded by it. ``spool`` is its disk."""
        assert name not in self.agents, f"{name} runs already"
        self.incarnation += 1
        identity = Identity(name, "sim", self.incarnation, Endpoint(name, PORT))
        agent = self.agents[name] = Agent(Node(identity, options, self.rng.u64() >> 1, self.now))
        agent.spool = spool
        self.say(f"{name} starts as {self.incarnation}")
        self._tick_later(agent)
        if spool is not None:
            self._turn(agent, lambda: agent.node.use_spool(self.now))
        return agent

    def kill(self, name: str) -> None:
        """End an agent at once: its connections break, nothing is flushed; its entries' TTL will run out."""
        agent = self.agents.pop(name)
        agent.running = False
        for watchers in self.watchers.values():
            watchers.pop(name, None)
        self.say(f"{name} is gone")
        for speaker in agent.speakers.values():
            self._hang_up(speaker)
        for wire in list(agent.wires.values()):
            self._break(wire, "connection reset")
        incarnation = agent.node.state.peers.identity.incarnation
        self.at(self.now + self.network.catalogue_ttl_s, lambda: self.forget(name, incarnation))

    def pause(self, name: str, duration_s: float) -> None:
        """Stop an agent's process for a while: what comes meanwhile waits in its sockets."""
        agent = self.agents[name]
        agent.paused_until = max(agent.paused_until, self.now + duration_s)
        self.say(f"{name} is stopped for {duration_s} s")

    def _turn(self, agent: Agent, entry: Callable[[], None]) -> None:
        """Have a node take something in, and carry out what it then has to say."""
        if not agent.running:
            return
        if agent.paused_until > self.now:
            self.at(agent.paused_until, lambda: self._turn(agent, entry))
            return
        entry()
        output = agent.node.take(self.now)
        for conn, data in output.app_data:
            self._to_app(agent, conn, data)
        for conn, data in output.link_data:
            self._to_peer(agent, conn, data)
        for effect in output.effects:
            self._carry_out(agent, effect)
        self._tick_later(agent)

    def _tick_later(self, agent: Agent) -> None:
        """Have a node's tick happen when it wants it, unless one that is as early is coming."""
        due = max(agent.node.deadline(), self.now + CLOCK_S)
        if self.now < agent.tick_at <= due:
            return
        agent.tick_at = due

        def tick() -> None:
            if agent.tick_at == due:
                self._turn(agent, lambda: agent.node.tick(self.now))

        self.at(due, tick)

    def _carry_out(self, agent: Agent, effect: Effect) -> None:
        name = agent.node.context.node
        if isinstance(effect, Note):
            facts = " ".join(f"{key}={value}" for key, value in effect.facts.items())
            self.say(f"{name} {effect.name} {facts}")
        elif isinstance(effect, OpenLink):
            self._dial(agent, effect)
        elif isinstance(effect, CloseLink):
            if effect.conn in agent.wires:
                self._break(agent.wires[effect.conn], "closed by the other end")
        elif isinstance(effect, CloseApp):
            speaker = agent.speakers.pop(effect.app, None)
            if speaker is not None:
                self._hang_up(speaker)
                self._turn(agent, lambda: agent.node.app_closed(effect.app, self.now, dead=False))
        elif isinstance(effect, Spool):
            self._spool(agent, effect)
        elif isinstance(effect, Watch):
            self.watchers.setdefault(effect.topic, {})[name] = 0.0
            self._tell(name, effect.topic)
        elif isinstance(effect, Unwatch):
            del self.watchers[effect.topic][name]
        elif isinstance(effect, Inquire):
            agent.node.answered(effect.session, effect.seq, False, b"no agent stands behind this node", self.now)
        elif isinstance(effect, Stop):
            self.say(f"{name} stops with {effect.status}: {effect.reason}")
            self.stopped[name] = effect
            self.kill(name)
        elif isinstance(effect, FindAgents):
            others = [other.node.state.peers.identity for other in self.agents.values() if other.running]
            found = [AgentEntry(one.node, one.endpoint.host, one.endpoint.port, one.incarnation) for one in others]
            self._turn(agent, lambda: agent.node.agents(found, self.now))
        elif not isinstance(effect, Claim):  # no two agents of a world have one name
            self._catalogue(effect)

    # The disk

    def _spool(self, agent: Agent, effect: Spool) -> None:
        """Have an agent's spool do a job when it has done those before; an agent that dies meanwhile hears nothing, and
        what it had not begun is not done."""
        spool = agent.spool
        assert spool is not None, "a node without a spool gave it a job"

        def work() -> None:
            if agent.running:
                word = spool_base.do(spool, effect.job)
                self.at(agent_done, lambda: self._turn(agent, lambda: agent.node.spooled(word, self.now)))

        delay_s = self.rng.uniform(*self.network.disk_delay_s)
        begins = max(self.now, agent.disk_free_at)
        agent_done = agent.disk_free_at = begins + delay_s
        self.at(begins, work)

    # The network

    def _dial(self, agent: Agent, effect: OpenLink) -> None:
        wire = Wire([(agent.node.context.node, effect.conn)])
        agent.wires[effect.conn] = wire

        def arrive() -> None:
            if agent.wires.get(effect.conn) is not wire or (effect.host, wire.ends[0][0]) in self.silent:
                return
            other = self.agents.get(effect.host)
            if other is None:
                del agent.wires[effect.conn]
                self._turn(agent, lambda: agent.node.link_lost(effect.conn, "connection refused", self.now))
            else:
                conn = other.node.link_accepted(self.now)
                wire.ends.append((effect.host, conn))
                other.wires[conn] = wire
                self._turn(agent, lambda: agent.node.link_connected(effect.conn, self.now))

        self.after(self.network.link_delay_s, arrive)

    def _to_peer(self, agent: Agent, conn: int, data: bytes) -> None:
        wire = agent.wires.get(conn)
        if wire is None or len(wire.ends) < 2:
            return
        side = wire.ends.index((agent.node.context.node, conn))
        name, other_conn = wire.ends[1 - side]
        self._say_frame(f"{wire.ends[side][0]} > {name}", data)
        delay = self.rng.uniform(*self.network.link_delay_s)
        wire.arrives_at[side] = max(wire.arrives_at[side], self.now + delay)

        def arrive() -> None:
            other = self.agents.get(name)
            if (name, wire.ends[side][0]) in self.silent:
                return
            if other is not None and other.wires.get(other_conn) is wire:
                self._turn(other, lambda: other.node.link_data(other_conn, data, self.now))
            else:
                self._break(wire, "connection reset")

        self.at(wire.arrives_at[side], arrive)

    def _break(self, wire: Wire, reason: str, only: str = "") -> None:
        """Close a connection: what is on its way arrives first, then each end (or ``only`` that one) is told."""
        for side, (name, conn) in enumerate(wire.ends):
            agent = self.agents.get(name)
            if agent is None or agent.wires.get(conn) is not wire or only not in ("", name):
                continue

            def tell(agent: Agent = agent, conn: int = conn) -> None:
                if agent.wires.pop(conn, None) is wire:
                    self._turn(agent, lambda: agent.node.link_lost(conn, reason, self.now))

            self.at(max(wire.arrives_at[1 - side], self.now + self.network.link_delay_s[0]), tell)

    def cut(self, one: str, other: str, only: str = "") -> None:
        """Break every connection between two nodes; ``only``: that one notices now, the other when it next sends."""
        self.say(f"{only or 'everybody'} loses what is between {one} and {other}")
        for wire in list(self.agents[one].wires.values()):
            if {name for name, _ in wire.ends} == {one, other}:
                self._break(wire, "connection reset", only)

    def silence(self, one: str, other: str) -> None:
        """Have the network swallow everything between two nodes, and tell nobody."""
        self.say(f"silence between {one} and {other}")
        self.silent[one, other] = self.silent[other, one] = None

    def heal(self, one: str, other: str) -> None:
        """End a silence; what was swallowed stays lost, so every connection that lived through it is broken."""
        del self.silent[one, other], self.silent[other, one]
        if one in self.agents:
            self.cut(one, other)

    # Apps

    def attach(self, name: str, speaker: Speaker, pid: int = 1) -> None:
        """Connect an app to its node's agent."""
        agent = self.agents[name]
        conn = agent.node.app_connected(Credentials(0, pid), self.now)
        agent.speakers[conn] = speaker
        speaker.connected(self.now)
        self.hear(name, speaker)

    def detach(self, name: str, speaker: Speaker, *, dead: bool = False) -> None:
        """Close an app's connection from its side; ``dead``: its process is gone too."""
        agent = self.agents[name]
        conn = agent.conn_of(speaker)

        def close() -> None:
            agent.speakers.pop(conn, None)
            agent.node.app_closed(conn, self.now, dead=dead)

        agent.hung_up[conn] = None
        self.at(self.now + self.network.socket_delay_s[1], lambda: self._turn(agent, close))
        self._hang_up(speaker)

    def hear(self, name: str, speaker: Speaker) -> None:
        """Carry what an app has to say to its agent."""
        agent = self.agents.get(name)
        conn = agent.conn_of(speaker) if agent is not None else 0
        if agent is None or not conn:
            return
        for data in speaker.take(self.now):
            self._say_frame(f"app {conn} > {name}", data)

            def arrive(data: bytes = data) -> None:
                if conn in agent.speakers:
                    self._turn(agent, lambda: agent.node.app_data(conn, data, self.now))

            self.at(self.now + self.network.socket_delay_s[1], arrive)
        deadline = speaker.deadline()
        if deadline is not None:
            self.at(max(deadline, self.now + CLOCK_S), lambda: self._tick_speaker(name, speaker))

    def _tick_speaker(self, name: str, speaker: Speaker) -> None:
        deadline = speaker.deadline()
        if deadline is not None and deadline <= self.now:
            speaker.tick(self.now)
            self.hear(name, speaker)

    def _to_app(self, agent: Agent, conn: int, data: bytes) -> None:
        name = agent.node.context.node
        speaker = agent.speakers.get(conn)
        self._say_frame(f"{name} > app {conn}", data)

        def arrive() -> None:
            if speaker is not None and conn not in agent.hung_up:
                speaker.received(data, self.now)
                self.hear(name, speaker)

        self.at(self.now + self.network.socket_delay_s[1], arrive)

    def _hang_up(self, speaker: Speaker) -> None:
        """Close an app's socket; what is on its way to it arrives first."""
        self.at(self.now + self.network.socket_delay_s[1], lambda: speaker.disconnected(self.now))

    # The matchmaker

    def _catalogue(self, effect: Register | Renew | Withdraw) -> None:
        instance = effect.instance
        entries = self.catalogue.setdefault(instance.topic_key, {})
        if isinstance(effect, Withdraw):
            entries.pop(instance.key, None)
        elif isinstance(effect, Register) or instance.key in entries:
            entries[instance.key] = instance
        self._changed(instance.topic_key)

    def forget(self, node: str, incarnation: int = 0) -> None:
        """Let the TTL run out of everything that a node, or only that incarnation of it, has registered."""
        for topic, entries in self.catalogue.items():
            gone = [i.key for i in entries.values() if i.agent.node == node and incarnation in (0, i.agent.incarnation)]
            for key in gone:
                del entries[key]
            if gone:
                self._changed(topic)

    def _changed(self, topic: TopicKey) -> None:
        self.index += 1
        for watcher in self.watchers.get(topic, {}):
            self._tell(watcher, topic)

    def _tell(self, name: str, topic: TopicKey) -> None:
        """Send a watcher what is known now; it arrives later, in order, and may be stale by then."""
        entries = self.catalogue.get(topic, {})
        healthy = (entries[key] for key in sorted(entries) if entries[key].health is not Health.CRITICAL)
        snapshot = Snapshot(topic, self.index, tuple(healthy))
        agent, watchers = self.agents[name], self.watchers[topic]
        watchers[name] = max(watchers[name], self.now + self.rng.uniform(*self.network.catalogue_delay_s))
        self.at(watchers[name], lambda: self._turn(agent, lambda: agent.node.snapshot(snapshot, self.now)))
