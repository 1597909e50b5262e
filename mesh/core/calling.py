"""The caller's agent: takes requests from its apps, places each with an instance, and tells how it ended.

Read in the order of a message: `request` checks and admits it, `_place` chooses an instance, `_aim` puts it on the
way, `reply` (or `settled`, `give_back`, `receipt`) ends it. The rest is for when that does not go well: `link_lost`,
`answer`, `tick`.
"""

from msgspec import structs

from mesh.core import notes
from mesh.core.catalogue import Instance
from mesh.core.codec import weight
from mesh.core.context import Context
from mesh.core.directory import View
from mesh.core.effects import Level, Unwatch, Watch
from mesh.core.fanout import Fan, by_node
from mesh.core.link import Link
from mesh.core.outbox import Entry, Key, Place, TargetKey
from mesh.core.pool import Action
from mesh.core.ranges import expand
from mesh.core.records import (
    TIMEOUT_MS_MAX,
    Answer,
    Ask,
    Cancel,
    Failure,
    Flag,
    GiveBack,
    Kind,
    Reach,
    Receipt,
    Reply,
    Request,
    Settled,
    Status,
    Targets,
    Verdict,
)
from mesh.core.router import choose
from mesh.core.session import App, Outcome
from mesh.types import TopicKey, name_problem

__all__ = ["Calling"]

SEQS_MAX = 1 << 16
"""Seqs that one record may settle."""

IDS_MAX = 4_096
"""Ids in one question."""


class Calling:
    """The calling half of a node."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.state = context.state
        self.options = context.options

    # A request comes in

    def request(self, app: App, request: Request, now: float) -> list[Action]:
        """Take a request of a local app; return what the pool wants done for it."""
        state = self.state
        request.node, request.session, request.namespace = self.context.node, app.session, app.namespace
        app.raise_floor(request.floor)
        key = (app.session, request.seq)
        if request.seq < app.floor or self._is_replay(app, key, request):
            return []
        charged = weight(request, self.options.link.chunk_bytes)
        refusal = self._refusal(app, request, charged)
        topic = TopicKey(app.namespace, request.topic)
        view = None if refusal else self._view(topic, now)
        if refusal is None and view is None:
            refusal = self._failure(request, Status.OVERLOADED, "too many topics are in use here", limit="watches_max")
        if refusal is not None or view is None:
            assert refusal is not None
            self._tell(app, request.seq, refusal)
            return []
        app.admitted(charged)
        state.heats.count(topic)
        deadline = now + self._timeout_s(request)
        if request.kind == Kind.FANOUT:
            state.totals.fanouts += 1
            return self._fan_out(app, request, view, deadline, charged, now)
        entry = Entry(request, topic, deadline, charged)
        state.outbox.admit(entry)
        if request.kind == Kind.CAST:
            state.totals.casts += 1
            self._accept(app, request.seq)
        else:
            state.totals.calls += 1
        return self._place(entry, view, now)

    def _is_replay(self, app: App, key: Key, request: Request) -> bool:
        """Return whether this request is held, or ended, already; if so its app is told again what it may have missed."""
        seq = request.seq
        if key in self.state.outbox.entries or key in self.state.fans:
            if request.kind != Kind.CALL:
                self._accept(app, seq)
            return True
        if seq in app.outcomes:
            outcome = app.outcomes[seq]
            if outcome is None:
                self._settle(app, seq)
            else:
                self._tell(app, seq, outcome)
            return True
        return False

    def _timeout_s(self, request: Request) -> float:
        limit = self.options.outbox.call_timeout_max_s if request.kind == Kind.CALL else TIMEOUT_MS_MAX / 1000
        return min(request.timeout_ms / 1000, limit)

    def _refusal(self, app: App, request: Request, charged: int) -> Failure | None:
        """Return why a request is not taken, or None."""
        options = self.options.outbox
        if (app.namespace, request.topic) not in self.state.directory.views or request.server:
            problem = name_problem("topic", request.topic)
            if problem is None and request.server:
                problem = name_problem("server", request.server)
            if problem:
                return self._failure(request, Status.REJECTED, problem)
        if len(request.body) > self.options.link.body_bytes_max:
            return self.too_large(request, len(request.body))
        limit = ""
        if app.records >= options.outstanding_records:
            limit = "outstanding_records"
        elif app.bytes + charged > options.outstanding_bytes:
            limit = "outstanding_bytes"
        elif request.seq - app.floor >= options.session_window:
            limit = "session_window"
        elif self.state.outbox.queued >= self.options.pool.waiting_records_max:
            limit = "waiting_records_max"
        return self._failure(request, Status.OVERLOADED, f"{limit} is reached", limit=limit) if limit else None

    def too_large(self, request: Request, size: int) -> Failure:
        """Return the answer to a request whose body is over the limit."""
        limit = self.options.link.body_bytes_max
        text = f"a body of {size} bytes is over body_bytes_max = {limit}"
        return self._failure(request, Status.REJECTED, text, limit="body_bytes_max")

    def reject(self, app: App, request: Request, failure: Failure) -> None:
        """Answer a request that is not taken at all."""
        failure.node, failure.session = self.context.node, app.session
        self._tell(app, request.seq, failure)

    def _failure(
        self, request: Request, status: Status, text: str, limit: str = "", retry_after_ms: int = 0
    ) -> Failure:
        return Failure(
            self.context.node,
            request.session,
            request.seq,
            int(status),
            text,
            where=self.context.node,
            limit=limit,
            retry_after_ms=retry_after_ms,
        )

    def _view(self, topic: TopicKey, now: float) -> View | None:
        """Return what is known of a topic; a topic that is new here begins to be watched."""
        directory = self.state.directory
        is_new = topic not in directory.views
        view, dropped = directory.use(topic, self.options.directory, now)
        self.context.effects.extend(Unwatch(old) for old in dropped)
        if is_new and view is not None:
            self.context.effects.append(Watch(topic))
        return view

    # An instance is chosen

    def _place(self, entry: Entry, view: View, now: float) -> list[Action]:
        """Aim an entry at an instance, or keep it until there is one, or end it."""
        request = entry.request
        group = view.group(request.server)
        if view.cursor is None and len(group.keys) > 1:
            view.cursor = group.keys[self.state.rng.below(len(group.keys))]
        policy = self.options.router.policy_of(request.topic)
        instance = choose(
            policy, group, view.cursor, node=self.context.node, avoid=self._avoid, outstanding=self._outstanding
        )
        if instance is None:
            self._nobody(entry, view, now)
            return []
        view.cursor = instance.key
        return self._aim(entry, instance, now)

    def _avoid(self, instance: Instance) -> bool:
        """Return whether an instance is passed over while there is another choice: suspect, draining, or full."""
        node = instance.agent.node
        if node == self.context.node:
            return False
        peers = self.state.peers
        if peers.is_suspect(node):
            return True
        link = peers.open_link(node)
        return link is not None and (not link.has_credit or node in self.state.outbox.queues)

    def _outstanding(self, instance: Instance) -> int:
        return self.state.outbox.outstanding((instance.agent.node, instance.session))

    def _nobody(self, entry: Entry, view: View, now: float) -> None:
        """Nobody is ready for this entry: wait if somebody may come, else end it."""
        request = entry.request
        refusal = entry.refusal
        if refusal is not None and refusal.status == Status.OVERLOADED:
            failure = self._failure(
                request, Status.OVERLOADED, refusal.text, refusal.limit, retry_after_ms=refusal.retry_after_ms
            )
            self._end(entry.key, failure, now)
        elif request.flags & Flag.WAIT or self.state.directory.expected(
            view, request.server, patient=request.kind == Kind.CAST
        ):
            self.state.outbox.wait(entry)
        else:
            self._end(entry.key, self._unroutable(request), now)

    def _unroutable(self, request: Request) -> Failure:
        name = f"{request.topic}@{request.server}" if request.server else request.topic
        where = f" in namespace {request.namespace!r}" if request.namespace else ""
        return self._failure(request, Status.UNROUTABLE, f"nobody serves {name!r}{where}")

    # It is put on its way

    def _aim(self, entry: Entry, instance: Instance, now: float) -> list[Action]:
        """Reserve the instance and its link, and send if the link takes it now."""
        state, request = self.state, entry.request
        node = instance.agent.node
        request.target = instance.session
        state.outbox.aim(entry, (node, instance.session))
        if node == self.context.node:
            self._sent(entry, now)
            self.context.loopback.append(request)
            return []
        state.pool.lease(node, now, entry.topic)
        self._note_endpoint(instance)
        link = state.peers.open_link(node)
        if link is not None and link.has_credit and node not in state.outbox.queues:
            self._send(link, entry, now)
            return []
        entry.place = Place.QUEUED
        state.outbox.queue(node, entry.key)
        return state.pool.want(node, self.options.pool, now) if link is None else []

    def _note_endpoint(self, instance: Instance) -> None:
        """Remember where the catalogue says that an agent is; a live link's own word is not overruled."""
        peer = self.state.peers.peer(instance.agent.node)
        if peer.link is None and peer.endpoint != instance.agent.endpoint:
            peer.endpoint = instance.agent.endpoint

    def _sent(self, entry: Entry, now: float) -> None:
        """The entry leaves for its target in this turn."""
        request = entry.request
        request.dispatch += 1
        request.timeout_ms = max(1, round((entry.deadline - now) * 1000))
        entry.place = Place.PLACED
        entry.ever_placed = True

    def _send(self, link: Link, entry: Entry, now: float) -> None:
        self._sent(entry, now)
        entry.reached = link.incarnation
        self._reach(entry.request.session, link)
        link.charge(entry.charged)
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

    def _reach(self, session: int, link: Link) -> None:
        """Tell the app, before its first record goes to a node, that it does."""
        app = self.state.apps.get(session)
        if app is not None and app.reached.get(link.peer) != link.incarnation:
            app.reached[link.peer] = link.incarnation
            self.context.tell(app, Reach(link.peer, link.incarnation))

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

    # Fan-out

    def _fan_out(
        self, app: App, request: Request, view: View, deadline: float, charged: int, now: float
    ) -> list[Action]:
        """Send to every node that has an instance; without any the answer is as to a call."""
        nodes = by_node(view.group(request.server))
        key = (app.session, request.seq)
        if not nodes:
            app.ended(charged)
            self._tell(app, request.seq, self._unroutable(request))
            return []
        request.target = 0
        fan = Fan(request, deadline, charged, nodes, sum(nodes.values()))
        self.state.fans[key] = fan
        self.state.outbox.wheel.add(key, deadline)
        self.context.tell(app, Targets(request.seq, list(nodes.items())))
        self._accept(app, request.seq)
        actions: list[Action] = []
        leads = {i.agent.node: i for i in view.group(request.server).instances}
        for node, instance in leads.items():
            actions += self._fan_to(fan, key, node, instance, now)
        return actions

    def _fan_to(self, fan: Fan, key: Key, node: str, instance: Instance, now: float) -> list[Action]:
        state = self.state
        if node == self.context.node:
            self.context.loopback.append(self._fan_copy(fan, now))
            return []
        state.pool.lease(node, now, instance.topic_key)
        self._note_endpoint(instance)
        state.outbox.queue(node, key)
        self.flush_queue(node, now)
        return state.pool.want(node, self.options.pool, now)

    def _send_fan(self, link: Link, fan: Fan, now: float) -> None:
        self._reach(fan.request.session, link)
        link.charge(fan.charged)
        self._say(link, self._fan_copy(fan, now))

    def _fan_copy(self, fan: Fan, now: float) -> Request:
        timeout_ms = max(1, round((fan.deadline - now) * 1000))
        return structs.replace(fan.request, timeout_ms=timeout_ms, dispatch=fan.request.dispatch + 1)

    def receipt(self, node: str, receipt: Receipt, now: float) -> None:
        """A node tells what became of its part of a fan-out."""
        fan = self.state.fans.get((receipt.session, receipt.seq))
        if fan is not None and node in fan.pending:
            fan.answered(node, receipt.finished, receipt.failed)
            self._release(node, now)
            if not fan.pending:
                self._end_fan((receipt.session, receipt.seq), fan, now)

    def _end_fan(self, key: Key, fan: Fan, now: float) -> None:
        receipt = fan.receipt()
        del self.state.fans[key]
        self.state.outbox.wheel.remove(key, fan.deadline)
        for node in fan.pending:
            self.state.outbox.unqueue(node, key)
            self._release(node, now)
        app = self.state.apps.get(key[0])
        if app is not None:
            app.ended(fan.charged)
            self._tell(app, key[1], receipt)

    # It ends

    def reply(self, record: Reply | Failure, now: float) -> None:
        """An end came for a request; whoever it comes from, it counts."""
        self._end((record.session, record.seq), record, now)

    def settled(self, record: Settled, now: float) -> None:
        """Casts were ended by a handler."""
        if record.failed:
            self.context.note(notes.CAST_FAILED, Level.WARNING, session=record.session, failed=record.failed)
        for seq in expand(record.ranges, SEQS_MAX):
            self._end((record.session, seq), None, now)

    def _end(self, key: Key, outcome: Outcome, now: float) -> None:
        """End an entry, give back what it held, and tell its app."""
        entry = self.state.outbox.end(key)
        if entry is None:
            return
        if entry.place is not Place.WAITING:
            self._release(entry.target[0], now)
        app = self.state.apps.get(key[0])
        if app is None:
            return
        app.ended(entry.charged)
        if outcome is None:
            self._settle(app, key[1])
        else:
            self._tell(app, key[1], outcome)

    def _release(self, node: str, now: float) -> None:
        if node != self.context.node:
            self.state.pool.release(node, now)

    def _tell(self, app: App, seq: int, outcome: Reply | Failure | Receipt) -> None:
        """Keep an outcome until the app's floor passes it, and send it."""
        if isinstance(outcome, Failure):
            counts = self.state.totals.outcomes
            counts[outcome.status] = counts.get(outcome.status, 0) + 1
        app.outcomes[seq] = outcome
        self.context.tell(app, outcome)

    def _settle(self, app: App, seq: int) -> None:
        app.outcomes[seq] = None
        app.settled.append(seq)
        self.state.dirty_apps[app.session] = None

    def _accept(self, app: App, seq: int) -> None:
        app.accepted.append(seq)
        self.state.dirty_apps[app.session] = None

    def cancel(self, app: App, cancel: Cancel, now: float) -> None:
        """The app gives a request of its own up: free what it holds, here and there."""
        key = (app.session, cancel.seq)
        fan = self.state.fans.get(key)
        if fan is not None:
            self._end_fan(key, fan, now)
            return
        entry = self.state.outbox.entries.get(key)
        if entry is None:
            return
        if entry.ever_placed and entry.place is not Place.WAITING:
            self.context.answer(entry.target[0], Cancel(self.context.node, *key))
        failure = self._failure(entry.request, Status.CANCELLED, "its caller gave it up")
        self._end(key, failure, now)

    # It comes back, or its way is lost

    def give_back(self, node: str, record: GiveBack, now: float) -> list[Action]:
        """A serving agent did not run this dispatch: place it elsewhere. What it says of the instance is remembered."""
        key = (record.session, record.seq)
        fan = self.state.fans.get(key)
        if fan is not None:
            self.receipt(node, Receipt(self.context.node, *key, 0, 0, fan.pending.get(node, 0), 0), now)
            return []
        entry = self.state.outbox.entries.get(key)
        if entry is None or entry.place is Place.WAITING or entry.request.dispatch != record.dispatch:
            return []
        target = entry.target
        if target[0] != node:
            return []
        self._unplace(entry, now)
        entry.refusal = record
        if record.status == Status.REJECTED:
            self._end(key, self._failure(entry.request, Status.REJECTED, record.text, record.limit), now)
            return []
        view = self.state.directory.views.get(entry.topic)
        if view is not None:
            pause_s = max(record.retry_after_ms / 1000, 0.05)
            for instance_key in [k for k in view.ready.keys if (k.node, k.session) == target]:
                self.state.directory.hide(entry.topic, instance_key, now + pause_s)
        return self._replace(entry, now)

    def _unplace(self, entry: Entry, now: float) -> None:
        if entry.place is not Place.WAITING:
            self._release(entry.target[0], now)
        self.state.outbox.unplace(entry)

    def _replace(self, entry: Entry, now: float) -> list[Action]:
        """Place an unplaced entry once more."""
        view = self._view(entry.topic, now)
        if view is None:
            text = "too many topics are in use here"
            self._end(entry.key, self._failure(entry.request, Status.OVERLOADED, text, limit="watches_max"), now)
            return []
        return self._place(entry, view, now)

    def topic_changed(self, topic: TopicKey, now: float) -> list[Action]:
        """Somebody came, went, or is ready again: what waits for the topic is placed or ended."""
        actions: list[Action] = []
        view = self.state.directory.views.get(topic)
        if view is None:
            return actions
        for entry in self.state.outbox.unwait(topic):
            actions += self._place(entry, view, now)
        return actions

    def dial_failed(self, node: str, now: float) -> list[Action]:
        """No link could be had to a node: what waits for it and never left may go elsewhere."""
        outbox = self.state.outbox
        actions: list[Action] = []
        for key in list(outbox.queues.get(node, ())):
            entry = outbox.entries.get(key)
            if entry is not None:
                self._unplace(entry, now)
                actions += self._replace(entry, now)
        if outbox.queues.get(node) or any(e.place is Place.ASKED for e in outbox.at_node(node)):
            actions += self.state.pool.want(node, self.options.pool, now)
        return actions

    def link_lost(self, node: str, now: float) -> list[Action]:
        """The link to a node is gone: what was outstanding there is placed again, or asked about."""
        outbox = self.state.outbox
        actions: list[Action] = []
        for entry in outbox.at_node(node):
            if entry.place is Place.ASKED:
                continue
            if entry.place is Place.QUEUED or entry.repeatable:
                self._unplace(entry, now)
                actions += self._replace(entry, now)
            else:
                outbox.ask_about(entry, now)
        for key, fan in self.state.fans.items():
            if node in fan.pending and key not in outbox.queues.get(node, {}):
                outbox.queue(node, key)
        if outbox.queues.get(node) or any(e.place is Place.ASKED for e in outbox.at_node(node)):
            actions += self.state.pool.want(node, self.options.pool, now)
        return actions

    def link_opened(self, link: Link, now: float) -> None:
        """A link to a node is open: ask about what was lost there, and send what waits for it."""
        lost = [entry for entry in self.state.outbox.at_node(link.peer) if entry.place is Place.ASKED]
        groups: dict[tuple[TargetKey, int], list[Key]] = {}
        for entry in lost:
            groups.setdefault((entry.target, entry.reached), []).append(entry.key)
        incarnation = self.state.peers.identity.incarnation
        for (target, reached), keys in groups.items():
            number = self.state.outbox.question(target)
            for start in range(0, len(keys), IDS_MAX):
                ask = Ask(self.context.node, incarnation, number, target[1], reached, keys[start : start + IDS_MAX])
                self.state.peers.say(link, ask)
        self.flush_queue(link.peer, now)

    def answer(self, node: str, answer: Answer, now: float) -> list[Action]:
        """The serving side says what became of what it was asked about; only the latest question counts."""
        outbox = self.state.outbox
        target = (node, answer.target)
        latest = outbox.questions.get(target)
        if answer.incarnation != self.state.peers.identity.incarnation or answer.number != latest:
            return []
        actions: list[Action] = []
        for key, verdict in zip(answer.ids, answer.verdicts, strict=False):
            entry = outbox.entries.get(key)
            if entry is None or entry.place is not Place.ASKED or entry.target != target:
                continue
            if verdict == Verdict.RUNNING:
                outbox.known(entry)
            elif verdict == Verdict.NEVER:
                self._unplace(entry, now)
                actions += self._replace(entry, now)
            else:
                self._lost(entry, now)
        return actions

    def _lost(self, entry: Entry, now: float) -> None:
        text = f"{entry.target[0]} was lost after it had been sent there"
        self._end(entry.key, self._failure(entry.request, Status.INDETERMINATE, text), now)

    # Time passes

    def tick(self, now: float) -> None:
        """End what is due, and what nobody answers for."""
        for key in self.state.outbox.wheel.due(now):
            fan = self.state.fans.get(key)
            if fan is not None:
                self._end_fan(key, fan, now)
                continue
            entry = self.state.outbox.entries[key]
            if entry.ever_placed and entry.place is not Place.WAITING:
                self.context.answer(entry.target[0], Cancel(self.context.node, *key))
            self._end(key, self._late(entry), now)
        for entry in self.state.outbox.overdue(self.options.outbox.resume_grace_s, now):
            self._lost(entry, now)

    def _late(self, entry: Entry) -> Failure:
        """Return the outcome of an entry whose deadline has passed."""
        request = entry.request
        if entry.place in (Place.PLACED, Place.ASKED):
            text = f"no answer from {entry.target[0]} within its time"
            return self._failure(request, Status.INDETERMINATE, text)
        if entry.ever_placed and entry.repeatable:
            return self._failure(request, Status.INDETERMINATE, "sent, lost, and not placed again within its time")
        if entry.place is Place.QUEUED:
            pool, node = self.state.pool, entry.target[0]
            if pool.slot(node).wanted and pool.taken >= self.options.pool.links_max:
                text = f"no room for a link to {node} within its time"
                return self._failure(request, Status.OVERLOADED, text, limit="links_max")
            if self.state.peers.open_link(node) is not None:
                text = f"the window of the link to {node} stayed full within its time"
                return self._failure(request, Status.OVERLOADED, text, limit="credit_records")
            return self._failure(request, Status.EXPIRED, f"no link to {node} within its time")
        return self._failure(request, Status.EXPIRED, f"nobody was ready for {request.topic!r} within its time")

    def forget(self, app: App, now: float) -> None:
        """The app is gone: its calls are given up, its casts go on."""
        for entry in list(self.state.outbox.entries.values()):
            if entry.request.session == app.session and entry.request.kind == Kind.CALL:
                self.cancel(app, Cancel(self.context.node, app.session, entry.request.seq), now)
