"""A node: everything one agent decides, driven by its shell or by the simulator, and by nothing else.

The way of a call, room by room::

    app ─▶ AppHop ─▶ Calling.request ─▶ router.choose ─▶ pool.lease ─▶ the link's list ─▶ take
                                                                                            │
                                         LinkHop of the peer's node ◀───────────────────────┘
                                            │
                                            ▼
            app ◀─ take ◀─ the app's list ◀─ Serving.offer
             │
             ▼
           AppHop ─▶ Serving.reply ─▶ the link's list ─▶ take ─▶ LinkHop ─▶ Calling.reply ─▶ the caller's list ─▶ take

A shell calls an entry with what happened and the time, and then `take` for what is to be carried out: effects, and
the batches that have gathered for apps and links. It calls `tick` when `deadline` has come. Entries never raise for
what came from outside: whoever breaks the protocol loses the connection it came by, with one note.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from msgspec import msgpack

from mesh.core import notes
from mesh.core.answering import Answering
from mesh.core.app_hop import AppHop
from mesh.core.calling import Calling
from mesh.core.catalogue import AgentEntry, Snapshot
from mesh.core.codec import encode_split
from mesh.core.context import Context, NodeOptions, State, parts
from mesh.core.directory import Directory
from mesh.core.draining import Draining
from mesh.core.edges import forget_edges
from mesh.core.effects import CloseLink, Confirm, Effect, Level, OpenLink, Stop, Unwatch, Watch
from mesh.core.floors import Floors
from mesh.core.heat import chosen
from mesh.core.identity import Identity, Proof
from mesh.core.ledger import Word
from mesh.core.link import Link, Phase
from mesh.core.link_hop import LinkHop
from mesh.core.obeying import Obeying
from mesh.core.peers import Change, Closed, Opened, Peers, Refused
from mesh.core.policy import PolicyOptions
from mesh.core.pool import Action, Dial
from mesh.core.probing import EXIT_DUPLICATE, Probing
from mesh.core.ranges import to_ranges
from mesh.core.records import (
    Accepted,
    Answer,
    Ask,
    Cancel,
    Failure,
    FloorAsk,
    GiveBack,
    Receipt,
    RefuseReason,
    Reply,
    Request,
    Settled,
)
from mesh.core.recovery import Recovery
from mesh.core.rng import Rng
from mesh.core.services import Services
from mesh.core.serving import Serving
from mesh.core.session import Credentials, Named
from mesh.core.spooling import Spooling
from mesh.core.viewing import Viewing
from mesh.types import TopicKey

__all__ = ["Node", "Output"]

EXIT_RESTART = 77
"""Exit status: start me again, with a greater incarnation."""

FAREWELL_S = 1.0
"""How long a refused connection stays open for its reason to arrive."""

CALLER_IDLE_S = 60.0
"""How long the floor of a silent calling session is kept."""

_REFUSALS = {
    int(RefuseReason.DUPLICATE_NODE): (notes.DUPLICATE_NODE, Level.ERROR),
    int(RefuseReason.BUSY): (notes.LINK_REFUSED, Level.INFO),
    int(RefuseReason.REACHED): (notes.PROBED, Level.INFO),
}
"""Refusals that are told under another name, or less loudly."""


class Output(NamedTuple):
    """What one turn has to carry out, in this order: batches for apps, batches for links, effects."""

    app_data: list[tuple[int, bytes]]
    link_data: list[tuple[int, bytes]]
    effects: list[Effect]


class Node:
    """One agent's decisions. ``identity``: who it is; ``seed``: of its random numbers; ``now``: seconds, monotonic;
    ``owner_uid``: the user who may give it orders, as root may."""

    def __init__(self, identity: Identity, options: NodeOptions, seed: int, now: float, *, owner_uid: int = 0) -> None:
        peers = Peers(identity, options.liveness, options.link)
        state = State(Rng(seed), peers, Directory(identity.node), owner_uid=owner_uid, started_at=now)
        state.ticked_at = state.swept_at = state.heats.folded_at = now
        state.returning_until = now + options.outbox.resume_grace_s if identity.successor else 0.0
        self._assemble(state, options)

    def _assemble(self, state: State, options: NodeOptions) -> None:
        self.state = state
        self.options = options
        self.tick_s = min(0.25, options.liveness.heartbeat_s / 4)
        self.context = Context(state, options)
        self.facts = self.context.facts
        self.calling = Calling(self.context)
        self.recovery = Recovery(self.context, self.calling)
        self.serving = Serving(self.context)
        self.floors = Floors(self.context)
        self.answering = Answering(self.context, self.serving)
        self.probing = Probing(self.context)
        self.viewing = Viewing(self.context)
        self.services = Services(self.context, self.serving)
        self.draining = Draining(self.context, self.calling, self.services)
        self.obeying = Obeying(self.context, self.calling, self.services)
        self.spooling = Spooling(self.context, self.calling)
        parts = (self.context, self.calling, self.recovery, self.serving, self.probing)
        self.apps = AppHop(*parts, self.services, self.draining, self.spooling, self.viewing, self._act)
        self.links = LinkHop(*parts, self.viewing, self._act, self._change)

    @classmethod
    def restored(cls, state: State, options: NodeOptions) -> "Node":
        """Return a node that goes on from a state, which is its own from now on."""
        node = cls.__new__(cls)
        node._assemble(state, options)
        return node

    def copy(self) -> "Node":
        """Return a node in the same state, which shares nothing with this one. What is out must have been taken."""
        return Node.restored(msgpack.decode(msgpack.encode(self.state), type=State), self.options)

    # Apps

    def app_connected(self, credentials: Credentials, now: float) -> int:
        """A local process connected; return the number of its connection."""
        return self.apps.connected(credentials, now)

    def app_named(self, conn: int, named: Named, now: float) -> None:
        """What the shell made of the token in an app's first frame, which comes next."""
        self.apps.named(conn, named)

    def app_data(self, conn: int, data: bytes | memoryview, now: float) -> None:
        """One frame arrived from an app."""
        self.apps.data(conn, data, now)
        self._loop_back(now)

    def app_malformed(self, conn: int, why: str, now: float) -> None:
        """An app sent what is no frame at all."""
        self.apps.malformed(conn, why, now)
        self._loop_back(now)

    def app_closed(self, conn: int, now: float, *, dead: bool) -> None:
        """An app's connection is gone; ``dead``: its process is too."""
        self.apps.closed(conn, now, dead=dead)
        self._loop_back(now)

    def app_took(self, conn: int, number: int, now: float) -> None:
        """An app's socket has taken in its batches up to this number, as `Confirm` asked."""
        self.apps.took(conn, number, now)
        self._loop_back(now)

    def app_died(self, session: int, now: float) -> None:
        """The process of an app whose connection was lost is gone."""
        self.apps.died(session, now)
        self._loop_back(now)

    def answered(self, session: int, seq: int, ok: bool, body: bytes, now: float) -> None:
        """The shell answers an `Inquire`: with JSON, or if not ``ok`` with the text of an error."""
        self.apps.answered(session, seq, ok, body)

    def shut_out(self, session: int, now: float) -> None:
        """Let this session in no more: its messages break this agent."""
        self.state.shut_out[session] = None

    # Links

    def link_accepted(self, now: float) -> int:
        """Somebody connected to the link port; return the number of the connection."""
        return self.state.peers.accepted(now).conn

    def link_connected(self, conn: int, now: float) -> None:
        """A dial reached somebody."""
        self.state.peers.connected(conn, now)
        self.probing.connected(conn, now)

    def link_proven(self, conn: int, proof: Proof, now: float) -> None:
        """What the shell made of the certificate in a connection's first message, which comes next."""
        link = self.state.peers.links.get(conn) or self.probing.link(conn)
        if link is not None:
            link.proof = proof

    def link_data(self, conn: int, data: bytes | memoryview, now: float) -> None:
        """One message arrived on a link."""
        self.links.data(conn, data, now)
        self._loop_back(now)

    def link_lost(self, conn: int, reason: str, now: float) -> None:
        """A connection is gone, or a dial failed."""
        self._change(self.state.peers.lost(conn, reason, now), now)
        self.probing.lost(conn, reason)
        self._loop_back(now)

    def trust(self, certificate: bytes, revoked: list[str], now: float) -> None:
        """From now on show this certificate, and have no link with who connected by one of these public keys."""
        self._change(self.state.peers.trust(certificate, revoked, now), now)
        self._loop_back(now)

    # The matchmaker

    def snapshot(self, snapshot: Snapshot, now: float) -> None:
        """The matchmaker says who serves a topic."""
        for instance in snapshot.instances:
            if self.state.peers.news(instance.agent):
                self._act(self.state.pool.encourage(instance.agent.node, self.options.pool, now), now)
        snapshot = self.calling.policing.sift(snapshot, now)
        view, doubted = self.state.directory.snapshot(snapshot, self.options.directory, now)
        if doubted:
            self.context.note(notes.TOPIC_DOUBTED, Level.WARNING, topic=str(snapshot.topic))
            self.context.effects.append(Watch(snapshot.topic, fresh=True))
        elif view is not None:
            self._act(self.calling.topic_changed(snapshot.topic, now), now)
            self._loop_back(now)

    def namesakes(self, entries: Sequence[AgentEntry], now: float) -> None:
        """The matchmaker says which agents but this one are entered under this node's id; `Claim` may follow."""
        self.probing.namesakes(entries, now)

    def agents(self, found: Sequence[AgentEntry], now: float) -> None:
        """The matchmaker says which agents there are, as `FindAgents` asked."""
        self.viewing.agents(found)
        self._act(self.probing.agents(found, now), now)

    # The spool

    def use_spool(self, now: float) -> None:
        """This node has a spool: it asks for it to be opened."""
        self.spooling.start()

    def spooled(self, word: Word, now: float) -> None:
        """The spool has done, or has not, what it was given first of what it has not answered."""
        self._act(self.spooling.word(word, now), now)
        self._loop_back(now)

    # People

    def obey(self, policy: PolicyOptions, now: float) -> None:
        """From now on let apps and peers do what these rules let them."""
        self._act(self.obeying.obey(policy, now), now)
        self._loop_back(now)

    def look(self, now: float) -> None:
        """Somebody looks at the fleet, and will again soon: the other agents are asked what they tell of themselves."""
        self.viewing.look(now)

    # Time

    def deadline(self) -> float:
        """Return when `tick` wants to be called next."""
        state = self.state
        due = state.ticked_at + self.tick_s
        for timer in (state.outbox.wheel.deadline(), state.pool.due):
            if timer is not None and timer < due:
                due = timer
        self.state.due_at = max(state.ticked_at, due)
        return self.state.due_at

    def tick(self, now: float) -> None:
        """Do what is due. Called late, it first takes its own lag off everybody else's silence."""
        state = self.state
        lag_s = now - state.due_at if state.due_at else 0.0
        if lag_s > self.options.liveness.heartbeat_s / 2:
            state.peers.lagged(lag_s)
            self.probing.lagged(lag_s)
            self.recovery.monitor.lagged(lag_s)
            self.services.lagged(lag_s)
            self.context.note(notes.LAGGED, Level.WARNING, lag_s=round(lag_s, 3))
        state.ticked_at, state.due_at = now, 0.0
        self._act(self.recovery.tick(now), now)
        self.serving.tick(now)
        self.services.tick(now)
        self.spooling.tick(now)
        self.apps.tick(now)
        self.probing.tick(now)
        self._act(self.viewing.tick(now), now)
        if now - state.heats.folded_at >= min(1.0, self.options.heat.half_life_s / 5):
            self._fold_heat(now)
            self._act(self.recovery.probe(now), now)
            for topic in self.services.check(now):
                self._act(self.calling.topic_changed(topic, now), now)
        busy = {node: slot.leases for node, slot in state.pool.slots.items() if slot.leases}
        self._change(state.peers.tick(busy, now), now)
        self._act(state.pool.tick(self.options.pool, now), now)
        for link in [link for link in state.peers.links.values() if link.phase is Phase.LEAVING]:
            self._part(link, now)
        if state.returning_until and now >= state.returning_until:
            state.returning_until = 0.0
            for topic in list(state.outbox.waiting):
                self._act(self.calling.topic_changed(topic, now), now)
        unwatch, changed = state.directory.tick(self.options.directory, now)
        self.context.effects.extend(Unwatch(topic) for topic in unwatch)
        for topic in changed:
            self._act(self.calling.topic_changed(topic, now), now)
        if now - state.swept_at >= self.options.outbox.floor_pull_s:
            state.swept_at = now
            self.floors.sweep(now)
            self._act(state.pool.leave(state.peers.expired(now), "its certificate has expired"), now)
            forget_edges(state, self.options.directory, now)
            state.inbox.forget_idle(CALLER_IDLE_S, now)
        self._loop_back(now)
        self.draining.tick(now)

    def _fold_heat(self, now: float) -> None:
        """Decide anew which topics are hot, and so which links are kept."""
        state, options = self.state, self.options
        for topic in state.heats.fold(options.heat, now):
            is_hot = state.heats.is_hot(topic, options.heat)
            name = notes.TOPIC_HOT if is_hot else notes.TOPIC_COLD
            self.context.note(name, Level.INFO, topic=str(topic), rate=round(state.heats.rate(topic), 2))
        kept = {topic: self._kept(topic) for topic in state.directory.views if state.heats.is_hot(topic, options.heat)}
        for node, slot in state.pool.slots.items():
            link = state.peers.open_link(node)
            hot = [topic for topic in slot.topics if node in kept.get(topic, ())]
            slot.rate = max((state.heats.rate(topic) for topic in hot), default=0.0)
            if link is not None:
                state.peers.keep(link, bool(hot))
                slot.persistent = link.persistent
            for topic in [t for t, used in slot.topics.items() if t not in hot and now - used > options.heat.dwell_s]:
                del slot.topics[topic]

    def _kept(self, topic: TopicKey) -> frozenset[str]:
        """Return the nodes to which a hot topic keeps links: those that serve it, or a stable few of very many."""
        servers = (key.node for key in self.state.directory.views[topic].listed)
        return chosen(self.context.node, topic, servers, self.options.heat.hot_links_max)

    def drain(self, now: float) -> None:
        """Take nothing new, finish what runs, give back what did not start; then stop, at the latest after drain_s."""
        self.draining.begin(now, stop=True)
        self._loop_back(now)

    # What the parts decided is carried out

    def _act(self, actions: Iterable[Action], now: float) -> None:
        """Dial and close what the pool decided."""
        for action in actions:
            peer = self.state.peers.peer(action.node)
            if isinstance(action, Dial):
                if peer.endpoint is None:
                    self._change([Closed(action.node, 0, "its address is not known", was_dial=True)], now)
                    continue
                link = self.state.peers.dial(action.node, now)
                self.context.effects.append(OpenLink(link.conn, action.node, *peer.endpoint))
            else:
                open_link = self.state.peers.open_link(action.node)
                if open_link is not None:
                    self.state.peers.leave(open_link, action.reason, now, final=action.final)

    def _change(self, changes: Iterable[Change], now: float) -> None:
        """Carry what happened to links over to pool, calls and shell."""
        changes = list(changes)
        replaced = {change.node for change in changes if isinstance(change, Opened)}
        for change in changes:
            if isinstance(change, Opened):
                link = self.state.peers.links[change.conn]
                self.state.pool.opened(change.node, now)
                self.context.note(
                    notes.LINK_OPENED, Level.INFO, peer=change.node, incarnation=link.incarnation, conn=change.conn
                )
                self.probing.opened(link)
                self._act(self.recovery.link_opened(link, now), now)
            elif isinstance(change, Closed):
                self._closed(change, change.node in replaced, now)
            else:
                self._refused(change, change.node in replaced, now)

    def _closed(self, closed: Closed, replaced: bool, now: float) -> None:
        """A connection is over: what depended on it is told, and it may be dialled again."""
        state, options = self.state, self.options
        self.context.effects.append(CloseLink(closed.conn, FAREWELL_S if closed.orderly else 0.0))
        facts: dict[str, str | int | float] = {"peer": closed.node, "conn": closed.conn, "why": closed.reason}
        if closed.was_open:
            name, level = (notes.LINK_CLOSED, Level.INFO) if closed.orderly else (notes.LINK_LOST, Level.WARNING)
            self.context.note(name, level, **facts)
            if not replaced:
                if not closed.orderly:
                    state.peers.suspect(closed.node, now)
                self._act(state.pool.closed(closed.node, options.pool, now, state.rng, broken=not closed.orderly), now)
            self._act(self.recovery.link_lost(closed.node, now, idle=closed.idle), now)
        elif closed.was_dial and not replaced:
            facts["address"] = str(state.peers.peer(closed.node).endpoint)
            self.context.note(notes.DIAL_FAILED, Level.WARNING, **facts)
            self._dial_failed(closed.node, now)

    def _dial_failed(self, node: str, now: float, pause_s: float = 0.0) -> None:
        """No link came of a dial; ``pause_s``: after which the other end wants to be dialled again, if it said so."""
        state, options = self.state, self.options.pool
        state.peers.suspect(node, now)
        self._act(state.pool.closed(node, options, now, state.rng, broken=True, pause_s=pause_s), now)
        self._act(self.recovery.dial_failed(node, now), now)

    def _refused(self, refused: Refused, replaced: bool, now: float) -> None:
        """A connection was turned away, by us or by them."""
        reason, text = refused.refuse.reason, refused.refuse.text
        name, level = _REFUSALS.get(reason, (notes.LINK_REFUSED, Level.WARNING))
        self.context.note(name, level, peer=refused.node, by_us=int(refused.by_us), why=text, conn=refused.conn)
        self.context.effects.append(CloseLink(refused.conn, FAREWELL_S))
        if refused.by_us:
            return
        if reason == RefuseReason.DUPLICATE_NODE:
            self.context.effects.append(Stop(EXIT_DUPLICATE, text))
        elif reason == RefuseReason.STALE_INCARNATION:
            self.context.effects.append(Stop(EXIT_RESTART, text, refused.refuse.greater))
        if refused.was_dial and not replaced:
            is_busy = reason == RefuseReason.BUSY
            self._dial_failed(refused.node, now, refused.refuse.retry_after_ms / 1000 if is_busy else 0.0)

    def _part(self, link: Link, now: float) -> None:
        """Close a link on which both ends said goodbye, once nothing is open on it. What waits for the next one, and
        holds a lease as well, is not."""
        leases = self.state.pool.slots[link.peer].leases - self.state.outbox.unsent(link.peer)
        is_silent = not (link.out or link.chunker.outgoing or link.chunker.incoming)
        if link.goodbye_sent and link.goodbye_heard and is_silent and not leases:
            self._change(self.state.peers.lost(link.conn, "goodbye", now), now)

    def _loop_back(self, now: float) -> None:
        """Take in what this node says to itself, until it is silent."""
        context, node = self.context, self.context.node
        while context.loopback:
            records, context.loopback = context.loopback, []
            for record in records:
                if isinstance(record, Request):
                    self.serving.offer(node, record, None, now)
                elif isinstance(record, Reply | Failure):
                    self.calling.reply(record, now)
                elif isinstance(record, Settled):
                    self.calling.settled(record, now)
                elif isinstance(record, GiveBack):
                    self._act(self.recovery.give_back(node, record, now), now)
                elif isinstance(record, Receipt):
                    self.calling.receipt(node, record, now)
                elif isinstance(record, Cancel):
                    self.serving.cancel(node, record, now)
                elif isinstance(record, FloorAsk):
                    self.floors.ask(node, record)
                elif isinstance(record, Ask):
                    self.answering.ask(node, record, now)
                else:
                    assert isinstance(record, Answer), record
                    self._act(self.recovery.answer(node, record, now), now)

    # What goes out

    def take(self, now: float) -> Output:
        """Return what has gathered since the last time, and forget it."""
        state, context = self.state, self.context
        if state.durable.entries or state.durable.left:
            self.spooling.flush(now)
        app_data: list[tuple[int, bytes]] = []
        link_data: list[tuple[int, bytes]] = []
        for conn, counter, refuse in context.farewells:
            app_data.extend((conn, data) for data in encode_split(counter, [refuse]))
        context.farewells.clear()
        for session in state.dirty_apps:
            app = state.apps.get(session)
            if app is None or app.conn is None:
                continue
            if app.accepted:
                app.out += [Accepted(part) for part in parts(to_ranges(app.accepted))]
                app.accepted.clear()
            if app.settled:
                app.out += [Settled(context.node, app.session, part) for part in parts(to_ranges(app.settled))]
                app.settled.clear()
            frames = encode_split(app.counter_out, app.out, app.protocol)
            app.counter_out += len(frames)
            if app.telling and self.calling.sending.flushed(app, app.counter_out):
                context.effects.append(Confirm(app.conn, app.counter_out))
            app.out.clear()
            app_data.extend((app.conn, frame) for frame in frames)
        state.dirty_apps.clear()
        dirty = [state.peers.links[conn] for conn in state.peers.dirty]
        for link in (*dirty, *state.peers.parting):
            frames = encode_split(link.counter_out, link.out, link.protocol)
            link.counter_out += len(frames)
            link.records_out += len(link.out)
            link.bytes_out += sum(map(len, frames))
            link.liveness.sent_at = now
            link.out.clear()
            link_data.extend((link.conn, frame) for frame in frames)
        state.peers.dirty.clear()
        state.peers.parting.clear()
        effects, context.effects = context.effects, []
        return Output(app_data, link_data, effects)
