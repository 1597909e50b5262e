"""A world of nodes in virtual time: the network, the matchmaker and the clock are simulated, the nodes are real.

Everything that happens is an event in one heap, ordered by time and then by the order in which it was made. The seed
decides every delay; nothing else is random. So a world with the same seed and the same script has the same `trace`,
line by line, on any day and under any ``PYTHONHASHSEED``.

A world stands where an agent's shell stands: it calls a node's entries and carries out what `Node.take` returns.
Apps stand where client shells stand: anything that speaks frames (`Speaker`).
"""

import heapq
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct, field

from mesh.core.catalogue import Health, Instance, Snapshot
from mesh.core.context import NodeOptions
from mesh.core.effects import (
    CloseApp,
    CloseLink,
    Effect,
    Note,
    OpenLink,
    Register,
    Renew,
    Stop,
    Unwatch,
    Watch,
    Withdraw,
)
from mesh.core.node import Node
from mesh.core.peers import Identity
from mesh.core.rng import Rng
from mesh.core.session import Credentials
from mesh.types import Endpoint, InstanceKey, TopicKey

__all__ = ["Agent", "NetworkOptions", "Speaker", "World"]


class NetworkOptions(Struct, frozen=True):
    """Delays of the simulated world, in seconds, each drawn evenly between its bounds."""

    link_delay_s: tuple[float, float] = (0.0002, 0.002)
    socket_delay_s: tuple[float, float] = (0.00002, 0.0001)
    catalogue_delay_s: tuple[float, float] = (0.001, 0.02)
    accept_backlog_s: float = 0.001


class Speaker(Protocol):
    """An app: it takes frames in and gives frames out, and keeps no time of its own."""

    def connected(self, now: float) -> None:
        """The socket to the agent is open."""

    def received(self, data: bytes, now: float) -> None:
        """One frame arrived."""

    def disconnected(self, now: float) -> None:
        """The socket is gone."""

    def tick(self, now: float) -> None:
        """The time asked for by ``deadline`` has come."""

    def deadline(self) -> float | None:
        """Return when ``tick`` is wanted next."""

    def take(self, now: float) -> list[bytes]:
        """Return the frames to send."""


class Wire(Struct):
    """One connection: who is at its ends, and when what was sent last arrives (a connection keeps its order)."""

    dialler: str
    accepter: str
    dialler_conn: int
    accepter_conn: int = 0
    arrives_at: list[float] = field(default_factory=lambda: [0.0, 0.0])
    open: bool = True


class Agent:
    """A node of the world, and the connections that its shell would hold."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.wires: dict[int, Wire] = {}
        self.speakers: dict[int, Speaker] = {}
        self.running = True


class World:
    """Nodes, apps, a network and a matchmaker under one seed."""

    def __init__(self, seed: int, network: NetworkOptions | None = None) -> None:
        self.rng = Rng(seed)
        self.network = network or NetworkOptions()
        self.now = 1.0
        self.trace: list[str] = []
        self.agents: dict[str, Agent] = {}
        self.places: dict[Endpoint, str] = {}
        self.catalogue: dict[TopicKey, dict[InstanceKey, Instance]] = {}
        self.watchers: dict[TopicKey, dict[str, None]] = {}
        self.index = 1
        self.incarnation = 1_000
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0

    # The clock

    def at(self, when: float, event: Callable[[], None]) -> None:
        """Have ``event`` happen at ``when``, or now if that has passed."""
        self._order += 1
        heapq.heappush(self._events, (max(when, self.now), self._order, event))

    def after(self, bounds: tuple[float, float], event: Callable[[], None]) -> None:
        """Have ``event`` happen after a delay drawn between ``bounds``."""
        self.at(self.now + self.rng.uniform(*bounds), event)

    def run(self, until: float) -> None:
        """Let everything happen that is due up to ``until``."""
        while self._events and self._events[0][0] <= until:
            self.now, _, event = heapq.heappop(self._events)
            event()
        self.now = until

    def say(self, line: str) -> None:
        """Add a line to the trace."""
        self.trace.append(f"{self.now:.6f} {line}")

    # Nodes

    def start(self, name: str, options: NodeOptions) -> Agent:
        """Start an agent; one of the same name that was killed is succeeded by it."""
        self.incarnation += 1
        endpoint = Endpoint(name, 7000)
        identity = Identity(name, "sim", self.incarnation, endpoint)
        agent = self.agents[name] = Agent(Node(identity, options, self.rng.u64() >> 1, self.now))
        self.places[endpoint] = name
        self.say(f"{name} starts as {self.incarnation}")
        self._tick_later(name, agent)
        return agent

    def kill(self, name: str) -> None:
        """End an agent at once: its connections break, nothing is flushed."""
        agent = self.agents.pop(name)
        agent.running = False
        del self.places[Endpoint(name, 7000)]
        self.say(f"{name} is killed")
        for speaker in agent.speakers.values():
            self.after(self.network.socket_delay_s, lambda speaker=speaker: self._hang_up(speaker))  # type: ignore[misc]
        for wire in list(agent.wires.values()):
            self._break(wire, "connection reset")

    def _hang_up(self, speaker: Speaker) -> None:
        speaker.disconnected(self.now)

    def _tick_later(self, name: str, agent: Agent) -> None:
        def tick() -> None:
            if agent.running:
                agent.node.tick(self.now)
                self._settle(name, agent)
                self._tick_later(name, agent)

        self.at(max(agent.node.deadline(), self.now + 1e-6), tick)

    def _settle(self, name: str, agent: Agent) -> None:
        """Carry out what a node has to say after a turn."""
        output = agent.node.take(self.now)
        for conn, data in output.app_data:
            self._to_app(agent, conn, data)
        for conn, data in output.link_data:
            self._to_peer(name, agent, conn, data)
        for effect in output.effects:
            self._carry_out(name, agent, effect)

    def _carry_out(self, name: str, agent: Agent, effect: Effect) -> None:
        if isinstance(effect, Note):
            facts = " ".join(f"{key}={value}" for key, value in effect.facts.items())
            self.say(f"{name} {effect.name} {facts}")
        elif isinstance(effect, OpenLink):
            self._dial(name, agent, effect)
        elif isinstance(effect, CloseLink):
            wire = agent.wires.get(effect.conn)
            if wire is not None:
                self._break(wire, "closed by the other end")
        elif isinstance(effect, CloseApp):
            speaker = agent.speakers.pop(effect.app, None)
            if speaker is not None:
                self.after(self.network.socket_delay_s, lambda: self._hang_up(speaker))
                agent.node.app_closed(effect.app, self.now, dead=False)
        elif isinstance(effect, Watch):
            self.watchers.setdefault(effect.topic, {})[name] = None
            self._tell(name, effect.topic)
        elif isinstance(effect, Unwatch):
            self.watchers.get(effect.topic, {}).pop(name, None)
        elif isinstance(effect, Stop):
            self.say(f"{name} stops with {effect.status}: {effect.reason}")
            self.kill(name)
        else:
            self._catalogue(effect)

    # The network

    def _dial(self, name: str, agent: Agent, effect: OpenLink) -> None:
        wire = Wire(name, "", effect.conn)
        agent.wires[effect.conn] = wire

        def arrive() -> None:
            if not wire.open or not agent.running:
                return
            target = self.places.get(Endpoint(effect.host, effect.port))
            if target is None:
                wire.open = False
                del agent.wires[effect.conn]
                agent.node.link_lost(effect.conn, "connection refused", self.now)
            else:
                other = self.agents[target]
                wire.accepter, wire.accepter_conn = target, other.node.link_accepted(self.now)
                other.wires[wire.accepter_conn] = wire
                agent.node.link_connected(effect.conn, self.now)
            self._settle(name, agent)

        self.after(self.network.link_delay_s, arrive)

    def _to_peer(self, name: str, agent: Agent, conn: int, data: bytes) -> None:
        wire = agent.wires.get(conn)
        if wire is None or not wire.open:
            return
        side = 0 if wire.dialler == name and wire.dialler_conn == conn else 1
        delay = self.rng.uniform(*self.network.link_delay_s)
        wire.arrives_at[side] = max(wire.arrives_at[side], self.now + delay)

        def arrive() -> None:
            other_name, other_conn = (
                (wire.accepter, wire.accepter_conn) if side == 0 else (wire.dialler, wire.dialler_conn)
            )
            other = self.agents.get(other_name)
            if wire.open and other is not None and other.wires.get(other_conn) is wire:
                other.node.link_data(other_conn, data, self.now)
                self._settle(other_name, other)

        self.at(wire.arrives_at[side], arrive)

    def _break(self, wire: Wire, reason: str) -> None:
        """Close a connection: what is on its way arrives first, then each end that is still there is told."""
        ends = ((wire.dialler, wire.dialler_conn, 1), (wire.accepter, wire.accepter_conn, 0))
        for name, conn, side in ends:
            agent = self.agents.get(name)
            if agent is None or agent.wires.get(conn) is not wire:
                continue

            def tell(name: str = name, conn: int = conn, agent: Agent = agent) -> None:
                if agent.running and agent.wires.pop(conn, None) is wire:
                    agent.node.link_lost(conn, reason, self.now)
                    self._settle(name, agent)

            self.at(max(wire.arrives_at[side], self.now + self.network.link_delay_s[0]), tell)

    def cut(self, one: str, other: str) -> None:
        """Break every connection between two nodes."""
        for agent in list(self.agents.values()):
            for wire in list(agent.wires.values()):
                if {wire.dialler, wire.accepter} == {one, other}:
                    self._break(wire, "connection reset")

    # Apps

    def attach(self, name: str, speaker: Speaker, pid: int = 1) -> None:
        """Connect an app to its node's agent."""
        agent = self.agents[name]
        conn = agent.node.app_connected(Credentials(0, pid), self.now)
        agent.speakers[conn] = speaker
        speaker.connected(self.now)
        self.hear(name, speaker)

    def hear(self, name: str, speaker: Speaker) -> None:
        """Carry what an app has to say to its agent."""
        agent = self.agents[name]
        conn = next((conn for conn, known in agent.speakers.items() if known is speaker), None)
        for data in speaker.take(self.now):

            def arrive(data: bytes = data) -> None:
                if agent.running and conn is not None and conn in agent.speakers:
                    agent.node.app_data(conn, data, self.now)
                    self._settle(name, agent)

            self.at(self.now + self.network.socket_delay_s[1], arrive)
        deadline = speaker.deadline()
        if deadline is not None:
            self.at(deadline, lambda: self._tick_speaker(name, speaker))

    def _tick_speaker(self, name: str, speaker: Speaker) -> None:
        deadline = speaker.deadline()
        if name in self.agents and deadline is not None and deadline <= self.now:
            speaker.tick(self.now)
            self.hear(name, speaker)

    def _to_app(self, agent: Agent, conn: int, data: bytes) -> None:
        name = agent.node.context.node
        speaker = agent.speakers.get(conn)

        def arrive() -> None:
            if speaker is not None and agent.running and agent.speakers.get(conn) is speaker:
                speaker.received(data, self.now)
                self.hear(name, speaker)

        self.at(self.now + self.network.socket_delay_s[1], arrive)

    # The matchmaker

    def _catalogue(self, effect: Register | Renew | Withdraw) -> None:
        instance = effect.instance
        entries = self.catalogue.setdefault(instance.topic_key, {})
        if isinstance(effect, Withdraw):
            entries.pop(instance.key, None)
        elif isinstance(effect, Register) or instance.key in entries:
            entries[instance.key] = instance
        self.index += 1
        for watcher in self.watchers.get(instance.topic_key, {}):
            self._tell(watcher, instance.topic_key)

    def forget(self, node: str) -> None:
        """Let the matchmaker's TTL of everything that a node registered run out."""
        for topic, entries in self.catalogue.items():
            for key in [key for key in entries if key.node == node]:
                del entries[key]
            self.index += 1
            for watcher in self.watchers.get(topic, {}):
                self._tell(watcher, topic)

    def _tell(self, name: str, topic: TopicKey) -> None:
        def arrive() -> None:
            agent = self.agents.get(name)
            if agent is not None:
                entries = self.catalogue.get(topic, {})
                instances = tuple(entries[key] for key in sorted(entries) if entries[key].health is not Health.CRITICAL)
                agent.node.snapshot(Snapshot(topic, self.index, instances), self.now)
                self._settle(name, agent)

        self.after(self.network.catalogue_delay_s, arrive)
