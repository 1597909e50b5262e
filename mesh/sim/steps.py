"""Makes a move of the small world: wakes whom it concerns, and puts what they say on its way.

It stands where the shells of agents and apps stand: it calls their entries and carries out what they say.
"""

from typing import TypeVar

from msgspec import msgpack, structs

from mesh.client.connection import Connection
from mesh.client.events import Delivered, Ended, Event, Lost, Parted
from mesh.client.session import Session
from mesh.core.catalogue import Health, Snapshot
from mesh.core.context import NodeOptions, State
from mesh.core.effects import (
    CloseApp,
    CloseLink,
    Confirm,
    Effect,
    OpenLink,
    Register,
    Renew,
    Stop,
    Unwatch,
    Watch,
    Withdraw,
)
from mesh.core.identity import Identity
from mesh.core.node import Node
from mesh.core.records import Kind as RequestKind
from mesh.core.records import Reply, Request, Status
from mesh.core.session import Credentials
from mesh.sim.promises import Broken, Fences, began, ended, fences, watch
from mesh.sim.small import CONNECTED, LOST, Fault, Kind, Move, Process, Small, Socket, Wire
from mesh.types import Endpoint, TopicKey

__all__ = ["TIMEOUT_S", "TOPIC", "Hand", "step"]

PORT = 7000  # the link port of every agent, whose host is its name
TTL_S = 15.0  # how long the matchmaker keeps the entries of an agent that was lost
TICK_S = 1.0  # how far the clock goes at once while nothing happens
SLOW_S = 6.0  # how long nothing moves when all is slow: longer than apps and agents are waited for

TOPIC = "work"
TIMEOUT_S = 30.0
"""What apps call, and for how long they wait."""

T = TypeVar("T")

_states = msgpack.Decoder(State)
_processes = msgpack.Decoder(Process)


def step(world: Small, move: Move, options: NodeOptions) -> Small:
    """Return the world after a move; raises Broken."""
    hand = Hand(world.fork(), options)
    hand.make(move)
    return hand.put_back()


class Hand:
    """One move in the making: the nodes and apps that are awake, over a world of its own."""

    def __init__(self, world: Small, options: NodeOptions) -> None:
        self.world = world
        self.options = options
        self.nodes: dict[str, Node] = {}
        self.apps: dict[str, Process] = {}
        self.before: dict[str, dict[str, Fences]] = {}

    def node(self, name: str) -> Node:
        """Return a node, awake."""
        node = self.nodes.get(name)
        if node is None:
            node = self.nodes[name] = Node.restored(_states.decode(self.world.nodes[name]), self.options)
            node.tick_s = TICK_S
            self.before[name] = fences(node.state)
        return node

    def app(self, name: str) -> Process:
        """Return an app, awake."""
        app = self.apps.get(name)
        if app is None:
            app = self.apps[name] = _processes.decode(self.world.apps[name])
        return app

    def put_back(self) -> Small:
        """Return the world with everybody asleep again; raises Broken."""
        for name, node in self.nodes.items():
            watch(name, self.before.get(name, {}), node.state)
            self.world.nodes[name] = msgpack.encode(node.state)
        for name, app in self.apps.items():
            self.world.apps[name] = msgpack.encode(app)
        return self.world

    def make(self, move: Move) -> None:
        """Make a move."""
        if move.kind is Kind.READ:
            self._read(move)
        elif move.kind is Kind.HEAR:
            self._hear(move)
        elif move.kind is Kind.TOLD:
            self._told(move)
        elif move.kind is Kind.DIAL:
            self.dial(move.who)
        elif move.kind is Kind.START:
            self.start(move.who)
        elif move.kind is Kind.END:
            self._end(move)
        elif move.kind is Kind.TIME:
            self.pass_time()
        else:
            self._fault(move)

    # Agents

    def start(self, name: str) -> None:
        """Start an agent, with an incarnation greater than all before."""
        incarnation = self.world.incarnations.get(name, 0) + 1
        self.world.incarnations[name] = incarnation
        identity = Identity(name, "sim", incarnation, Endpoint(name, PORT), successor=incarnation > 1)
        node = self.nodes[name] = Node(identity, self.options, incarnation, self.world.now)
        node.tick_s = TICK_S
        self.world.nodes[name] = b""

    def turn(self, name: str) -> None:
        """Carry out what a node has to say."""
        node, world = self.node(name), self.world
        while True:
            app_data, link_data, effects = node.take(world.now)
            for conn, data in app_data:
                self._put_socket(self._socket_at(name, conn), 0, data)
            for conn, data in link_data:
                self._put_wire(*self._wire_at(name, conn), data)
            if not effects:
                return
            for effect in effects:
                if name not in world.nodes:
                    return
                self._carry_out(name, node, effect)

    def _carry_out(self, name: str, node: Node, effect: Effect) -> None:
        world = self.world
        if isinstance(effect, OpenLink):
            is_there = effect.node in world.nodes
            way = (CONNECTED,) if is_there else (LOST,)
            key = f"{name}{world.incarnations[name]}:{effect.conn}"
            world.wires[key] = Wire((name, effect.node), (effect.conn, 0), (way, ()), (True, is_there))
        elif isinstance(effect, CloseLink):
            self._close_wire(*self._wire_at(name, effect.conn))
        elif isinstance(effect, CloseApp):
            key = self._socket_at(name, effect.app)
            if key:
                self._close_socket(key, 1)
                node.app_closed(effect.app, world.now, dead=False)
        elif isinstance(effect, Confirm):
            socket = world.sockets.get(self._socket_at(name, effect.app))
            if socket is not None and socket.held[0]:
                node.app_took(effect.app, effect.number, world.now)
        elif isinstance(effect, Watch):
            watchers = [who for who in world.watchers.get(effect.topic, ()) if who != name]
            world.watchers[effect.topic] = sorted([*watchers, name])
            node.snapshot(self._snapshot(effect.topic), world.now)
        elif isinstance(effect, Unwatch):
            world.watchers[effect.topic] = [who for who in world.watchers[effect.topic] if who != name]
        elif isinstance(effect, Register | Renew | Withdraw):
            self._catalogue(effect)
        elif isinstance(effect, Stop):
            raise Broken(f"{name} stops with {effect.status}: {effect.reason}")

    def _catalogue(self, effect: Register | Renew | Withdraw) -> None:
        instance = effect.instance
        entries = self.world.catalogue.get(instance.topic_key, [])
        known = any(entry.key == instance.key for entry in entries)
        entries = [entry for entry in entries if entry.key != instance.key]
        if isinstance(effect, Renew) and known:
            entries.append(structs.replace(instance, health=effect.health))
        elif isinstance(effect, Register):
            entries.append(instance)
        self.world.catalogue[instance.topic_key] = sorted(entries, key=lambda entry: entry.key)
        self._tell(instance.topic_key)

    def _tell(self, topic: TopicKey) -> None:
        """Tell those who watch a topic; the matchmaker is quick here, for its delays are not what is searched."""
        for watcher in self.world.watchers.get(topic, ()):
            if watcher in self.world.nodes:
                self.node(watcher).snapshot(self._snapshot(topic), self.world.now)
                self.turn(watcher)

    def _snapshot(self, topic: TopicKey) -> Snapshot:
        listed = [i for i in self.world.catalogue.get(topic, ()) if i.health is not Health.CRITICAL]
        return Snapshot(topic, 1, tuple(listed))

    # Links

    def _wire_at(self, name: str, conn: int) -> tuple[str, int]:
        """Return the connection that has this number at a node, and which of its ends that is."""
        for key, wire in self.world.wires.items():
            for side in (0, 1):
                if (wire.ends[side], wire.conns[side]) == (name, conn) and wire.held[side]:
                    return key, side
        return "", 0

    def _put_wire(self, key: str, side: int, data: bytes) -> None:
        """Put something on its way from this end to the other, unless that is gone."""
        wire = self.world.wires.get(key)
        if wire is not None and wire.held[1 - side]:
            other = wire.ways[1 - side]
            if LOST not in other:
                self._set_wire(key, structs.replace(wire, ways=_with(wire.ways, 1 - side, (*other, data))))

    def _set_wire(self, key: str, wire: Wire) -> None:
        if any(wire.held):
            self.world.wires[key] = wire
        else:
            del self.world.wires[key]

    def _close_wire(self, key: str, side: int, *, torn: bool = False) -> None:
        """One end has no more of a connection; the other reads what is on its way, unless that is torn, and the end."""
        wire = self.world.wires.get(key)
        if wire is None:
            return
        other = () if torn else tuple(data for data in wire.ways[1 - side] if data != LOST)
        ways = _with(_with(wire.ways, side, ()), 1 - side, (*other, LOST) if wire.held[1 - side] else ())
        self._set_wire(key, structs.replace(wire, ways=ways, held=_with(wire.held, side, False)))

    def _read(self, move: Move) -> None:
        """An agent takes in the next of what came by a link."""
        name, node, wire = move.who, self.node(move.who), self.world.wires[move.by]
        side = wire.ends.index(name)
        data, *rest = wire.ways[side]
        wire = structs.replace(wire, ways=_with(wire.ways, side, tuple(rest)))
        if data == LOST:
            self._set_wire(move.by, structs.replace(wire, held=_with(wire.held, side, False)))
            if wire.conns[side]:
                node.link_lost(wire.conns[side], "connection reset", self.world.now)
        elif data == CONNECTED:
            self._set_wire(move.by, wire)
            node.link_connected(wire.conns[side], self.world.now)
        else:
            if not wire.conns[side]:
                wire = structs.replace(wire, conns=_with(wire.conns, side, node.link_accepted(self.world.now)))
            self._set_wire(move.by, wire)
            node.link_data(wire.conns[side], data, self.world.now)
        self.turn(name)

    # Sockets of apps

    def _socket_at(self, name: str, conn: int) -> str:
        found = (k for k, s in self.world.sockets.items() if (s.node, s.conn) == (name, conn) and s.held[1])
        return next(found, "")

    def _put_socket(self, key: str, side: int, data: bytes) -> None:
        """Put something on its way to the app (0) or to its agent (1)."""
        socket = self.world.sockets.get(key)
        if socket is not None and socket.held[side] and LOST not in socket.ways[side]:
            ways = _with(socket.ways, side, (*socket.ways[side], data))
            self.world.sockets[key] = structs.replace(socket, ways=ways)

    def _close_socket(self, key: str, side: int, *, torn: bool = False) -> None:
        """The app (0) or its agent (1) has no more of a socket."""
        socket = self.world.sockets[key]
        rest = () if torn else socket.ways[1 - side]
        end = (*rest, LOST) if socket.held[1 - side] else ()
        ways = _with(_with(socket.ways, side, ()), 1 - side, end)
        self._set_socket(key, structs.replace(socket, ways=ways, held=_with(socket.held, side, False)))

    def _set_socket(self, key: str, socket: Socket) -> None:
        if any(socket.held):
            self.world.sockets[key] = socket
        else:
            del self.world.sockets[key]

    def _hear(self, move: Move) -> None:
        """An agent takes in the next of what came from an app."""
        node, socket = self.node(move.who), self.world.sockets[move.by]
        data, *rest = socket.ways[1]
        socket = structs.replace(socket, ways=_with(socket.ways, 1, tuple(rest)))
        if data == LOST:
            self._set_socket(move.by, structs.replace(socket, held=_with(socket.held, 1, False)))
            is_dead = socket.app not in self.world.apps
            node.app_closed(socket.conn, self.world.now, dead=is_dead)
        else:
            self._set_socket(move.by, socket)
            node.app_data(socket.conn, data, self.world.now)
        self.turn(move.who)

    def dial(self, name: str) -> None:
        """An app connects to its agent, and says hello."""
        app = self.app(name)
        conn = self.node(app.node).app_connected(Credentials(0, 1), self.world.now)
        app.session.connected(self.world.now)
        key = f"{name}:{app.session.connection.number}"
        self.world.sockets[key] = Socket(name, app.node, conn)
        self.write(name)

    def write(self, name: str) -> None:
        """Put on its way what an app has to say."""
        app = self.app(name)
        keys = [key for key, socket in self.world.sockets.items() if socket.app == name and socket.held[0]]
        while app.session.wants_write:
            for data in app.session.take(self.world.now):
                for key in keys:
                    self._put_socket(key, 1, data)

    def _told(self, move: Move) -> None:
        """An app takes in the next of what came from its agent."""
        socket, app = self.world.sockets[move.by], self.app(move.who)
        data, *rest = socket.ways[0]
        socket = structs.replace(socket, ways=_with(socket.ways, 0, tuple(rest)))
        if data == LOST:
            self._set_socket(move.by, structs.replace(socket, held=_with(socket.held, 0, False)))
            app.session.disconnected("the socket is gone", self.world.now)
            if app.leaving:
                self.exit(move.who)
            return
        self._set_socket(move.by, socket)
        self.after(move.who, app.session.received(data, self.world.now))

    # What apps do

    def after(self, name: str, events: list[Event]) -> None:
        """Do what a session's events ask for."""
        app = self.app(name)
        parted = False
        for event in events:
            if isinstance(event, Delivered):
                app.queue.append(event.request)
            elif isinstance(event, Ended):
                ended(self.world, (app.node, app.session.id, event.seq), event.outcome)
                if app.further:
                    app.further -= 1
                    self.send(name, server=app.server)
            elif isinstance(event, Lost):
                for key in [k for k, s in self.world.sockets.items() if s.app == name and s.held[0]]:
                    self._close_socket(key, 0)
                app.session.disconnected(event.reason, self.world.now)
            parted = parted or isinstance(event, Parted)
        self._work(name, app)
        if parted:
            self.exit(name)

    def _work(self, name: str, app: Process) -> None:
        """Begin what workers are free for; an app that leaves says goodbye when it has nothing in hand."""
        while app.queue and len(app.running) < app.workers:
            request = app.queue.pop(0)
            id = (request.node, request.session, request.seq)
            if app.session.begin(id, self.world.now):
                app.running.append(request)
                began(self.world, name, id, request)
        self.world.busy[name] = [(r.node, r.session, r.seq) for r in app.running]
        serving = app.session.serving
        if app.leaving and not app.session.leaving and not serving.in_hand and not serving.services:
            app.session.leave()
        self.write(name)

    def _end(self, move: Move) -> None:
        """A handler ends, well."""
        app = self.app(move.who)
        request = next(r for r in app.running if f"{r.node}/{r.session}/{r.seq}" == move.by)
        app.running.remove(request)
        if request.kind == RequestKind.CALL:
            reply = Reply(request.node, request.session, request.seq, request.body)
            app.session.answer(reply, self.world.now)
        else:
            app.session.settle((request.node, request.session, request.seq))
        self._work(move.who, app)

    def send(self, name: str, kind: RequestKind = RequestKind.CALL, flags: int = 0, server: str = "") -> None:
        """Have an app ask for something."""
        app, world = self.app(name), self.world
        request = Request(int(kind), 0, TOPIC, server, round(TIMEOUT_S * 1000), b"", flags)
        seq = app.session.submit(request, TIMEOUT_S, world.now)
        world.sent[app.node, app.session.id, seq] = int(kind)
        world.until = max(world.until, world.now + TIMEOUT_S)
        self.write(name)

    def open(self, name: str, node: str, id: int, *, serves: bool) -> None:
        """Start an app."""
        app = self.apps[name] = Process(node, Session(id, name, connection=Connection(id)))
        self.world.apps[name] = b""
        self.world.homes[name] = node
        if serves:
            app.session.serve(TOPIC, f"{node}-{name}", app.workers, 16)
        self.dial(name)

    def exit(self, name: str) -> None:
        """An app's process ends."""
        self.apps.pop(name, None)
        self.world.apps.pop(name)
        self.world.busy.pop(name, None)
        for key in [k for k, s in self.world.sockets.items() if s.app == name and s.held[0]]:
            self._close_socket(key, 0)

    # Time, and what goes wrong

    def pass_time(self) -> None:
        """Let time go on until something can move."""
        world = self.world
        while not world.is_over and not self._is_anything_on_its_way():
            if world.now > world.until + 1:
                raise Broken("nothing moves any more, and not every request has ended")
            self.tick(min(self._due(), world.now + TICK_S))

    def _is_anything_on_its_way(self) -> bool:
        ways = [wire.ways for wire in self.world.wires.values()] + [one.ways for one in self.world.sockets.values()]
        return any(way for pair in ways for way in pair)

    def _due(self) -> float:
        due = min((self.node(name).deadline() for name in self.world.nodes), default=self.world.until)
        for name in self.world.apps:
            deadline = self.app(name).session.deadline()
            due = due if deadline is None else min(due, deadline)
        return max(due, self.world.now + 1e-3)

    def tick(self, now: float) -> None:
        """It is ``now``: everybody does what is due."""
        world = self.world
        world.now = now
        for name in list(world.nodes):
            self.node(name).tick(now)
            self.turn(name)
        for name in list(world.apps):
            self.after(name, self.app(name).session.tick(now))
        for when, node, incarnation in [lost for lost in world.lost_at if lost[0] + TTL_S <= now]:
            world.lost_at.remove((when, node, incarnation))
            for topic, entries in list(world.catalogue.items()):
                agents = [(one.agent.node, one.agent.incarnation) for one in entries]
                world.catalogue[topic] = [e for e, a in zip(entries, agents, strict=True) if a != (node, incarnation)]
                self._tell(topic)

    def kill(self, name: str, *, torn: bool) -> None:
        """An agent is gone, with all that was on its way to it."""
        world = self.world
        self.nodes.pop(name, None)
        world.nodes.pop(name)
        world.lost_at.append((world.now, name, world.incarnations[name]))
        for topic, watchers in list(world.watchers.items()):
            world.watchers[topic] = [who for who in watchers if who != name]
        for key, wire in list(world.wires.items()):
            for side in (0, 1):
                if wire.ends[side] == name and wire.held[side]:
                    self._close_wire(key, side, torn=torn)
        for key in [key for key, socket in world.sockets.items() if socket.node == name and socket.held[1]]:
            self._close_socket(key, 1)

    def _fault(self, move: Move) -> None:
        world = self.world
        world.left -= 1
        world.faults.append(move.fault)
        what = move.fault.partition(" ")[0]
        if what == Fault.KILL:
            self.kill(move.who, torn=move.torn)
        elif what == Fault.CUT:
            wire = world.wires[move.by]
            side = wire.ends.index(move.who)
            self._close_wire(move.by, side, torn=move.torn)
            node = self.node(move.who)
            if wire.conns[side]:
                node.link_lost(wire.conns[side], "connection reset", world.now)
                self.turn(move.who)
        elif what == Fault.GAP:
            wire = world.wires[move.by]
            side = wire.ends.index(move.who)
            self._set_wire(move.by, structs.replace(wire, ways=_with(wire.ways, side, wire.ways[side][1:])))
        elif what == Fault.ERROR:
            self._close_socket(move.by, 0, torn=True)
            self.app(move.who).session.disconnected("connection reset", world.now)
        elif what == Fault.DIE:
            self.exit(move.who)
        elif what == Fault.LEAVE:
            app = self.app(move.who)
            app.leaving = True
            world.leaving.append(move.who)
            for topic in list(app.session.serving.services):
                app.session.unserve(topic)
            self._work(move.who, app)
        elif what == Fault.CANCEL:
            self._cancel(move.who)
        else:
            until = world.now + SLOW_S
            while world.now < until:
                self.tick(min(until, world.now + TICK_S))

    def _cancel(self, name: str) -> None:
        app = self.app(name)
        seq = max(app.session.calling.pending, default=None)
        if seq is not None:
            app.session.cancel(seq)
            self.world.ended[app.node, app.session.id, seq] = int(Status.CANCELLED)
            self.write(name)


def _with(pair: tuple[T, T], side: int, value: T) -> tuple[T, T]:
    """Return a pair with another value at one side."""
    return (value, pair[1]) if side == 0 else (pair[0], value)
