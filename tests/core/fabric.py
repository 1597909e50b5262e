"""Real nodes joined in virtual time, apps that speak in raw records, and what must be true when all is over."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from mesh.core.catalogue import Health
from mesh.core.chunks import Chunker
from mesh.core.codec import decode, encode, encode_split
from mesh.core.context import NodeOptions
from mesh.core.effects import Note
from mesh.core.identity import Identity
from mesh.core.link import Link, LinkOptions, Phase
from mesh.core.node import Node, Output
from mesh.core.outbox import OutboxOptions
from mesh.core.policy import PolicyOptions, Rule
from mesh.core.pool import PoolOptions
from mesh.core.pool import State as SlotState
from mesh.core.records import (
    AppHello,
    Cancel,
    Chunk,
    ChunkAck,
    Failure,
    Floor,
    FloorAsk,
    Hello,
    Kind,
    Ping,
    Pong,
    Query,
    Receipt,
    Record,
    Reply,
    Report,
    Request,
    Serve,
    Settled,
    Status,
)
from mesh.core.stamps import Stamp
from mesh.sim.world import NetworkOptions, World
from mesh.types import Endpoint, TopicKey

__all__ = [
    "HELLO",
    "ORDERS",
    "App",
    "Peer",
    "assert_mesh_quiescent",
    "assert_quiescent",
    "echo",
    "fail",
    "fleet",
    "hold",
    "link",
    "listed",
    "lone_node",
    "noted",
    "notes",
    "obey",
    "options",
    "served",
    "server",
    "stamp",
    "told",
]

ORDERS = TopicKey("", "orders")

HELLO = Hello(0, 0, "sim", "p", 50, 1, "b", "p.example", 7700, 1000, 5000, 64 << 20, 1024, 2, 8192, 16 << 20)
"""What peer p says first to node b."""

R = TypeVar("R")
Handler = Callable[[Request], Record | None]


def echo(request: Request) -> Record:
    """A handler that ends well: a call is answered with its own body."""
    if request.kind == Kind.CALL:
        return Reply(request.node, request.session, request.seq, request.body)
    return Settled(request.node, request.session, [(request.seq, request.seq)])


def fail(request: Request) -> Record:
    """A handler that raises."""
    if request.kind == Kind.CALL:
        id = (request.node, request.session, request.seq)
        return Failure(*id, int(Status.REMOTE_ERROR), "no", error_type="ValueError")
    return Settled(request.node, request.session, [(request.seq, request.seq)], 1)


def hold(request: Request) -> None:
    """A handler that never ends by itself."""


def stamp(request: Request) -> Reply:
    """A handler of traced calls: it adds its own stamp."""
    id = (request.node, request.session, request.seq)
    return Reply(*id, b"", trace=[*(request.trace or ()), ("server", 1, 2, 3)])


class App:
    """An app of raw records. ``got``: all it was told; ``asked``: the requests it was handed, bodies whole.

    ``floor`` goes out with each request; `settle` raises it above everything so far.
    """

    def __init__(
        self,
        world: World,
        node: str,
        session: int,
        handle: Handler = echo,
        *,
        namespace: str = "",
        name: str = "app",
        user: str = "",
        groups: tuple[str, ...] = (),
    ) -> None:
        self.world, self.node, self.session, self.handle = world, node, session, handle
        self.namespace, self.name = namespace, name
        self.got: list[Record] = []
        self.asked: list[Request] = []
        self.out: list[Record] = []
        self.chunker = Chunker()
        self.connection = self.counter = self.seq = self.floor = 0
        self.is_up = False
        self.user, self.groups = user, groups
        world.attach(node, self, user=user, groups=groups)

    # A speaker

    def connected(self, now: float) -> None:
        self.connection += 1
        self.counter = 0
        self.is_up = True
        self.chunker = Chunker()
        self.out = [AppHello(0, 0, self.session, self.connection, self.name, self.namespace)]

    def received(self, data: bytes, now: float) -> None:
        for record in decode(data).records:
            if isinstance(record, Ping):
                self.out.append(Pong(record.stamp))
                continue
            self.got.append(record)
            if isinstance(record, Chunk):
                whole, ack = self.chunker.chunk(record)
                self.out.append(ack)
                if isinstance(whole, Reply):
                    self.got.append(whole)
                elif whole is not None:
                    self._asked(whole)
            elif isinstance(record, ChunkAck):
                self.out += self.chunker.acked(record)
            elif isinstance(record, FloorAsk):
                self.out.append(Floor(record.node, self.session, self.floor, []))
            elif isinstance(record, Request | Reply) and record.size:
                assert self.chunker.announced(record)
            elif isinstance(record, Request):
                self._asked(record)

    def disconnected(self, now: float) -> None:
        self.is_up = False

    def tick(self, now: float) -> None: ...

    def deadline(self) -> float | None:
        return None

    def take(self, now: float) -> list[bytes]:
        if not self.out:
            return []
        frames = encode_split(self.counter, self.out)
        self.counter += len(frames)
        self.out = []
        return frames

    # What it does

    def _asked(self, request: Request) -> None:
        self.asked.append(request)
        answer = self.handle(request)
        if answer is not None:
            self._put(answer)

    def _put(self, record: Record) -> None:
        if isinstance(record, Request | Reply) and len(record.body) > self.chunker.chunk_bytes:
            announcement, chunks = self.chunker.split(record)
            self.out += [announcement, *chunks]
        else:
            self.out.append(record)

    def say(self, *records: Record) -> None:
        for record in records:
            self._put(record)
        self.world.hear(self.node, self)

    def send(self, kind: Kind, topic: str, body: bytes = b"", *, timeout_s: float = 10.0, flags: int = 0) -> int:
        """Send a request to ``topic`` or ``topic@server``; return its seq."""
        seq, (name, _, server) = self.seq, topic.partition("@")
        self.seq += 1
        self.say(Request(int(kind), seq, name, server, round(timeout_s * 1000), body, flags, self.floor))
        return seq

    def call(self, topic: str, body: bytes = b"", *, timeout_s: float = 10.0, flags: int = 0) -> int:
        return self.send(Kind.CALL, topic, body, timeout_s=timeout_s, flags=flags)

    def trace(self, topic: str, *, flags: int = 0) -> int:
        """Call, and have the way there and back stamped."""
        seq, self.seq = self.seq, self.seq + 1
        self.say(Request(int(Kind.CALL), seq, topic, "", 10_000, b"", flags, self.floor, trace=[("caller", 1, 2, 0)]))
        return seq

    def cast(self, topic: str, body: bytes = b"", *, timeout_s: float = 10.0, flags: int = 0) -> int:
        return self.send(Kind.CAST, topic, body, timeout_s=timeout_s, flags=flags)

    def fanout(self, topic: str, body: bytes = b"", *, timeout_s: float = 10.0, flags: int = 0) -> int:
        return self.send(Kind.FANOUT, topic, body, timeout_s=timeout_s, flags=flags)

    def cancel(self, seq: int) -> None:
        self.say(Cancel("", 0, seq))

    def serve(self, topic: str, server: str = "", workers: int = 4, prefetch: int = 256) -> None:
        self.say(Serve(topic, server or f"{self.node}-{self.session}", workers, prefetch))

    def release(self, handle: Handler = echo) -> None:
        """End everything that is held, and what comes, with this handler."""
        self.handle = handle
        answers = [answer for request in self.asked if (answer := handle(request)) is not None]
        self.asked.clear()
        self.say(*answers)

    def settle(self) -> None:
        """Raise the floor above everything so far, and say so."""
        self.floor = self.seq
        self.say(Floor("", 0, self.floor, []))

    def close(self, *, dead: bool = False) -> None:
        self.world.detach(self.node, self, dead=dead)

    def come_back(self) -> None:
        self.world.attach(self.node, self, user=self.user, groups=self.groups)

    # What it was told

    def of(self, kind: type[R]) -> list[R]:
        return [record for record in self.got if isinstance(record, kind)]

    def ends(self, seq: int) -> list[Reply | Failure | Receipt | None]:
        """Every end that was told of this request; None for a cast that a handler ended."""
        ends: list[Reply | Failure | Receipt | None] = []
        for record in self.got:
            if isinstance(record, Failure | Receipt) or (isinstance(record, Reply) and not record.size):
                ends += [record] if record.seq == seq and record.session == self.session else []
            elif isinstance(record, Settled) and record.session == self.session:
                ends += [None for first, last in record.ranges if first <= seq <= last]
        return ends

    def end(self, seq: int) -> Reply | Failure | Receipt | None:
        """The one end that was told of this request."""
        ends = self.ends(seq)
        assert 1 == len(ends), f"{seq} ended {len(ends)} times: {ends}"
        return ends[0]

    def body(self, seq: int) -> bytes:
        end = self.end(seq)
        assert isinstance(end, Reply), end
        return end.body

    def stamps(self, seq: int) -> list[Stamp]:
        end = self.end(seq)
        assert isinstance(end, Reply), end
        return end.trace or []

    def failure(self, seq: int) -> Failure:
        end = self.end(seq)
        assert isinstance(end, Failure), end
        return end

    def status(self, seq: int) -> Status:
        return Status(self.failure(seq).status)

    def receipt(self, seq: int) -> tuple[int, int, int, int]:
        """What became of a fan-out: asked, finished, failed, unknown."""
        end = self.end(seq)
        assert isinstance(end, Receipt), end
        return end.asked, end.finished, end.failed, end.unknown

    def query(self, what: str, **arguments: str) -> Report:
        seq = len(self.of(Report)) + 1
        self.say(Query(seq, what, arguments or None))
        self.world.run(self.world.now + 0.01)
        return self.of(Report)[-1]

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of the requests that it was handed."""
        return [request.body for request in self.asked]


def lone_node(node_options: NodeOptions | None = None) -> Node:
    """Node b, which nobody drives."""
    return Node(Identity("b", "sim", 9, Endpoint("b.example", 7700)), node_options or NodeOptions(), 1, 1.0)


class Peer:
    """The other end of a link that was opened to a node: it says what a test has it say."""

    def __init__(self, one: Node, *, hello: Hello | None = HELLO) -> None:
        self.node = one
        self.counter = 0
        self.conn = one.link_accepted(1.0)
        if hello is not None:
            self.say(hello)

    def say(self, *records: Record, now: float = 1.0) -> Output:
        """Say records in one batch; return what the node has to say then."""
        self.node.link_data(self.conn, encode(self.counter, records), now)
        self.counter += 1
        return self.node.take(now)

    def hears(self, *records: Record, now: float = 1.0) -> list[Record]:
        """Say records in one batch; return what this peer is told then."""
        return told(self.say(*records, now=now), self.conn)

    @property
    def link(self) -> Link:
        return self.node.state.peers.links[self.conn]


def told(output: Output, conn: int) -> list[Record]:
    """What a turn has to say on a link."""
    return [record for to, data in output.link_data if to == conn for record in decode(data).records]


def noted(output: Output) -> list[str]:
    """The notes of a turn."""
    return [effect.name for effect in output.effects if isinstance(effect, Note)]


def options(
    *, link: LinkOptions | None = None, pool: PoolOptions | None = None, outbox: OutboxOptions | None = None
) -> NodeOptions:
    return NodeOptions(link=link or LinkOptions(), pool=pool or PoolOptions(), outbox=outbox or OutboxOptions())


def fleet(
    names: Iterable[str], node_options: NodeOptions | None = None, seed: int = 1, network: NetworkOptions | None = None
) -> World:
    """A world in which these agents run."""
    world = World(seed, network)
    for name in names:
        world.start(name, node_options or NodeOptions())
    return world


def server(world: World, session: int = 10, *, workers: int = 1, prefetch: int = 256, node: str = "b") -> App:
    """An app that serves orders and ends nothing, and time for everybody to hear of it."""
    app = App(world, node, session, hold)
    app.serve("orders", workers=workers, prefetch=prefetch)
    world.run(world.now + 0.5)
    return app


def obey(world: World, nodes: str, default: str = "allow", **rules: Rule) -> None:
    """Give these agents, one for each letter, a policy, and everybody time to follow."""
    policy = PolicyOptions(default, rules)  # type: ignore[arg-type]
    for name in nodes:
        agent = world.agents[name]
        world.turn(agent, lambda agent=agent: agent.node.obey(policy, agent.time()))  # type: ignore[misc]
    world.run(world.now + 0.5)


def served(world: World, *nodes: str, topic: str = "orders", workers: int = 4) -> list[App]:
    """One app on each of these nodes that serves the topic, and time for everybody to hear of it."""
    apps = [App(world, node, 10 + number) for number, node in enumerate(nodes)]
    for app in apps:
        app.serve(topic, workers=workers)
    world.run(world.now + 0.5)
    return apps


def listed(world: World) -> list[Health]:
    """How the instances that serve orders are doing, as the catalogue has it."""
    return [instance.health for instance in world.catalogue.get(ORDERS, {}).values()]


def link(world: World, node: str, peer: str) -> Link:
    """The open link of a node to a peer."""
    found = world.agents[node].node.state.peers.open_link(peer)
    assert found is not None, f"{node} has no link to {peer}"
    return found


def notes(world: World, name: str, node: str = "") -> list[str]:
    """The lines of the trace with this note, of this node or of any."""
    rows = [line.split(" ", 3) for line in world.trace]
    return [" ".join(row) for row in rows if len(row) > 2 and row[2] == name and node in ("", row[1])]


def assert_quiescent(node: Node) -> None:
    """Nothing is outstanding: every table, lease and counter of a node is as before its first record."""
    state, context = node.state, node.context
    outbox = state.outbox
    kept = (outbox.entries, outbox.by_target, outbox.waiting, outbox.queues, outbox.held)
    for table in (*kept, outbox.inquiries, outbox.unasked):
        assert not table, table
    assert (0, {}, {}) == (outbox.queued, outbox.wheel.buckets, state.fans)
    assert (0, {}) == (state.inbox.answers_bytes, state.inbox.wheel.buckets)
    for key, caller in state.inbox.callers.items():
        assert not caller.handed, (key, caller.handed)
    for app in state.apps.values():
        assert (0, 0, {}) == (app.records, app.bytes, app.outcomes), app.name
        assert ([], [], []) == (app.out, app.accepted, app.settled), app
        assert_no_streams(app.chunker)
        for service in app.services.values():
            unread = [id for id in service.queue.items[service.queue.head :] if state.inbox.find(id)]
            assert (0, 0, [], {}, 0) == (
                service.queued,
                service.queued_bytes,
                unread,
                service.running,
                service.running_bytes,
            ), service.topic
            assert {} == service.overrun
    slots = state.pool.slots.values()
    assert [] == [slot for slot in slots if slot.leases or slot.wanted]
    assert state.pool.taken == sum(slot.state is not SlotState.CLOSED for slot in slots)
    assert state.pool.taken == len(state.peers.links)
    for one in state.peers.links.values():
        assert (Phase.OPEN, []) == (one.phase, one.out), one.peer
        assert_no_streams(one.chunker)
    for rest in (state.pending, state.dirty_apps, state.departing, state.questions, state.peers.dirty):
        assert not rest, rest
    assert ([], [], [], []) == (context.loopback, context.effects, context.farewells, state.peers.parting)


def assert_no_streams(chunker: Chunker) -> None:
    assert ({}, {}, 0) == (chunker.outgoing, chunker.incoming, chunker.in_flight)


def assert_mesh_quiescent(world: World, wait_s: float = 30.0) -> None:
    """After ``wait_s`` and with all floors raised every node is quiescent, and every window is as wide as at first."""
    apps = [app for agent in world.agents.values() for app in agent.speakers.values() if isinstance(app, App)]
    for app in apps:
        app.settle()
    world.run(world.now + wait_s)
    for agent in world.agents.values():
        assert_quiescent(agent.node)
        for one in agent.node.state.peers.links.values():
            other = link(world, one.peer, agent.node.context.node)
            assert (one.sent_records, one.sent_bytes) == (other.taken_records, other.taken_bytes), one.peer
