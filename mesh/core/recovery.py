"""When a request's way is lost: it comes back, its link breaks, nobody answers, its time is up.

What never left, or may run twice, is placed again. What had left and must not run twice is asked about, on the next
link to where it went: NEVER lets it be placed again, RUNNING has it waited for, and LOST, or no answer within
``resume_grace_s``, ends it as Indeterminate.
"""

from mesh.core.calling import Calling
from mesh.core.context import Context
from mesh.core.link import Link
from mesh.core.outbox import Entry, Key, Place, TargetKey
from mesh.core.pool import Action
from mesh.core.records import Answer, Ask, Cancel, Failure, GiveBack, Kind, Receipt, Status, Verdict
from mesh.core.session import App

__all__ = ["Recovery"]

IDS_MAX = 4_096
"""Ids in one question."""

HIDE_S = 0.05
"""The shortest time for which an instance that gave work back is passed over."""


class Recovery:
    """What the calling half of a node does when something is lost."""

    def __init__(self, context: Context, calling: Calling) -> None:
        self.context = context
        self.state = context.state
        self.options = context.options
        self.calling = calling

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
        if entry is None or entry.place is Place.WAITING or entry.request.dispatch != record.dispatch:
            return []
        target = entry.target
        if target[0] != node:
            return []
        self.calling.unplace(entry, now)
        if record.status == Status.REJECTED:
            self.calling.end(key, self.calling.failure(entry.request, Status.REJECTED, record.text, record.limit), now)
            return []
        if record.status == Status.INDETERMINATE:
            entry.doubtful = True
            entry.attempts += record.limit == "attempts_max"
            if entry.attempts >= self.options.outbox.attempts_max:
                text = f"{entry.attempts} apps that had begun it are gone"
                failure = self.calling.failure(entry.request, Status.INDETERMINATE, text, "attempts_max")
                self.calling.end(key, failure, now)
                return []
        view = self.state.directory.views.get(entry.topic)
        if view is not None:
            pause_s = max(record.retry_after_ms / 1000, HIDE_S)
            for instance_key in [k for k in view.ready.keys if (k.node, k.session) == target]:
                self.state.directory.hide(entry.topic, instance_key, now + pause_s)
        entry.refusal = record
        actions = self.calling.replace(entry, now)
        entry.refusal = None
        return actions

    def dial_failed(self, node: str, now: float) -> list[Action]:
        """No link could be had to a node: what waits for it and never left may go elsewhere."""
        outbox = self.state.outbox
        actions: list[Action] = []
        for key in list(outbox.queues.get(node, ())):
            entry = outbox.entries.get(key)
            if entry is not None:
                self.calling.unplace(entry, now)
                actions += self.calling.replace(entry, now)
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
                entry.doubtful |= entry.place is Place.PLACED
                self.calling.unplace(entry, now)
                actions += self.calling.replace(entry, now)
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
        numbers = {target: self.state.outbox.question(target) for target in dict.fromkeys(e.target for e in lost)}
        for entry in lost:
            entry.asked_at = now
        for (target, reached), keys in groups.items():
            number = numbers[target]
            for start in range(0, len(keys), IDS_MAX):
                ask = Ask(self.context.node, incarnation, number, target[1], reached, keys[start : start + IDS_MAX])
                self.state.peers.say(link, ask)
        self.calling.flush_queue(link.peer, now)

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
                self.calling.unplace(entry, now)
                actions += self.calling.replace(entry, now)
            else:
                self._lost(entry, now)
        return actions

    def _lost(self, entry: Entry, now: float) -> None:
        text = f"{entry.target[0]} was lost after it had been sent there"
        self.calling.end(entry.key, self.calling.failure(entry.request, Status.INDETERMINATE, text), now)

    # Time passes

    def tick(self, now: float) -> None:
        """End what is due, and what nobody answers for. A topic that something waits for is in use."""
        for topic in self.state.outbox.waiting:
            self.calling.view(topic, now)
        for key in self.state.outbox.wheel.due(now):
            fan = self.state.fans.get(key)
            if fan is not None:
                self.calling.end_fan(key, fan, now)
                continue
            entry = self.state.outbox.entries[key]
            if entry.place in (Place.PLACED, Place.ASKED):
                self.context.answer(entry.target[0], Cancel(self.context.node, *key))
            self.calling.end(key, self._late(entry), now)
        for entry in self.state.outbox.overdue(self.options.outbox.resume_grace_s, now):
            self._lost(entry, now)

    def _late(self, entry: Entry) -> Failure:
        """Return the outcome of an entry whose deadline has passed."""
        request = entry.request
        if entry.place in (Place.PLACED, Place.ASKED):
            text = f"no answer from {entry.target[0]} within its time"
            return self.calling.failure(request, Status.INDETERMINATE, text)
        if entry.doubtful:
            text = "sent, lost, and not placed again within its time"
            return self.calling.failure(request, Status.INDETERMINATE, text)
        if entry.place is Place.QUEUED:
            pool, node = self.state.pool, entry.target[0]
            if pool.slot(node).wanted and pool.taken >= self.options.pool.links_max:
                text = f"no room for a link to {node} within its time"
                return self.calling.failure(request, Status.OVERLOADED, text, limit="links_max")
            if self.state.peers.open_link(node) is not None:
                text = f"the window of the link to {node} stayed full within its time"
                return self.calling.failure(request, Status.OVERLOADED, text, limit="credit_records")
            return self.calling.failure(request, Status.EXPIRED, f"no link to {node} within its time")
        return self.calling.failure(request, Status.EXPIRED, f"nobody was ready for {request.topic!r} within its time")

    def probe(self, now: float) -> list[Action]:
        """Dial the suspects that are listed still, while there is room: nobody would otherwise find out that they are
        well, since they are passed over."""
        peers, pool, actions = self.state.peers, self.state.pool, list[Action]()
        away = [node for node, peer in peers.peers.items() if peer.link is None and peers.is_suspect(node)]
        if not away:
            return actions
        listed = {key.node: None for view in self.state.directory.views.values() for key in view.ready.keys}
        for node in away:
            if node in listed and pool.taken < self.options.pool.links_max:
                actions += pool.want(node, self.options.pool, now)
        return actions

    def forget(self, app: App, now: float) -> None:
        """The app is gone: its calls are given up, its casts go on."""
        for entry in list(self.state.outbox.entries.values()):
            if entry.request.session == app.session and entry.request.kind == Kind.CALL:
                self.calling.cancel(app, Cancel(self.context.node, app.session, entry.request.seq), now)
