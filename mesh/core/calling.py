"""The caller's agent: takes requests from its apps, places each with an instance, and tells how it ended.

Read in the order of a message: `request` checks and admits it, `_place` chooses an instance, `sending` puts it on the
way, `reply` (or `settled`, or `receipt`) ends it. When that does not go well, `recovery` decides.
"""

from mesh.core import notes
from mesh.core.catalogue import Instance
from mesh.core.codec import held_bytes
from mesh.core.context import SEQS_MAX, Context
from mesh.core.directory import Group, View
from mesh.core.durable import is_durable
from mesh.core.effects import Level, Unwatch, Watch
from mesh.core.fanout import Fan, by_node
from mesh.core.outbox import Entry, Key, TargetKey
from mesh.core.policing import Policing
from mesh.core.pool import Action
from mesh.core.ranges import expand
from mesh.core.records import (
    TIMEOUT_MS_MAX,
    Cancel,
    Failure,
    Flag,
    FloorAsk,
    Receipt,
    Reply,
    Request,
    Settled,
    Status,
    Targets,
)
from mesh.core.router import choose
from mesh.core.sending import Sending
from mesh.core.session import UNCHARGED, App, Outcome
from mesh.core.stamps import ITS_AGENT, arrive, receive
from mesh.core.vocabulary import CALL, CAST, FANOUT, RESUMED
from mesh.types import MessageId, TopicKey, name_problem

__all__ = ["Calling"]

LIMITS_MAX = 64
"""Options whose refusals are counted one by one; more would be names that a peer made up."""

_NOT_RUN = (Status.UNROUTABLE, Status.OVERLOADED, Status.EXPIRED, Status.REJECTED)
"""Outcomes that say of a request that nothing ran."""


class Calling:
    """The calling half of a node."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.state = context.state
        self.options = context.options
        self.sending = Sending(context)
        self.policing = Policing(context)

    # A request comes in

    def request(self, app: App, request: Request, now: float) -> list[Action]:
        """Take a request of a local app; return what the pool wants done for it."""
        state = self.state
        request.node, request.session, request.namespace = self.context.node, app.session, app.namespace
        request.user = app.who.user or ""
        if request.trace is not None:
            request.trace = arrive(request.trace, ITS_AGENT, self.context.node, now)
        if request.floor > app.floor:
            app.raise_floor(request.floor)
        key = (app.session, request.seq)
        if request.seq < app.floor or self.is_replay(app, key, request):
            return []
        charged = held_bytes(request)
        refusal = self.unfit(app, request, now) or self._refusal(app, request, charged)
        if refusal is None and self.options.outbox.rate_records_per_s:
            refusal = self.too_fast(app, request, now)
        topic = TopicKey(app.namespace, request.topic)
        view = None if refusal else self.view(topic, now)
        if refusal is None and view is None:
            refusal = self.failure(request, Status.OVERLOADED, "too many topics are in use here", "watches_max")
        if refusal is not None or view is None:
            assert refusal is not None
            self.refuse(app, request, refusal)
            return []
        app.admitted(charged)
        state.heats.count(topic)
        app.calls[request.topic] = now
        entry = Entry(request, topic, now + self.timeout_s(request), charged)
        sought: dict[TargetKey, int] = {}
        if self.may_have_left(app, request):
            entry.doubtful = entry.repeatable
            sought = {} if entry.repeatable else self.sought(app)
        state.outbox.admit(entry)
        if request.kind == CALL:
            state.totals.calls += 1
        else:
            state.totals.casts += request.kind == CAST
            state.totals.fanouts += request.kind == FANOUT
            self.accept(app, request.seq)
        told = app.targets_before.pop(request.seq, None) if app.targets_before else None
        if told is not None:
            entry.targets, entry.attempts = dict(told.nodes) or None, told.attempts
            if self.is_poison(entry, now):
                return []
        if sought:
            self.sending.ask(entry, sought, now)
            return []
        return self._place(entry, view, now)

    def refuse(self, app: App, request: Request, refusal: Failure) -> None:
        """Answer a request that is not taken; one that an earlier agent may have taken may have run."""
        is_doubtful = self.may_have_left(app, request) or (is_durable(request) and request.flags & RESUMED)
        if (refusal.status == Status.OVERLOADED or refusal.rule) and is_doubtful:
            refusal.status = int(Status.INDETERMINATE)
        self._count(refusal)
        self.context.tell(app, refusal)

    def is_replay(self, app: App, key: Key, request: Request) -> bool:
        """Return whether this request is held, or has ended; if so its app is told again what it may have missed."""
        seq = request.seq
        held = self.state.outbox.entries.get(key) or self.state.fans.get(key)
        if held is not None:
            if held.charged == UNCHARGED and not is_durable(request):
                held.charged = held_bytes(held.request)
                app.admitted(held.charged)
            if request.kind != CALL:
                self.accept(app, seq)
            return True
        if seq in app.outcomes:
            outcome = app.outcomes[seq]
            if outcome is None:
                self._settle(app, seq)
            else:
                self._tell(app, seq, outcome)
            return True
        return False

    def timeout_s(self, request: Request) -> float:
        limit = self.options.outbox.call_timeout_max_s if request.kind == CALL else TIMEOUT_MS_MAX / 1000
        return min(request.timeout_ms / 1000, limit)

    def unfit(self, app: App, request: Request, now: float) -> Failure | None:
        """Return what is wrong with a request's names or size, or which rule is against it, or None."""
        if (request.namespace, request.topic) not in self.state.directory.views or request.server:
            problem = name_problem("topic", request.topic)
            if problem is None and request.server:
                problem = name_problem("server", request.server)
            if problem:
                return self.failure(request, Status.REJECTED, problem)
        if len(request.body) > self.options.link.body_bytes_max:
            return self.too_large(request, len(request.body))
        return None if self.context.law.idle else self.policing.requested(app, request, now)

    def too_fast(self, app: App, request: Request, now: float) -> Failure | None:
        """Count a request against its app's rate; return the answer if it is over it.

        What an app repeats to a new agent comes at once, and an earlier one had taken it: it is counted ahead.
        """
        options = self.options.outbox
        owing = options.outstanding_records if request.flags & RESUMED else 0
        wait_s = app.bucket.take(options.rate_records_per_s, options.rate_burst_records, now, owing)
        if not wait_s:
            return None
        limit, retry_after_ms = "rate_records_per_s", min(TIMEOUT_MS_MAX, max(1, round(wait_s * 1000)))
        text = f"{limit} = {options.rate_records_per_s:g} is reached"
        return self.failure(request, Status.OVERLOADED, text, limit, retry_after_ms)

    def _refusal(self, app: App, request: Request, charged: int) -> Failure | None:
        """Return which limit keeps a request from being taken, or None."""
        options, limit = self.options.outbox, ""
        if app.records >= options.outstanding_records:
            limit = "outstanding_records"
        elif app.bytes and app.bytes + charged > options.outstanding_bytes:
            limit = "outstanding_bytes"
        elif request.seq - app.floor >= options.session_window:
            limit = "session_window"
        elif app.outcomes_bytes >= options.outcomes_bytes:
            limit = "outcomes_bytes"
        elif self.state.outbox.queued >= self.options.pool.waiting_records_max:
            limit = "waiting_records_max"
        return self.failure(request, Status.OVERLOADED, f"{limit} is reached", limit=limit) if limit else None

    def may_have_left(self, app: App, request: Request) -> bool:
        """Return whether an agent before this one may have sent this request."""
        return bool(request.flags & RESUMED and app.reached_before)

    def sought(self, app: App) -> dict[TargetKey, int]:
        """Return with whom an entry that must not run twice may be. No app has session 0, which stands for fan-outs."""
        return {target: incarnation for target, incarnation in app.reached_before.items() if target[1]}

    def too_large(self, request: Request, size: int) -> Failure:
        """Return the answer to a request whose body is over the limit."""
        limit = self.options.link.body_bytes_max
        text = f"a body of {size} bytes is over body_bytes_max = {limit}"
        return self.failure(request, Status.REJECTED, text, limit="body_bytes_max")

    def reject(self, app: App, request: Request, failure: Failure) -> None:
        """Answer a request that is not taken at all."""
        failure.node, failure.session = self.context.node, app.session
        self._count(failure)
        self.context.tell(app, failure)

    def failure(self, request: Request, status: Status, text: str, limit: str = "", retry_after_ms: int = 0) -> Failure:
        here = self.context.node
        return Failure(
            here, request.session, request.seq, int(status), text, here, limit, retry_after_ms=retry_after_ms
        )

    def view(self, topic: TopicKey, now: float) -> View | None:
        """Return what is known of a topic; one that was of no interest here begins to be watched."""
        directory = self.state.directory
        known = directory.views.get(topic)
        if known is not None and known.watched:
            known.used_at = now
            return known
        view, dropped = directory.use(topic, self.options.directory, now)
        self.context.effects += [Unwatch(old) for old in dropped]
        if view is not None:
            self.context.effects.append(Watch(topic))
        return view

    # An instance is chosen

    def _place(self, entry: Entry, view: View, now: float) -> list[Action]:
        """Aim an entry at an instance, or keep it until there is one, or end it."""
        request = entry.request
        if request.kind == FANOUT:
            return self._fan_out(entry, view, now)
        group = view.group(request.server)
        cursor = view.cursors.get(request.server)
        if cursor is None and len(group.keys) > 1:
            cursor = group.keys[self.state.rng.below(len(group.keys))]
        policy = self.options.router.policy_of(request.topic)
        instance = choose(
            policy, group, cursor, node=self.context.node, avoid=self._avoid, outstanding=self._outstanding
        )
        if instance is None:
            self._nobody(entry, view, now)
            return []
        view.cursors[request.server] = instance.key
        if not self.sending.may_reach(request.session, (instance.agent.node, instance.session)):
            return self._place_within_reach(entry, view, now)
        return self.sending.aim(entry, instance, now)

    def _place_within_reach(self, entry: Entry, view: View, now: float) -> list[Action]:
        """Aim an entry at an instance that its app has reached already, or end it: there is no room for another."""
        request, group = entry.request, Group()
        reached = self.state.apps[request.session].reached
        for one in view.group(request.server).instances:
            if (one.agent.node, one.session) in reached:
                group.add(one)
        policy, cursor = self.options.router.policy_of(request.topic), view.cursors.get(request.server)
        instance = choose(
            policy, group, cursor, node=self.context.node, avoid=self._avoid, outstanding=self._outstanding
        )
        if instance is None:
            self._out_of_reach(entry, now)
            return []
        view.cursors[request.server] = instance.key
        return self.sending.aim(entry, instance, now)

    def _out_of_reach(self, entry: Entry, now: float) -> None:
        """End an entry that may go to nobody, or have it wait if it is on disk."""
        if is_durable(entry.request):
            self.state.outbox.wait(entry)
            return
        status = Status.INDETERMINATE if entry.doubtful else Status.OVERLOADED
        text = f"this app has requests with reach_max = {self.options.outbox.reach_max} others, which cannot take it"
        self.end(entry.key, self.failure(entry.request, status, text, limit="reach_max"), now)

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
        """Nobody is ready for this entry: wait if somebody may come, or if it is on disk, else end it."""
        request, is_cast = entry.request, entry.request.kind == CAST
        full = view.full(request.server)
        if is_durable(request):
            self.state.outbox.wait(entry)
        elif full is not None and not (is_cast or request.flags & Flag.ROOM or entry.doubtful):
            refusal, until = full
            retry_after_ms = max(1, round((until - now) * 1000))
            self.end(
                entry.key, self.failure(request, Status.OVERLOADED, refusal.text, refusal.limit, retry_after_ms), now
            )
        elif request.flags & Flag.WAIT or self.state.directory.expected(view, request.server, patient=is_cast):
            entry.kept |= is_cast and view.known
            self.state.outbox.wait(entry)
        elif (is_cast and (entry.kept or request.flags & RESUMED)) or now < self.state.returning_until:
            self.state.outbox.wait(entry)
        elif entry.doubtful:
            text = f"sent and lost, and nobody serves {request.topic!r} now"
            self.end(entry.key, self.failure(request, Status.INDETERMINATE, text), now)
        else:
            self.end(entry.key, self._unroutable(request), now)

    def _unroutable(self, request: Request) -> Failure:
        name = f"{request.topic}@{request.server}" if request.server else request.topic
        where = f" in namespace {request.namespace!r}" if request.namespace else ""
        return self.failure(request, Status.UNROUTABLE, f"nobody serves {name!r}{where}")

    # Fan-out

    def _fan_out(self, entry: Entry, view: View, now: float) -> list[Action]:
        """Send to every node that has an instance; without any, or before they are known, all is as for a call."""
        request, key = entry.request, entry.key
        group = view.everybody(request.server)
        nodes = entry.targets or by_node(group)
        if not nodes or not (view.known or entry.targets):
            self._nobody(entry, view, now)
            return []
        if not self.sending.may_reach(request.session, *((node, 0) for node in nodes)):
            self._out_of_reach(entry, now)
            return []
        self.state.outbox.end(key)
        request.target = 0
        fan = Fan(request, entry.deadline, entry.charged, nodes, sum(nodes.values()))
        self.state.fans[key] = fan
        self.state.outbox.wheel.add(key, fan.deadline)
        app = self.state.apps.get(request.session)
        if app is not None:
            self.context.tell(app, Targets(request.seq, list(nodes.items())))
        actions: list[Action] = []
        for instance in group.instances:
            self.sending.note_endpoint(instance)
        for node in nodes:
            actions += self.sending.fan_to(fan, key, node, entry.topic, now)
        return actions

    def receipt(self, node: str, receipt: Receipt, now: float) -> None:
        """A node tells what became of its part of a fan-out."""
        fan = self.state.fans.get((receipt.session, receipt.seq))
        if fan is not None and node in fan.pending:
            fan.answered(node, receipt.finished, receipt.failed)
            self.state.outbox.unqueue(node, (receipt.session, receipt.seq))
            self.sending.release(node, now)
            if not fan.pending:
                self.end_fan((receipt.session, receipt.seq), fan, now)

    def end_fan(self, key: Key, fan: Fan, now: float) -> None:
        receipt = fan.receipt()
        del self.state.fans[key]
        self.state.outbox.wheel.remove(key, fan.deadline)
        for node in fan.pending:
            if not self.state.outbox.is_held(node, key) and key not in self.state.outbox.queues.get(node, {}):
                self.context.answer(node, Cancel(self.context.node, *key))
            self.state.outbox.unqueue(node, key)
            self.sending.release(node, now)
        app = self.state.apps.get(key[0])
        if app is not None:
            app.ended(fan.charged)
            self._tell(app, key[1], receipt)

    # It ends

    def reply(self, record: Reply | Failure, now: float) -> None:
        """An end came for a request; whoever it comes from, it counts."""
        if type(record) is Reply and record.trace is not None:
            receive(record.trace, now)
        self.end((record.session, record.seq), record, now)

    def settled(self, record: Settled, now: float) -> None:
        """Casts were ended by a handler; a part of a fan-out may be too, at a new agent, and its receipt follows."""
        if record.failed:
            self.state.totals.casts_failed += record.failed
            app = self.state.apps.get(record.session)
            name, session = app.name if app else "", f"{record.session:x}"
            self.context.note(notes.CAST_FAILED, Level.WARNING, app=name, session=session, failed=record.failed)
        entries = self.state.outbox.entries
        for seq in expand(record.ranges, SEQS_MAX):
            entry = entries.get((record.session, seq))
            if entry is not None and entry.request.kind != FANOUT:
                self.end((record.session, seq), None, now)

    def end(self, key: Key, outcome: Outcome, now: float) -> None:
        """End an entry, give back what it held, and tell its app. Of what was lost after it had left nobody can say
        that it did not run."""
        entry = self.state.outbox.entries.get(key)
        if entry is None:
            return
        if entry.doubtful and type(outcome) is Failure and outcome.status in _NOT_RUN:
            outcome.status = int(Status.INDETERMINATE)
        self.sending.unplace(entry, now)
        self.state.outbox.end(key)
        if is_durable(entry.request):
            failure = outcome if isinstance(outcome, Failure) else None
            self.state.durable.end(entry.request, failure, overdue=now >= entry.deadline)
            return
        app = self.state.apps.get(key[0])
        if app is None:
            return
        app.ended(entry.charged)
        self.conclude(app, key[1], outcome)

    def conclude(self, app: App, seq: int, outcome: Outcome) -> None:
        """Tell an app how its request ended; None: a handler ended its cast."""
        if outcome is None:
            self._settle(app, seq)
        else:
            self._tell(app, seq, outcome)

    def _tell(self, app: App, seq: int, outcome: Reply | Failure | Receipt) -> None:
        """Keep an outcome until the app's floor passes it, and send it."""
        if isinstance(outcome, Failure):
            self._count(outcome)
        app.keep(seq, outcome)
        self.context.tell(app, outcome)
        if 2 * app.outcomes_bytes > self.options.outbox.outcomes_bytes and not app.is_floor_asked:
            app.is_floor_asked = True
            self.context.tell(app, FloorAsk(self.context.node, app.session))

    def _count(self, failure: Failure) -> None:
        counts = self.state.totals.outcomes
        counts[failure.status] = counts.get(failure.status, 0) + 1
        if failure.limit:
            self.count_limit(failure.limit)

    def count_limit(self, limit: str) -> None:
        """Something was refused because an option's limit was reached."""
        limits = self.state.totals.limits
        if limit in limits or len(limits) < LIMITS_MAX:
            limits[limit] = limits.get(limit, 0) + 1

    def _settle(self, app: App, seq: int) -> None:
        app.keep(seq, None)
        app.settled.append(seq)
        self.state.dirty_apps[app.session] = None

    def accept(self, app: App, seq: int) -> None:
        """Tell an app that its cast or fan-out is held."""
        app.accepted.append(seq)
        self.state.dirty_apps[app.session] = None

    def cancel(self, app: App, cancel: Cancel, now: float) -> None:
        """The app gives a request of its own up: free what it holds, here and there."""
        key = (app.session, cancel.seq)
        fan = self.state.fans.get(key)
        if fan is not None:
            self.end_fan(key, fan, now)
            return
        entry = self.state.outbox.entries.get(key)
        if entry is None:
            self.state.durable.cancel(key)
            return
        if is_durable(entry.request) and now >= entry.deadline:
            return
        for node in entry.nodes:
            self.context.answer(node, Cancel(self.context.node, *key))
        failure = self.failure(entry.request, Status.CANCELLED, "its caller gave it up")
        self.end(key, failure, now)

    # It is placed again

    def replace(self, entry: Entry, now: float) -> list[Action]:
        """Place an unplaced entry once more."""
        view = self.view(entry.topic, now)
        if view is None and is_durable(entry.request):
            self.state.outbox.wait(entry)
            return []
        if view is None:
            status = Status.INDETERMINATE if entry.doubtful else Status.OVERLOADED
            text = "too many topics are in use here"
            self.end(entry.key, self.failure(entry.request, status, text, limit="watches_max"), now)
            return []
        return self._place(entry, view, now)

    def is_poison(self, entry: Entry, now: float) -> bool:
        """Return whether so many processes died of an unplaced entry that it is not placed again, and end it then."""
        if entry.attempts < self.options.outbox.attempts_max:
            return False
        request = entry.request
        text = f"{entry.attempts} apps that had begun it are gone"
        facts = {"topic": str(entry.topic), "server": request.server}
        message = str(MessageId(self.context.node, request.session, request.seq))
        self.context.note(notes.POISONED, Level.ERROR, message=message, **facts, why=text)
        self.state.totals.poisoned += 1
        self.end(entry.key, self.failure(request, Status.INDETERMINATE, text, "attempts_max"), now)
        return True

    def topic_changed(self, topic: TopicKey, now: float) -> list[Action]:
        """Somebody came, went, or is ready again: what waits for the topic is placed or ended."""
        actions: list[Action] = []
        view = self.state.directory.views.get(topic)
        if view is None:
            return actions
        for entry in self.state.outbox.unwait(topic):
            actions += self._place(entry, view, now)
        return actions
