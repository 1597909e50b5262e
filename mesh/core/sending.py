"""The caller's agent sends: what was placed is put on its way, by the link to where it goes or around inside the node.

A reservation is made in the step that needs it: a link is leased when something is aimed at its node, or asked there,
and released when that is taken away again; a serving app that was not reached before takes a place of ``reach_max``.

What goes to a serving app that its own app has not reached before is held until the socket of its own app has taken in
that it does. Were this agent killed before, the next one would not know whom to ask. Likewise what a process died of
is held until its own app, or the disk, knows how often that was: the next agent goes on with the count.
"""

from msgspec import structs

from mesh.core.catalogue import Instance
from mesh.core.codec import weight
from mesh.core.context import Context
from mesh.core.durable import is_durable, is_sent_once
from mesh.core.fanout import Fan
from mesh.core.link import Link
from mesh.core.outbox import ASKED, PLACED, QUEUED, WAITING, Entry, Key, TargetKey
from mesh.core.pool import Action
from mesh.core.records import Reach, Request, Targets
from mesh.core.session import App
from mesh.core.stamps import ITS_AGENT, depart
from mesh.types import TopicKey

__all__ = ["Sending"]

UNTOLD = 0
"""The incarnation of a target that an app may reach, before the first request leaves for it."""

UNFLUSHED = -1
"""The batch that tells an app of a target, before it was flushed."""

ATTEMPTS = ""
"""Stands for the node where an app is told of attempts, not of a target."""


class Sending:
    """The ways from the calling half of a node to where requests go."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.state = context.state
        self.options = context.options

    # A target is reserved

    def may_reach(self, session: int, *targets: TargetKey) -> bool:
        """Reserve these targets for an app; False: they are more than it may have, even when those are let go that hold
        nothing of it."""
        app = self.state.apps.get(session)
        missing = [target for target in targets if target not in app.reached] if app is not None else []
        if app is None or not missing:
            return True
        room = self.options.outbox.reach_max - len(missing)
        if len(app.reached) > room:
            in_use = dict.fromkeys([*self.state.outbox.by_target, *targets])
            in_use.update(((node, 0), None) for fan in self.state.fans.values() for node in fan.pending)
            for node, serving in [target for target in app.reached if target not in in_use]:
                incarnation = app.reached.pop((node, serving))
                app.telling.pop((node, serving), None)
                if incarnation != UNTOLD:
                    self.context.tell(app, Reach(node, incarnation, serving, over=True))
        if len(app.reached) > room:
            return False
        app.reached.update(dict.fromkeys(missing, UNTOLD))
        return True

    def aim(self, entry: Entry, instance: Instance, now: float) -> list[Action]:
        """Reserve the instance and its link, and send if the link takes it now."""
        state = self.state
        node = instance.agent.node
        entry.request.target = instance.session
        state.outbox.aim(entry, (node, instance.session))
        if node == self.context.node:
            self.send_here(entry, now)
            return []
        state.pool.lease(node, now, entry.topic)
        link = state.peers.open_link(node)
        if link is not None and link.has_credit and node not in state.outbox.queues:
            self._send(link, entry, now)
            return []
        self.note_endpoint(instance)
        entry.place = QUEUED
        state.outbox.queue(node, entry.key)
        return state.pool.want(node, self.options.pool, now) if link is None else []

    def note_endpoint(self, instance: Instance) -> None:
        """Remember where the catalogue says that an agent is; a live link's own word is not overruled."""
        peer = self.state.peers.peer(instance.agent.node)
        if peer.link is None and peer.endpoint != instance.agent.endpoint:
            peer.endpoint = instance.agent.endpoint

    def _sent(self, entry: Entry, now: float) -> None:
        """The entry leaves for its target in this turn."""
        request = entry.request
        request.dispatch += 1
        left_ms = round((entry.deadline - now) * 1000)
        request.timeout_ms = left_ms if left_ms > 0 else 1
        if request.trace is not None:
            request.trace = depart(request.trace, ITS_AGENT, now)
        entry.place = PLACED
        if request.monitor_ms:
            entry.seen_at = now

    def send_here(self, entry: Entry, now: float) -> None:
        """Hand an entry to this node's own serving half, unless its app must know first, or it has to be on disk."""
        incarnation = self.state.peers.identity.incarnation
        if not self._is_told(entry.key, entry.target, incarnation):
            entry.place = QUEUED
            self.state.outbox.hold(self.context.node, entry.key)
            return
        if is_durable(entry.request) and self._must_mark(entry, incarnation):
            entry.place = QUEUED
            return
        self._sent(entry, now)
        self.context.loopback.append(entry.request)

    def _send(self, link: Link, entry: Entry, now: float) -> None:
        """Put an entry on its link's way out, unless its app must know that first, or it has to be on disk."""
        if not self._is_told(entry.key, entry.target, link.incarnation):
            entry.place = QUEUED
            self.state.outbox.hold(link.peer, entry.key)
            return
        if is_durable(entry.request) and self._must_mark(entry, link.incarnation):
            entry.place = QUEUED
            return
        self._sent(entry, now)
        entry.reached = link.incarnation
        link.charge(weight(entry.request, link.chunker.chunk_bytes))
        self._say(link, entry.request)

    def _say(self, link: Link, request: Request) -> None:
        """Put a request on a link's way out, a large body in chunks."""
        peers = self.state.peers
        if len(request.body) <= link.chunker.chunk_bytes:
            peers.say(link, request)
            return
        announcement, chunks = link.chunker.split(request)
        for record in (announcement, *chunks):
            peers.say(link, record)

    def _must_mark(self, entry: Entry, incarnation: int) -> bool:
        """Return whether something of a durable cast has to be on disk before it leaves, which is now written: where it
        goes, if it is sent once, or else how many processes died of it."""
        if is_sent_once(entry.request):
            return self.state.durable.must_mark(entry.key, (*entry.target, incarnation))
        return bool(entry.attempts) and self.state.durable.must_mark(entry.key, (ATTEMPTS, entry.attempts, 0))

    def _is_told(self, key: Key, target: TargetKey, incarnation: int) -> bool:
        """Return whether an app knows that its records go to a target, and of how many a process died; if not it is
        told."""
        app = self.state.apps.get(key[0])
        if app is None:
            return True
        if app.reached.get(target) == incarnation:
            return not app.telling or (target not in app.telling and (ATTEMPTS, key[1]) not in app.telling)
        app.reached[target] = incarnation
        self._reach(app, target)
        return False

    def charge(self, entry: Entry) -> None:
        """One more process died that had begun an unplaced entry: whoever keeps the truth of it is to know."""
        entry.attempts += 1
        app = self.state.apps.get(entry.request.session)
        if app is not None and not is_durable(entry.request):
            self._tell_attempts(app, entry)

    def _tell_attempts(self, app: App, entry: Entry) -> None:
        app.telling[ATTEMPTS, entry.request.seq] = UNFLUSHED
        self.context.tell(app, Targets(entry.request.seq, [], entry.attempts))

    def _reach(self, app: App, target: TargetKey) -> None:
        """Tell an app that its records go to a target."""
        app.telling[target] = UNFLUSHED
        identity = self.state.peers.identity
        node, serving = target
        endpoint = identity.endpoint if node == identity.node else self.state.peers.peer(node).endpoint
        host, port, public_key = endpoint if endpoint is not None else ("", 0, "")
        self.context.tell(app, Reach(node, app.reached[target], serving, host, port, public_key=public_key))

    def tell_again(self, app: App) -> None:
        """An app is back, which may not have been told all before its socket broke."""
        for node, number in list(app.telling):
            if node != ATTEMPTS:
                self._reach(app, (node, number))
                continue
            entry = self.state.outbox.entries.get((app.session, number))
            if entry is not None:
                self._tell_attempts(app, entry)
            else:
                del app.telling[node, number]

    def flushed(self, app: App, number: int) -> bool:
        """A batch for an app was flushed; return whether it tells the app of somebody."""
        fresh = [target for target, batch in app.telling.items() if batch == UNFLUSHED]
        app.telling.update(dict.fromkeys(fresh, number))
        return bool(fresh)

    def took(self, app: App, number: int, now: float) -> None:
        """An app's socket has taken in its batches up to a number: what was held until then goes."""
        for target in [target for target, batch in app.telling.items() if UNFLUSHED < batch <= number]:
            del app.telling[target]
        self.release_held(app.session, now)

    def release_held(self, session: int, now: float) -> None:
        """Send what was held until an app had been told of it, in its order; what must still wait is held again."""
        outbox = self.state.outbox
        nodes: dict[str, None] = {}
        for node, key in outbox.release(session):
            if node != self.context.node:
                outbox.queue(node, key)
                nodes[node] = None
            else:
                self.send_here(outbox.entries[key], now)
        for node in nodes:
            self.flush_queue(node, now)

    def flush_queue(self, node: str, now: float) -> None:
        """Send what waits for the link to a node, as far as its window goes."""
        outbox = self.state.outbox
        link = self.state.peers.open_link(node)
        queue = outbox.queues.get(node)
        while link is not None and queue and link.has_credit:
            key = next(iter(queue))
            outbox.unqueue(node, key)
            entry = outbox.entries.get(key)
            if entry is not None:
                self._send(link, entry, now)
                continue
            self._send_fan(link, self.state.fans[key], now)

    # A fan-out

    def fan_to(self, fan: Fan, key: Key, node: str, topic: TopicKey, now: float) -> list[Action]:
        state = self.state
        if node == self.context.node:
            self.context.loopback.append(self._fan_copy(fan, node, now))
            return []
        state.pool.lease(node, now, topic)
        state.outbox.queue(node, key)
        self.flush_queue(node, now)
        return state.pool.want(node, self.options.pool, now)

    def _send_fan(self, link: Link, fan: Fan, now: float) -> None:
        key = (fan.request.session, fan.request.seq)
        if not self._is_told(key, (link.peer, 0), link.incarnation):
            self.state.outbox.hold(link.peer, key)
            return
        link.charge(weight(fan.request, link.chunker.chunk_bytes))
        self._say(link, self._fan_copy(fan, link.peer, now))

    def _fan_copy(self, fan: Fan, node: str, now: float) -> Request:
        timeout_ms = max(1, round((fan.deadline - now) * 1000))
        dispatch, instances = fan.request.dispatch + 1, fan.pending.get(node, 0)
        return structs.replace(fan.request, timeout_ms=timeout_ms, dispatch=dispatch, instances=instances)

    # It is taken away again

    def release(self, node: str, now: float) -> None:
        if node != self.context.node:
            self.state.pool.release(node, now)

    def unplace(self, entry: Entry, now: float) -> None:
        """Take an entry away from where it was aimed, or asked about."""
        if entry.place is ASKED:
            for node, _ in entry.asked:
                self.release(node, now)
        elif entry.place is not WAITING:
            self.release(entry.target[0], now)
        self.state.outbox.unplace(entry)

    def ask(self, entry: Entry, targets: dict[TargetKey, int], now: float) -> None:
        """Have an unplaced entry asked about: it may be with any of these targets, of which incarnations."""
        self.state.outbox.ask(entry, targets, now)
        for node, _ in targets:
            if node != self.context.node:
                self.state.pool.lease(node, now)

    def not_there(self, entry: Entry, target: TargetKey, now: float) -> None:
        """One of the targets that were asked about an entry need not be waited for."""
        self.release(target[0], now)
        self.state.outbox.answered(entry, target)

    def is_there(self, entry: Entry, target: TargetKey, now: float) -> None:
        """An entry that was asked about is with this target."""
        reached = entry.asked[target]
        if target[0] != self.context.node:
            self.state.pool.lease(target[0], now, entry.topic)
        self.unplace(entry, now)
        self.state.outbox.aim(entry, target)
        entry.request.target = target[1]
        entry.reached, entry.place = reached, PLACED
        if is_sent_once(entry.request):
            self.state.durable.must_mark(entry.key, (*target, reached))
