"""A world of nodes in virtual time: the network, the matchmaker and the clock are simulated, the nodes are real.

Everything that happens is an event in one heap, ordered by time and then by the order in which it was made. The seed
decides every delay; nothing else is random. So a world with the same seed and the same script has the same `trace`,
line by line, on any day and under any ``PYTHONHASHSEED``.

A world stands where an agent's shell stands: it calls a node's entries and carries out what `Node.take` returns. Apps
stand where client shells stand: anything that speaks frames (`Speaker`). The way of a frame::

    speaker.take ─▶ hear ─▶ turn(node.app_data) ─▶ network.send ─▶ turn(node.link_data) ─▶ _to_app ─▶ speaker.received

A `turn` is what a reactor does when something came: one entry of the node, then `Node.take`, then everything that
this returned is on its way, as events. Between two turns nothing happens.

Every machine has a clock of its own (`set_clock`), which its agent and its apps read; a world's ``now`` is nobody's.
What goes wrong is said by the script: `network` has the faults of connections, `matchmaker` those of the catalogue;
`pause` and `kill` are for agents, `detach` for apps' sockets. Above the world stand `plan` (one seed decides what
is done to it), `apps` (real client sessions), `ledger` and `checkers` (what must be true) and `run` (plays a plan).
"""

import heapq
from collections.abc import Callable
from typing import Protocol

from mesh.core.catalogue import AgentEntry, Snapshot
from mesh.core.codec import decode
from mesh.core.context import NodeOptions
from mesh.core.effects import (
    Claim,
    CloseApp,
    CloseLink,
    Confirm,
    Effect,
    FindAgents,
    Inquire,
    Note,
    OpenLink,
    Spool,
    Stop,
    Unwatch,
    Watch,
)
from mesh.core.identity import Identity
from mesh.core.node import Node
from mesh.core.rng import Rng
from mesh.core.session import Credentials
from mesh.sim.describe import describe
from mesh.sim.disk import Disk
from mesh.sim.matchmaker import Matchmaker
from mesh.sim.network import Network, NetworkOptions, Wire
from mesh.spool import base as spool_base
from mesh.types import Endpoint, TopicKey

__all__ = ["Agent", "NetworkOptions", "Speaker", "World"]

PORT = 7000  # the link port of every agent, whose host is its name
CLOCK_S = 1e-6  # how soon a timer can fire again


class Speaker(Protocol):
    """An app: frames go in and come out. It keeps no time of its own: it is ticked when its ``deadline`` has come."""

    def connected(self, now: float) -> None: ...

    def received(self, data: bytes, now: float) -> None: ...

    def disconnected(self, now: float) -> None: ...

    def deadline(self) -> float | None: ...

    def tick(self, now: float) -> None: ...

    def take(self, now: float) -> list[bytes]: ...


class Agent:
    """A node of the world, and what its shell would hold: its links, its apps by connection, its timer. ``clock``: by
    how much its machine's clock is ahead, and its rate."""

    def __init__(self, world: "World", name: str, node: Node) -> None:
        self.world = world
        self.name = name
        self.node = node
        self.clock = world.clocks.get(name, (0.0, 1.0))
        self.wires: dict[int, Wire] = {}
        self.speakers: dict[int, Speaker] = {}
        self.hung_up: dict[int, bool] = {}
        self.clogged: dict[int, list[Callable[[], object]]] = {}
        self.spool: spool_base.Spool | None = None
        self.before: dict[TopicKey, Snapshot] = {}
        self.disk_free_at = 0.0
        self.running = True
        self.paused_until = 0.0
        self.unread: list[Callable[[], object]] = []
        self.tick_at = 0.0

    def time(self) -> float:
        """Return what its machine's clock says."""
        ahead_s, rate = self.clock
        return ahead_s + rate * self.world.now

    def conn_of(self, speaker: Speaker) -> int:
        """Return the connection that an app has not closed, or 0."""
        conns = (conn for conn, known in self.speakers.items() if known is speaker and conn not in self.hung_up)
        return next(conns, 0)


class World:
    """Nodes, apps, a network and a matchmaker under one seed. ``frames``: every frame is in the trace too; ``traced``:
    whether there is a trace at all. ``on_frame`` sees every frame that a node or an app gets, ``on_note`` every
    note, ``on_stop`` every agent that stops by its own decision."""

    def __init__(
        self, seed: int, network: NetworkOptions | None = None, *, frames: bool = False, traced: bool = True
    ) -> None:
        self.rng = Rng(seed)
        self.options = network or NetworkOptions()
        self.network = Network(self, self.options)
        self.matchmaker = Matchmaker(self._tell)
        self.frames = frames
        self.traced = traced or frames
        self.now = 1.0
        self.trace: list[str] = []
        self.stopped: dict[str, Stop] = {}
        self.agents: dict[str, Agent] = {}
        self.started: dict[str, None] = {}
        self.disks: dict[str, Disk] = {}
        self.clocks: dict[str, tuple[float, float]] = {}
        self.incarnation = 1_000
        self.on_frame: Callable[[bytes], None] | None = None
        self.on_note: Callable[[str, Note], None] | None = None
        self.on_stop: Callable[[str, Stop], None] | None = None
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._order = 0
        self.silent = self.network.silent
        self.catalogue = self.matchmaker.entries
        self.watchers = self.matchmaker.watchers

    # The clocks

    def at(self, when: float, event: Callable[[], object]) -> None:
        """Have ``event`` happen at ``when``, or now if that has passed."""
        self._order += 1
        heapq.heappush(self._events, (max(self.now, when), self._order, event))

    def after(self, bounds: tuple[float, float], event: Callable[[], object]) -> None:
        """Have ``event`` happen after a delay drawn between ``bounds``."""
        self.at(self.now + self.rng.uniform(*bounds), event)

    def run(self, until: float) -> None:
        """Let everything happen that is due up to ``until``."""
        while self.next_at() <= until:
            self.step()
        self.now = until

    def next_at(self) -> float:
        """Return when the next thing happens, which may be never: infinity."""
        return self._events[0][0] if self._events else float("inf")

    def step(self) -> None:
        """Let the next thing happen. That may let others happen before it returns."""
        self.now, _, event = heapq.heappop(self._events)
        event()

    def set_clock(self, name: str, ahead_s: float, rate: float) -> None:
        """Have the clock of a machine that has no agent yet show ``ahead_s + rate * now``."""
        self.clocks[name] = (ahead_s, rate)

    def time(self, name: str) -> float:
        """Return what the clock of a machine says."""
        ahead_s, rate = self.clocks.get(name, (0.0, 1.0))
        return ahead_s + rate * self.now

    def when(self, name: str, time: float) -> float:
        """Return when the clock of a machine will say ``time``."""
        ahead_s, rate = self.clocks.get(name, (0.0, 1.0))
        return (time - ahead_s) / rate

    def say(self, line: str) -> None:
        """Put a line in the trace."""
        if self.traced:
            self.trace.append(f"{self.now:.6f} {line}")

    def say_frame(self, way: str, data: bytes) -> None:
        """Put a frame in the trace: each record on a line of its own."""
        for record in decode(data).records:
            self.say(f"  {way}  {describe(record)}")

    # Nodes

    def start(self, name: str, options: NodeOptions, spool: spool_base.Spool | None = None) -> Agent:
        """Start an agent; one of the same name that was killed is succeeded by it. ``spool`` is what it has for durable
        casts, its machine's disk (``disks``) if nothing is said and there is one."""
        assert name not in self.agents, f"{name} runs already"
        self.incarnation += 1
        identity = Identity(name, "sim", self.incarnation, Endpoint(name, PORT), successor=name in self.started)
        self.started[name] = None
        node = Node(identity, options, self.rng.u64() >> 1, self.time(name))
        agent = self.agents[name] = Agent(self, name, node)
        if name in self.disks:
            spool, agent.before = spool or self.disks[name].spool, dict(self.disks[name].directory)
        agent.spool = spool
        self.say(f"{name} starts as {self.incarnation}")
        self._tick_later(agent)
        if spool is not None:
            self.turn(agent, lambda: agent.node.use_spool(agent.time()))
        return agent

    def kill(self, name: str) -> None:
        """End an agent at once: its connections break, nothing is flushed; its entries' TTL will run out."""
        agent = self.agents.pop(name)
        agent.running = False
        self.matchmaker.leave(name)
        self.say(f"{name} is gone")
        for conn, speaker in agent.speakers.items():
            if conn not in agent.hung_up:
                self._hang_up(name, speaker)
        for wire in list(agent.wires.values()):
            self.network.sever(wire, "connection reset")
        incarnation = agent.node.state.peers.identity.incarnation
        self.at(self.now + self.options.catalogue_ttl_s, lambda: self.forget(name, incarnation))

    def pause(self, name: str, duration_s: float) -> None:
        """Stop an agent's process for a while: what comes meanwhile waits in its sockets."""
        agent = self.agents[name]
        agent.paused_until = max(agent.paused_until, self.now + duration_s)
        self.say(f"{name} is stopped for {duration_s:.3f} s")

    def turn(self, agent: Agent, entry: Callable[[], object]) -> None:
        """Have a node take something in, and carry out what it then has to say."""
        if not agent.running:
            return
        if agent.paused_until > self.now:
            agent.unread.append(entry)
            if len(agent.unread) == 1:
                self.at(agent.paused_until, lambda: self._go_on(agent))
            return
        entry()
        output = agent.node.take(agent.time())
        for conn, data in output.app_data:
            self._to_app(agent, conn, data)
        for conn, data in output.link_data:
            self.network.send(agent, conn, data)
        for effect in output.effects:
            self._carry_out(agent, effect)
        self._tick_later(agent)

    def _go_on(self, agent: Agent) -> None:
        """An agent's process runs again, unless it was stopped anew: it reads what has come meanwhile."""
        if agent.paused_until > self.now:
            self.at(agent.paused_until, lambda: self._go_on(agent))
            return
        unread, agent.unread = agent.unread, []
        for entry in unread:
            self.turn(agent, entry)

    def _tick_later(self, agent: Agent) -> None:
        """Have a node's tick happen when it wants it, unless one that is as early is coming."""
        ahead_s, rate = agent.clock
        due = max((agent.node.deadline() - ahead_s) / rate, self.now + CLOCK_S)
        if self.now < agent.tick_at <= due:
            return
        agent.tick_at = due

        def tick() -> None:
            if agent.tick_at == due:
                self.turn(agent, lambda: agent.node.tick(agent.time()))

        self.at(due, tick)

    def _carry_out(self, agent: Agent, effect: Effect) -> None:
        name = agent.name
        if isinstance(effect, Note):
            if self.on_note is not None:
                self.on_note(name, effect)
            if self.traced:
                facts = " ".join(f"{key}={value}" for key, value in effect.facts.items())
                self.say(f"{name} {effect.name} {facts}")
        elif isinstance(effect, OpenLink):
            self.network.dial(agent, effect)
        elif isinstance(effect, CloseLink):
            if effect.conn in agent.wires:
                self.network.sever(agent.wires[effect.conn], "closed by the other end")
        elif isinstance(effect, CloseApp):
            speaker = agent.speakers.pop(effect.app, None)
            agent.clogged.pop(effect.app, None)
            if speaker is not None:
                if effect.app not in agent.hung_up:
                    self._hang_up(name, speaker)
                self.turn(agent, lambda: agent.node.app_closed(effect.app, agent.time(), dead=False))
        elif isinstance(effect, Confirm):
            self._confirm(agent, effect)
        elif isinstance(effect, Spool):
            self._spool(agent, effect)
        elif isinstance(effect, Watch):
            self.matchmaker.watch(name, effect.topic)
            if self.matchmaker.is_away:
                self._tell_remembered(agent, effect.topic)
        elif isinstance(effect, Unwatch):
            self.matchmaker.unwatch(name, effect.topic)
        elif isinstance(effect, Stop):
            self.say(f"{name} stops with {effect.status}: {effect.reason}")
            self.stopped[name] = effect
            self.incarnation = max(self.incarnation, effect.incarnation)
            self.kill(name)
            if self.on_stop is not None:
                self.on_stop(name, effect)
        elif isinstance(effect, FindAgents):
            others = [other.node.state.peers.identity for other in self.agents.values() if other.running]
            found = [AgentEntry(one.node, one.endpoint.host, one.endpoint.port, one.incarnation) for one in others]
            self.turn(agent, lambda: agent.node.agents(found, agent.time()))
        elif isinstance(effect, Inquire):
            agent.node.answered(effect.session, effect.seq, False, b"no agent stands behind this node", agent.time())
        elif not isinstance(effect, Claim):  # no two agents of a world have one name
            self.matchmaker.change(name, effect)

    def _confirm(self, agent: Agent, effect: Confirm) -> None:
        if effect.app in agent.clogged:
            agent.clogged[effect.app].append(lambda: self.at(self.now, lambda: self._confirm(agent, effect)))
        elif effect.app in agent.speakers and effect.app not in agent.hung_up:
            self.turn(agent, lambda: agent.node.app_took(effect.app, effect.number, agent.time()))

    # The disk

    def _spool(self, agent: Agent, effect: Spool) -> None:
        """Have an agent's spool do a job when it has done those before; an agent that dies meanwhile hears nothing, and
        what it had not begun is not done."""
        spool = agent.spool
        assert spool is not None, "a node without a spool gave it a job"

        def work() -> None:
            if agent.running:
                word = spool_base.do(spool, effect.job)
                self.at(agent_done, lambda: self.turn(agent, lambda: agent.node.spooled(word, agent.time())))

        delay_s = self.rng.uniform(*self.options.disk_delay_s)
        begins = max(self.now, agent.disk_free_at)
        agent_done = agent.disk_free_at = begins + delay_s
        self.at(begins, work)

    # The network and the matchmaker

    def cut(self, one: str, other: str, only: str = "") -> None:
        """Break every connection between two nodes; ``only``: that one notices now, the other when it next sends."""
        self.network.cut(one, other, only)

    def silence(self, one: str, other: str) -> None:
        """Have the network swallow everything between two nodes, and tell nobody."""
        self.network.silence(one, other)
        self.network.silence(other, one)

    def heal(self, one: str, other: str) -> None:
        """End what is wrong between two nodes; what was swallowed stays lost."""
        self.network.heal(one, other)

    def forget(self, node: str, incarnation: int = 0) -> None:
        """Let the TTL run out of everything that a node, or only that incarnation of it, has registered."""
        self.matchmaker.forget(node, incarnation)

    def _tell(self, name: str, snapshot: Snapshot) -> None:
        agent, watchers = self.agents[name], self.matchmaker.watchers[snapshot.topic]
        agent.before.pop(snapshot.topic, None)
        if name in self.disks:
            self.disks[name].remember(snapshot)
        watchers[name] = max(watchers[name], self.now + self.rng.uniform(*self.options.catalogue_delay_s))
        self.at(watchers[name], lambda: self.turn(agent, lambda: agent.node.snapshot(snapshot, agent.time())))

    def _tell_remembered(self, agent: Agent, topic: TopicKey) -> None:
        """The matchmaker is away: what the agent before knew of a topic is told, once."""
        snapshot = agent.before.pop(topic, None)
        if snapshot is not None:
            self.at(self.now, lambda: self.turn(agent, lambda: agent.node.snapshot(snapshot, agent.time())))

    # Apps

    def attach(self, name: str, speaker: Speaker, pid: int = 1, user: str = "", groups: tuple[str, ...] = ()) -> None:
        """Connect an app, of a user, to its node's agent."""
        agent = self.agents[name]
        conn = agent.node.app_connected(Credentials(0, pid, user, groups), agent.time())
        agent.speakers[conn] = speaker
        speaker.connected(agent.time())
        self.hear(name, speaker)

    def detach(self, name: str, speaker: Speaker, *, dead: bool = False, lossy: bool = False) -> None:
        """Close an app's connection from its side; ``dead``: its process is gone too; ``lossy``: what it has written
        and its agent has not read is lost."""
        agent = self.agents[name]
        conn = agent.conn_of(speaker)

        def close() -> None:
            agent.speakers.pop(conn, None)
            agent.clogged.pop(conn, None)
            agent.node.app_closed(conn, agent.time(), dead=dead)

        agent.hung_up[conn] = lossy
        self.at(self.now + self.options.socket_delay_s[1], lambda: self.turn(agent, close))
        self._hang_up(name, speaker)

    def clog(self, name: str, speaker: Speaker) -> None:
        """Have an app's socket be full: what the app is told waits in its agent's memory. What it says is read."""
        agent = self.agents[name]
        agent.clogged.setdefault(agent.conn_of(speaker), [])

    def unclog(self, name: str, speaker: Speaker) -> None:
        """Have an app's socket take again what its agent writes, as soon as that runs."""
        agent = self.agents[name]
        if agent.paused_until > self.now:
            self.at(agent.paused_until, lambda: self.unclog(name, speaker) if name in self.agents else None)
            return
        for event in agent.clogged.pop(agent.conn_of(speaker), []):
            event()

    def hear(self, name: str, speaker: Speaker) -> None:
        """Carry what an app has to say to its agent."""
        agent = self.agents.get(name)
        conn = agent.conn_of(speaker) if agent is not None else 0
        if agent is None or not conn:
            return
        for data in speaker.take(agent.time()):
            if self.frames:
                self.say_frame(f"socket {conn} > {name}", data)
            self._to_agent(agent, conn, data)
        deadline = speaker.deadline()
        if deadline is not None:
            self.at(max(self.when(name, deadline), self.now + CLOCK_S), lambda: self._tick_speaker(name, speaker))

    def _to_agent(self, agent: Agent, conn: int, data: bytes) -> None:
        def arrive() -> None:
            if conn in agent.speakers and not agent.hung_up.get(conn):
                if self.on_frame is not None:
                    self.on_frame(data)
                self.turn(agent, lambda: agent.node.app_data(conn, data, agent.time()))

        self.at(self.now + self.options.socket_delay_s[1], arrive)

    def _tick_speaker(self, name: str, speaker: Speaker) -> None:
        deadline, now = speaker.deadline(), self.time(name)
        if deadline is not None and deadline <= now:
            speaker.tick(now)
            self.hear(name, speaker)

    def _to_app(self, agent: Agent, conn: int, data: bytes) -> None:
        if conn in agent.clogged:
            agent.clogged[conn].append(lambda: self._to_app(agent, conn, data))
            return
        speaker = agent.speakers.get(conn)
        if self.frames:
            self.say_frame(f"{agent.name} > socket {conn}", data)

        def arrive() -> None:
            if speaker is not None and conn not in agent.hung_up:
                if self.on_frame is not None:
                    self.on_frame(data)
                speaker.received(data, agent.time())
                self.hear(agent.name, speaker)

        self.at(self.now + self.options.socket_delay_s[1], arrive)

    def _hang_up(self, name: str, speaker: Speaker) -> None:
        """Close an app's socket; what is on its way to it arrives first."""
        self.at(self.now + self.options.socket_delay_s[1], lambda: speaker.disconnected(self.time(name)))
