"""The simulated network: connections between agents, and all that can happen to them.

A connection keeps its order; two connections do not keep theirs. A connection that breaks tells its ends, or only one
of them; bytes that were on their way arrive first. Faults are between two names, ``(sender, receiver)``:

- ``silent``: whatever is sent is swallowed, and nobody is told;
- ``stalled``: whatever is sent arrives, in order, but not before the time that stands there;
- ``slow``: whatever is sent takes that many times as long;
- ``noisy``: that share of what is sent arrives with a wrong bit, which the transport makes a broken connection;
- ``deaf`` (one name): nobody gets a connection to it.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import Struct, field

from mesh.core.effects import OpenLink

if TYPE_CHECKING:
    from mesh.sim.world import Agent, World

__all__ = ["Network", "NetworkOptions", "Wire"]


class NetworkOptions(Struct, frozen=True):
    """Delays of the simulated world, in seconds, each drawn evenly between its bounds; the matchmaker's TTL."""

    link_delay_s: tuple[float, float] = (0.0002, 0.002)
    socket_delay_s: tuple[float, float] = (0.00002, 0.0001)
    catalogue_delay_s: tuple[float, float] = (0.001, 0.02)
    catalogue_ttl_s: float = 15.0
    disk_delay_s: tuple[float, float] = (0.0005, 0.01)


class Wire(Struct):
    """One connection: ``ends``, the dialler's first, are names and connection numbers there; ``arrives_at``: when what
    each end sent last is at the other, for a connection keeps its order; ``torn``: whether something that each end sent
    was lost, after which nothing more of it can arrive."""

    ends: list[tuple[str, int]]
    arrives_at: list[float] = field(default_factory=lambda: [0.0, 0.0])
    torn: list[bool] = field(default_factory=lambda: [False, False])


class Network:
    """The connections between the agents of a world. ``on_send`` sees every frame that an agent sends to a peer."""

    def __init__(self, world: "World", options: NetworkOptions) -> None:
        self.world = world
        self.options = options
        self.silent: dict[tuple[str, str], None] = {}
        self.stalled: dict[tuple[str, str], float] = {}
        self.slow: dict[tuple[str, str], float] = {}
        self.noisy: dict[tuple[str, str], float] = {}
        self.deaf: dict[str, None] = {}
        self.on_send: Callable[[Agent, str, int, bytes], None] | None = None

    def _delay_s(self, sender: str, receiver: str) -> float:
        delay_s = self.world.rng.uniform(*self.options.link_delay_s)
        return delay_s * self.slow.get((sender, receiver), 1.0) if self.slow else delay_s

    # Connections

    def dial(self, agent: "Agent", effect: OpenLink) -> None:
        """Connect an agent to the one whose name is the host, if it runs."""
        world, name = self.world, agent.name
        wire = Wire([(name, effect.conn)])
        agent.wires[effect.conn] = wire

        def arrive() -> None:
            if agent.wires.get(effect.conn) is not wire or (name, effect.host) in self.silent:
                return
            other = world.agents.get(effect.host)
            if other is None or effect.host in self.deaf:
                del agent.wires[effect.conn]
                world.turn(agent, lambda: agent.node.link_lost(effect.conn, "connection refused", agent.time()))
            else:
                conn = other.node.link_accepted(other.time())
                wire.ends.append((effect.host, conn))
                other.wires[conn] = wire
                world.turn(agent, lambda: agent.node.link_connected(effect.conn, agent.time()))

        world.at(max(world.now + self._delay_s(name, effect.host), self.stalled.get((name, effect.host), 0.0)), arrive)

    def send(self, agent: "Agent", conn: int, data: bytes) -> None:
        """Carry a frame to the other end of one of an agent's connections."""
        wire = agent.wires.get(conn)
        if wire is None or len(wire.ends) < 2:
            return
        world, sender = self.world, agent.name
        side = wire.ends.index((sender, conn))
        receiver, other_conn = wire.ends[1 - side]
        if world.frames:
            world.say_frame(f"{sender} > {receiver}", data)
        if self.on_send is not None:
            self.on_send(agent, receiver, conn, data)
        way = (sender, receiver)
        arrives_at = max(wire.arrives_at[side], world.now + self._delay_s(sender, receiver))
        if self.stalled:
            arrives_at = max(arrives_at, self.stalled.get(way, 0.0))
        wire.arrives_at[side] = arrives_at
        is_spoilt = bool(self.noisy) and world.rng.uniform(0, 1) < self.noisy.get(way, 0.0)

        def arrive() -> None:
            other = world.agents.get(receiver)
            if way in self.silent or wire.torn[side]:
                wire.torn[side] = True
                return
            wire.torn[side] = is_spoilt
            if other is not None and other.wires.get(other_conn) is wire and not is_spoilt:
                if world.on_frame is not None:
                    world.on_frame(data)
                world.turn(other, lambda: other.node.link_data(other_conn, data, other.time()))
            else:
                self.sever(wire, "connection reset")

        world.at(arrives_at, arrive)

    def sever(self, wire: Wire, reason: str, only: str = "") -> None:
        """Close a connection: what is on its way arrives first, then each end (or ``only`` that one) is told."""
        world = self.world
        for side, (name, conn) in enumerate(wire.ends):
            agent = world.agents.get(name)
            if agent is None or agent.wires.get(conn) is not wire or only not in ("", name):
                continue

            def tell(agent: "Agent" = agent, conn: int = conn) -> None:
                if agent.wires.pop(conn, None) is wire:
                    world.turn(agent, lambda: agent.node.link_lost(conn, reason, agent.time()))

            world.at(max(wire.arrives_at[1 - side], world.now + self.options.link_delay_s[0]), tell)

    # Faults

    def cut(self, one: str, other: str, only: str = "") -> None:
        """Break every connection between two nodes; ``only``: that one notices now, the other when it next sends."""
        self.world.say(f"{only or 'everybody'} loses what is between {one} and {other}")
        for wire in list(self.world.agents[one].wires.values()):
            if {name for name, _ in wire.ends} == {one, other}:
                self.sever(wire, "connection reset", only)

    def silence(self, sender: str, receiver: str) -> None:
        """Swallow everything that one node sends to another, and tell nobody."""
        self.world.say(f"silence from {sender} to {receiver}")
        self.silent[sender, receiver] = None

    def heal(self, one: str, other: str) -> None:
        """End what is wrong between two nodes. What was swallowed stays lost, so every connection that lived through a
        silence is broken."""
        was_silent = False
        for way in ((one, other), (other, one)):
            was_silent |= way in self.silent
            for table in (self.silent, self.stalled, self.slow, self.noisy):
                table.pop(way, None)
        if was_silent and one in self.world.agents:
            self.cut(one, other)
