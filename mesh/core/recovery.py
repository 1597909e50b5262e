"""When a request's way is lost: it comes back, its link breaks, nobody answers, its time is up.

What never left, or may run twice, is placed again. What had left and must not run twice is asked about, on the next
link to where it went: NEVER lets it be placed again, RUNNING has it waited for, and LOST, or no answer within
``resume_grace_s``, ends it as Indeterminate.

The same is asked when the loss was that of our own agent: its successor is told by the app whom it had reached, and
asks each of them. An id is with one of them at most, so one RUNNING is enough, and NEVER is needed of all.
"""

from mesh.core.calling import Calling
from mesh.core.context import Context
from mesh.core.link import Link
from mesh.core.monitor import MONITOR, Monitor
from mesh.core.outbox import Entry, Key, Place, TargetKey
from mesh.core.pool import Action
from mesh.core.records import Answer, Ask, Cancel, Failure, GiveBack, Kind, Receipt, Status, Verdict
from mesh.core.session import UNCHARGED, App
from mesh.types import Endpoint

__all__ = ["Recovery"]

IDS_MAX = 4_096
"""Ids in one question."""

NOT_OURS = 0
"""The dispatch of a request that this agent has not sent: what another gives back, an earlier agent had sent."""

NAMED_MAX = 5
"""Nodes that a text names."""

HIDE_S = 0.05
"""The shortest time for which an instance that gave work back is passed over."""


class Recovery:
    """What the calling half of a node does when something is lost."""

    def __init__(self, context: Context, calling: Calling) -> None:
        self.context = context
        self.state = context.state
        self.options = context.options
        self.calling = calling
        self.sending = calling.sending
        self.monitor = Monitor(context, calling)

    # It comes back, or its way is lost

    def give_back(self, node: str, record: GiveBack, now: float) -> list[Action]:
        """A serving agent gives this dispatch back: place it elsewhere. What it says of the instance is remembered.

        It has not run, or, where the status is INDETERMINATE, it was with an app that is gone.
        """
        key = (record.session, record.seq)
        fan = self.state.fans.get(key)
        if fan is not None:
            self.calling.receipt(node, Receipt(self.context.node, *key, 0, 0, fan.pending.get(node, 0), 0), now)
            return []
        entry = self.state.outbox.entries.get(key)
        if entry is None or node not in entry.nodes or entry.request.dispatch not in (record.dispatch, NOT_OURS):
            return []
        target = entry.target
        self.sending.unplace(entry, now)
        if record.status == Status.REJECTED:
            failure = self.calling.failure(entry.request, Status.REJECTED, record.text, record.limit)
            failure.where, failure.rule = node, record.rule
            self.calling.end(key, failure, now)
            return []
        if record.status == Status.INDETERMINATE:
            entry.doubtful = True
            if record.limit == "attempts_max":
                self.sending.charge(entry)
            if self.calling.is_poison(entry, now):
                return []
        view = self.state.directory.views.get(entry.topic)
        if view is not None:
            pause_s = max(record.retry_after_ms / 1000, HIDE_S) * self.state.rng.uniform(1.0, 1.25)
            refusal = record if record.status == Status.OVERLOADED else None
            for instance_key in [k for k in view.ready.keys if (k.node, k.session) == target]:
                self.state.directory.hide(entry.topic, instance_key, now + pause_s, refusal)
        return self.calling.replace(entry, now)

    def dial_failed(self, node: str, now: float) -> list[Action]:
        """No link could be had to a node: what waits for it and never left may go elsewhere."""
        outbox = self.state.outbox
        actions: list[Action] = []
        for key in list(outbox.queues.get(node, ())):
            entry = outbox.entries.get(key)
            if entry is not None:
                self.sending.unplace(entry, now)
                actions += self.calling.replace(entry, now)
        if outbox.queues.get(node) or any(target[0] == node for target in outbox.inquiries):
            actions += self.state.pool.want(node, self.options.pool, now)
        return actions

    def link_lost(self, node: str, now: float, *, idle: bool) -> list[Action]:
        """The link to a node is gone: what was outstanding there is placed again, or asked about.

        ``idle``: it was closed in order, for nothing used it. What came to wait for the next one goes on waiting:
        placed again, it could meet one link after the other just when that closes.
        """
        outbox = self.state.outbox
        actions: list[Action] = []
        outbox.ask_anew(node, now)
        waiting = outbox.queues.get(node, {}) if idle else {}
        for entry in outbox.at_node(node):
            if entry.key in waiting:
                continue
            is_placed = entry.place is Place.PLACED
            self.sending.unplace(entry, now)
            if is_placed and not entry.repeatable:
                self.sending.ask(entry, {entry.target: entry.reached}, now)
            else:
                entry.doubtful |= is_placed
                actions += self.calling.replace(entry, now)
        for key, fan in self.state.fans.items():
            if node in fan.pending and key not in outbox.queues.get(node, {}):
                outbox.unqueue(node, key)
                outbox.queue(node, key)
        if outbox.queues.get(node):
            actions += self.state.pool.want(node, self.options.pool, now)
        return actions + self.inquire(now)

    def link_opened(self, link: Link, now: float) -> list[Action]:
        """A link to a node is open: ask about what was lost there, and send what waits for it."""
        self.state.outbox.ask_anew(link.peer, now)
        actions = self.inquire(now)
        self.sending.flush_queue(link.peer, now)
        return actions

    # What is not known is asked

    def locate(self, node: str, endpoint: Endpoint) -> None:
        """An app says where its last agent knew that of a node; the catalogue, and a link's own word, know better."""
        peer = self.state.peers.peer(node)
        if peer.endpoint is None:
            listed = self.state.directory.agent(node)
            peer.endpoint = endpoint if listed is None else listed.endpoint

    def inquire(self, now: float) -> list[Action]:
        """Ask what is new to be asked, where there is a link; have one opened where there is none."""
        actions: list[Action] = []
        for target in list(self.state.outbox.unasked):
            node = target[0]
            link = self.state.peers.open_link(node)
            if link is not None or node == self.context.node:
                self._ask(target)
            else:
                del self.state.outbox.unasked[target]
                actions += self.state.pool.want(node, self.options.pool, now)
        return actions

    def _ask(self, target: TargetKey) -> None:
        """Ask one target what is new to be asked, on the open link to its node: a question for each incarnation."""
        node, session = target
        number, keys = self.state.outbox.question(target)
        groups: dict[int, list[Key]] = {}
        for key in keys:
            groups.setdefault(self.state.outbox.entries[key].asked[target], []).append(key)
        incarnation = self.state.peers.identity.incarnation
        for reached, asked in groups.items():
            for start in range(0, len(asked), IDS_MAX):
                ids = asked[start : start + IDS_MAX]
                self.context.answer(node, Ask(self.context.node, incarnation, number, session, reached, ids))

    def answer(self, node: str, answer: Answer, now: float) -> list[Action]:
        """The serving side says what became of what it was asked about; only what the live link asked counts."""
        outbox = self.state.outbox
        if answer.number == MONITOR:
            self.monitor.heard(node, answer, now)
            return []
        target = (node, answer.target)
        inquiry = outbox.inquiries.get(target)
        if inquiry is None or answer.incarnation != self.state.peers.identity.incarnation:
            return []
        actions: list[Action] = []
        for key, verdict in zip(answer.ids, answer.verdicts, strict=False):
            if answer.number == inquiry.number and key in inquiry.keys:
                actions += self._judge(outbox.entries[key], target, verdict, now)
        return actions

    def _judge(self, entry: Entry, target: TargetKey, verdict: int, now: float) -> list[Action]:
        """A target has said whether it has an entry, or will not say it any more."""
        if verdict == Verdict.RUNNING:
            self.sending.is_there(entry, target, now)
            return []
        if verdict != Verdict.NEVER:
            entry.lost = target[0]
        if len(entry.asked) > 1:
            self.sending.not_there(entry, target, now)
            return []
        self.sending.unplace(entry, now)
        if not entry.lost:
            return self.calling.replace(entry, now)
        text = f"{entry.lost} was lost after it had been sent there"
        if entry.request.dispatch == NOT_OURS:
            text = f"its agent was lost, and {entry.lost} cannot say whether it was sent there"
        self.calling.end(entry.key, self.calling.failure(entry.request, Status.INDETERMINATE, text), now)
        return []

    # Time passes

    def tick(self, now: float) -> list[Action]:
        """End what is due, and what nobody answers for. A topic that something waits for is in use."""
        for topic in self.state.outbox.waiting:
            self.calling.view(topic, now)
        for key in self.state.outbox.wheel.due(now):
            fan = self.state.fans.get(key)
            if fan is not None:
                self.calling.end_fan(key, fan, now)
                continue
            entry = self.state.outbox.entries[key]
            for node in entry.nodes:
                self.context.answer(node, Cancel(self.context.node, *key))
            self.calling.end(key, self._late(entry), now)
        actions: list[Action] = []
        for target in self.state.outbox.overdue(self.options.outbox.resume_grace_s, now):
            for key in list(self.state.outbox.inquiries[target].keys):
                actions += self._judge(self.state.outbox.entries[key], target, Verdict.LOST, now)
        return actions + self.monitor.tick(now) + self.inquire(now)

    def _late(self, entry: Entry) -> Failure:
        """Return the outcome of an entry whose deadline has passed."""
        request = entry.request
        if entry.nodes:
            text = f"no answer from {', '.join(entry.nodes[:NAMED_MAX])} within its time"
            return self.calling.failure(request, Status.INDETERMINATE, text)
        if entry.doubtful:
            text = "sent, lost, and not placed again within its time"
            return self.calling.failure(request, Status.INDETERMINATE, text)
        if entry.place is Place.QUEUED:
            pool, node = self.state.pool, entry.target[0]
            if self.state.outbox.is_held(node, entry.key):
                text = f"its app did not read within its time that it would go to {node}"
                return self.calling.failure(request, Status.EXPIRED, text)
            if pool.slot(node).wanted and pool.taken >= self.options.pool.links_max:
                text = f"no room for a link to {node} within its time"
                return self.calling.failure(request, Status.OVERLOADED, text, limit="links_max")
            if self.state.peers.open_link(node) is not None:
                text = f"the window of the link to {node} stayed full within its time"
                return self.calling.failure(request, Status.OVERLOADED, text, limit="credit_records")
            return self.calling.failure(request, Status.EXPIRED, f"no link to {node} within its time")
        return self.calling.failure(request, Status.EXPIRED, f"nobody was ready for {request.topic!r} within its time")

    def probe(self, now: float) -> list[Action]:
        """Dial the suspects that are listed still, while there is room: they are passed over, and nobody would find out
        that they are well before their time as suspects is over."""
        pool, actions = self.state.pool, list[Action]()
        suspects = self.state.peers.suspects(now)
        if not suspects:
            return actions
        listed = {key.node: None for view in self.state.directory.views.values() for key in view.ready.keys}
        for node in suspects:
            if node in listed and pool.taken < self.options.pool.links_max:
                actions += pool.want(node, self.options.pool, now)
        return actions

    def forget(self, app: App, now: float) -> None:
        """The app is gone: its calls are given up, its casts go on."""
        for entry in list(self.state.outbox.entries.values()):
            if entry.request.session == app.session and entry.request.kind == Kind.CALL:
                self.calling.cancel(app, Cancel(self.context.node, app.session, entry.request.seq), now)
            elif entry.request.session == app.session:
                entry.charged = UNCHARGED
        for fan in self.state.fans.values():
            if fan.request.session == app.session:
                fan.charged = UNCHARGED
