"""The serving agent: takes requests from other agents, hands them to its apps, and sends the answers back.

Read in the order of a message: `offer` remembers a request and puts it in a service's queue, `hand_out` gives it to
the app when the app can begin it, `reply` and `settled` end it. A request that cannot be run here is given back: only
the caller's agent places.

What has arrived has left its link's window: an app that begins nothing fills its own queue, and nobody else's way.

A fan-out that comes to a young agent may be meant for apps that were its predecessor's and are not back yet. It is
kept open for those that its sender counts, for ``resume_grace_s`` from the agent's start, and they get their part as
they come. Of those that do not come nobody can say whether they had it from the predecessor: they are unknown.
"""

from mesh.core import notes
from mesh.core.codec import held_bytes, weight
from mesh.core.context import SEQS_MAX, Context, parts
from mesh.core.effects import Level
from mesh.core.inbox import ENDED, EXPIRY_MARGIN_S, HANDED, QUEUED, Caller, Fifo, Handed, Id, Service
from mesh.core.link import Link
from mesh.core.policing import Policing
from mesh.core.ranges import expand, to_ranges
from mesh.core.records import (
    Cancel,
    Failure,
    GiveBack,
    Receipt,
    Reply,
    Request,
    Settled,
    Status,
)
from mesh.core.records import Serving as Served
from mesh.core.session import App
from mesh.core.stamps import SERVING_AGENT, arrive, depart, receive
from mesh.core.vocabulary import CAST, FANOUT
from mesh.types import TopicKey

__all__ = ["Serving"]

GONE_RETRY_MS = 1_000
"""For how long an instance that is gone here is passed over, unless the catalogue says something new."""

_UNTAKEN = (Status.UNROUTABLE, Status.OVERLOADED)
"""How an app says that it has not taken what it was handed: another instance may."""

QUEUE_SLACK = 64
"""Ids of requests that are gone which a queue may hold beside as many as are live."""


class Serving:
    """The serving half of a node."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.state = context.state
        self.options = context.options
        self.policing = Policing(context)

    def tick(self, now: float) -> None:
        """Forget what has expired."""
        for session, asks in list(self.state.questions.items()):
            asks[:] = [(at, ask) for at, ask in asks if now - at < self.options.outbox.resume_grace_s]
            if not asks:
                del self.state.questions[session]
        for handed in self.state.inbox.expired(now):
            if handed.stage is not ENDED:
                self._release(handed, now)
                self._leave_queue(handed)
        if self.state.gathering and not self._is_young(now):
            self.gather_no_more(now)

    # A request comes in

    def offer(self, node: str, request: Request, link: Link | None, now: float) -> None:
        """Take a request that ``node`` sent, by its link, or by this node itself (None)."""
        inbox = self.state.inbox
        if link is not None:
            link.take(weight(request, link.chunker.chunk_bytes))
            self.state.peers.grant(link)
        if request.node != node:
            self.context.note(notes.FOREIGN_RECORD, Level.WARNING, peer=node, claimed=request.node)
            return
        caller = inbox.caller(node, request.session, now)
        inbox.raise_floor(caller, request.floor)
        known = caller.handed.get(request.seq)
        if known is not None or request.seq < caller.floor:
            if known is not None:
                self.again(known, request)
            return
        refusal = None if self.context.law.idle else self.policing.arrived(node, request, now)
        if refusal is not None:
            self.context.answer(node, refusal)
            return
        expires = now + request.timeout_ms / 1000 + EXPIRY_MARGIN_S
        if request.trace is not None:
            request.trace = arrive(request.trace, SERVING_AGENT, self.context.node, now)
        handed = Handed(request, expires, held_bytes(request), target=request.target)
        if request.kind == FANOUT:
            self._offer_all(caller, handed, now)
        else:
            self._offer_one(caller, handed, now)

    def again(self, known: Handed, request: Request) -> None:
        """A copy of a request came: if that has ended the answer goes again, else the copy is the latest dispatch."""
        known.request.dispatch = request.dispatch
        if known.stage is not ENDED:
            return
        answer = known.answer
        if answer is None and request.kind == CAST:
            node, session, seq = known.id
            self.context.answer(node, Settled(node, session, [(seq, seq)]))
        elif answer is None:
            text = "it ran, and its reply is no longer kept"
            self.context.answer(request.node, self._failure(known.id, Status.INDETERMINATE, text, "answers_bytes"))
        else:
            self.context.answer(request.node, answer)

    def _offer_one(self, caller: Caller, handed: Handed, now: float) -> None:
        request = handed.request
        app = self.state.apps.get(request.target)
        service = app.services.get(request.topic) if app is not None and app.namespace == request.namespace else None
        if app is None or service is None or service.leaving or app.dead:
            self._give_back(handed, Status.UNROUTABLE, f"{request.topic!r} is not served here", "", GONE_RETRY_MS)
            return
        limit = service.full(self.options.inbox, handed.charged) or self.state.inbox.full(self.options.inbox)
        if limit is not None:
            text = f"{limit} is reached at {self.context.node}, for {request.topic!r}"
            self._give_back(handed, Status.OVERLOADED, text, limit, service.retry_after_ms(now))
            return
        self._keep(caller, handed, now)
        self._enqueue(app, service, handed, now)

    def _offer_all(self, caller: Caller, handed: Handed, now: float) -> None:
        """Hand a fan-out to every app of this node that serves its topic."""
        request = handed.request
        pairs: list[tuple[App, Service]] = []
        for app in self.state.apps.values():
            service = app.services.get(request.topic)
            if service is None or service.leaving or app.dead or app.namespace != request.namespace:
                continue
            if not request.server or request.server == service.server:
                pairs.append((app, service))
        limit = self.state.inbox.full(self.options.inbox)
        if limit is not None:
            self._give_back(handed, Status.OVERLOADED, f"{limit} is reached at {self.context.node}", limit, 0)
            return
        may_gather = len(pairs) < request.instances and self._is_young(now)
        if not pairs and not may_gather:
            self._give_back(handed, Status.UNROUTABLE, f"{request.topic!r} is not served here", "", GONE_RETRY_MS)
            return
        self._keep(caller, handed, now)
        if may_gather:
            self.state.gathering[handed.id] = None
        for app, service in pairs:
            self._add_part(handed, app, service)
        for app, service in pairs:
            if handed.parts[app.session] is QUEUED:
                self._enqueue(app, service, handed, now)
        self._parts_ended(handed, now)

    def _add_part(self, handed: Handed, app: App, service: Service) -> None:
        is_full = service.full(self.options.inbox, handed.charged) is not None
        handed.parts[app.session] = ENDED if is_full else QUEUED
        handed.failed += is_full

    def _is_young(self, now: float) -> bool:
        """Whether apps of the agent before this one may still come back."""
        return now - self.state.started_at < self.options.outbox.resume_grace_s and not self.state.draining

    def joined(self, app: App, service: Service, now: float) -> None:
        """An app serves a topic from now on: fan-outs that were kept open for it are its too."""
        for id in list(self.state.gathering):
            handed = self.state.inbox.find(id)
            if handed is None or handed.stage is ENDED:
                del self.state.gathering[id]
                continue
            request = handed.request
            is_meant = (request.namespace, request.topic) == (app.namespace, service.topic)
            if is_meant and request.server in ("", service.server) and app.session not in handed.parts:
                self._add_part(handed, app, service)
                if handed.parts[app.session] is QUEUED:
                    self._enqueue(app, service, handed, now)
                self._parts_ended(handed, now)

    def gather_no_more(self, now: float) -> None:
        """Who was to come back has, or is taken not to: fan-outs end with the parts that they have."""
        gathering, self.state.gathering = self.state.gathering, {}
        for id in gathering:
            handed = self.state.inbox.find(id)
            if handed is not None and handed.stage is not ENDED:
                self._parts_ended(handed, now)

    def _enqueue(self, app: App, service: Service, handed: Handed, now: float) -> None:
        """Have a request wait its turn with an app, which may be at once."""
        if not service.queued and app.conn is not None and service.may_begin(handed, self.options.inbox):
            self._begin(app, service, handed, now)
            return
        service.enqueue(handed, now)
        if len(service.queue.items) - service.queue.head > 2 * service.queued + QUEUE_SLACK:
            service.queue = self._live_queue(app, service)
        self.hand_out(app, service, now)

    def _live_queue(self, app: App, service: Service) -> Fifo:
        """Return a service's queue without what has left it out of turn, which else stays until its head moves."""
        found = [(id, self.state.inbox.find(id)) for id in service.queue.items[service.queue.head :]]
        return Fifo([id for id, handed in found if handed is not None and self._is_queued(handed, app)])

    def hand_out(self, app: App, service: Service, now: float) -> None:
        """Give the app what it can begin, oldest first."""
        if app.conn is None:
            return
        inbox = self.state.inbox
        while (id := service.queue.peek()) is not None:
            handed = inbox.find(id)
            if handed is None or not self._is_queued(handed, app):
                service.queue.pop()
                continue
            if not service.may_begin(handed, self.options.inbox):
                return
            service.queue.pop()
            service.unqueue(handed)
            self._begin(app, service, handed, now)

    def _begin(self, app: App, service: Service, handed: Handed, now: float) -> None:
        if handed.parts:
            handed.parts[app.session] = HANDED
        handed.stage = HANDED
        service.begin(handed)
        self._hand(app, handed, now)

    def _hand(self, app: App, handed: Handed, now: float) -> None:
        request = handed.request
        left_ms = round((handed.expires - EXPIRY_MARGIN_S - now) * 1000)
        request.timeout_ms = left_ms if left_ms > 0 else 1
        if request.trace is not None:
            request.trace = depart(request.trace, SERVING_AGENT, now)
        self.context.tell(app, request)

    def _is_queued(self, handed: Handed, app: App) -> bool:
        if handed.parts:
            return handed.parts.get(app.session) is QUEUED
        return handed.stage is QUEUED

    def _keep(self, caller: Caller, handed: Handed, now: float) -> None:
        """Remember a request; while it has not ended its caller's link is leased."""
        self.state.inbox.keep(caller, handed)
        if handed.request.node != self.context.node:
            self.state.pool.lease(handed.request.node, now)

    def _release(self, handed: Handed, now: float) -> None:
        if handed.request.node != self.context.node:
            self.state.pool.release(handed.request.node, now)

    def _end(self, handed: Handed, answer: Reply | Failure | Receipt | None, now: float) -> None:
        """A request has ended here."""
        if handed.stage is not ENDED:
            self._release(handed, now)
            self.state.inbox.end(handed, answer, self.options.inbox)

    def _erase(self, handed: Handed, now: float) -> None:
        """A request is as though it had never come."""
        self._release(handed, now)
        self.state.inbox.erase(handed)

    def _leave_queue(self, handed: Handed) -> None:
        """A request is forgotten: free its place in queues; where it runs, its worker stays taken until it ends."""
        for session in handed.parts or (handed.target,):
            app = self.state.apps.get(session)
            service = app.services.get(handed.request.topic) if app is not None else None
            if app is None or service is None:
                continue
            if self._is_queued(handed, app):
                if handed.parts:
                    handed.parts[session] = ENDED
                service.unqueue(handed)
            elif handed.id in service.running:
                service.overrun[handed.id] = handed.expires

    # It cannot be run here

    def _give_back(self, handed: Handed, status: Status, text: str, limit: str, retry_after_ms: int) -> None:
        """Return a request that is not, or no longer, remembered here."""
        request = handed.request
        record = GiveBack(*handed.id, request.dispatch, int(status), text, limit, retry_after_ms)
        self.context.answer(request.node, record)

    def give_back_queue(self, app: App, service: Service, text: str, now: float) -> None:
        """Return everything that waits for a service; its parts of fan-outs have failed."""
        while (id := service.queue.pop()) is not None:
            handed = self.state.inbox.find(id)
            if handed is None or not self._is_queued(handed, app):
                continue
            if handed.parts:
                handed.parts[app.session] = HANDED
                service.unqueue(handed)
                self._part_ended(handed, app.session, now, failed=True)
                continue
            service.unqueue(handed)
            self._erase(handed, now)
            self._give_back(handed, Status.UNROUTABLE, text, "", GONE_RETRY_MS)

    # It ends

    def reply(self, app: App, record: Reply | Failure, now: float) -> None:
        """The app answers a call."""
        id = (record.node, record.session, record.seq)
        handed = self.state.inbox.find(id)
        if handed is not None and handed.target != app.session:
            self.context.note(notes.FOREIGN_RECORD, Level.WARNING, app=app.name, claimed=record.node)
            return
        if isinstance(record, Failure):
            record.where = self.context.node
        elif record.trace is not None:
            receive(record.trace, now)
        if handed is not None:
            self._stop_running(app, handed, now)
            if isinstance(record, Failure) and record.status in _UNTAKEN and handed.stage is not ENDED:
                self._erase(handed, now)
                self._give_back(handed, Status(record.status), record.text, record.limit, GONE_RETRY_MS)
                return
            self._end(handed, record, now)
        else:
            self._overran(app, id, now)
        self.context.answer(record.node, record)

    def _stop_running(self, app: App, handed: Handed, now: float) -> None:
        """A worker of the app is free again, or what an earlier agent had handed to it needs none."""
        service = app.services.get(handed.request.topic)
        if service is not None and handed.id in service.running:
            self._free(app, service, handed.id, now)
        elif service is not None and self._is_queued(handed, app):
            if handed.parts:
                handed.parts[app.session] = HANDED
            service.unqueue(handed)

    def _overran(self, app: App, id: Id, now: float) -> None:
        """The app ended what was forgotten here when its time was over."""
        for service in list(app.services.values()):
            if service.overrun.pop(id, None) is not None:
                self._free(app, service, id, now)

    def _free(self, app: App, service: Service, id: Id, now: float) -> None:
        service.end(id, now)
        self.state.totals.served += 1
        if service.queued:
            self.hand_out(app, service, now)
        if service.leaving:
            self.finish_leaving(app, service)

    def finish_leaving(self, app: App, service: Service) -> None:
        """Tell an app that nothing of a topic is left with it, once that is so."""
        if service.leaving and not service.running and app.services.get(service.topic) is service:
            del app.services[service.topic]
            self.context.tell(app, Served(service.topic, service.server, False))
            topic = str(TopicKey(app.namespace, service.topic))
            self.context.note(notes.SERVICE_ENDED, Level.INFO, topic=topic, server=service.server, app=app.name)

    def settled(self, app: App, record: Settled, now: float) -> None:
        """The app's handlers ended casts and fan-outs of one calling session."""
        caller = self.state.inbox.callers.get((record.node, record.session))
        plain: list[int] = []
        for seq in expand(record.ranges, SEQS_MAX):
            handed = caller.handed.get(seq) if caller is not None else None
            if handed is None:
                self._overran(app, (record.node, record.session, seq), now)
                plain.append(seq)
                continue
            if not handed.parts and handed.target != app.session:
                self.context.note(notes.FOREIGN_RECORD, Level.WARNING, app=app.name, claimed=record.node)
                continue
            self._stop_running(app, handed, now)
            if handed.parts:
                self._part_ended(handed, app.session, now, failed=bool(record.failed))
                continue
            self._end(handed, None, now)
            plain.append(seq)
        if plain:
            for part in parts(to_ranges(plain)):
                self.context.answer(record.node, Settled(record.node, record.session, part, record.failed))

    def _part_ended(
        self, handed: Handed, session: int, now: float, *, failed: bool = False, lost: bool = False
    ) -> None:
        """One app is done with its part of a fan-out; after the last the caller's agent gets the counts."""
        if handed.parts.get(session) in (None, ENDED):
            return
        handed.parts[session] = ENDED
        handed.failed += failed
        handed.unknown += lost
        self._parts_ended(handed, now)

    def _parts_ended(self, handed: Handed, now: float) -> None:
        is_whole = len(handed.parts) >= handed.request.instances or handed.id not in self.state.gathering
        if is_whole and all(stage is ENDED for stage in handed.parts.values()):
            asked = len(handed.parts)
            finished = asked - handed.failed - handed.unknown
            receipt = Receipt(*handed.id, asked, finished, handed.failed, handed.unknown)
            self._end(handed, receipt, now)
            self.context.answer(handed.request.node, receipt)

    def cancel(self, node: str, cancel: Cancel, now: float) -> None:
        """The caller gave a request up: forget it if it waits, tell the handler if it runs."""
        handed = self.state.inbox.find((cancel.node, cancel.session, cancel.seq))
        if handed is None or cancel.node != node or handed.stage is ENDED:
            return
        if handed.stage is QUEUED:
            self._leave_queue(handed)
            self._erase(handed, now)
            return
        handed.cancelled = True
        for session in handed.parts or (handed.target,):
            app = self.state.apps.get(session)
            if app is not None:
                self.context.tell(app, cancel)

    # An agent asks; an app is lost

    def resumed(self, app: App, now: float) -> None:
        """An app is back: it is asked what waits to be asked, and handed again what its old socket may have lost. What
        overran is let go: its end may have been lost too, and nobody remembers enough to ask."""
        for _, ask in self.state.questions.pop(app.session, ()):
            self.context.tell(app, ask)
        for service in list(app.services.values()):
            for id in service.running:
                if id in service.overrun:
                    continue
                handed = self.state.inbox.find(id)
                assert handed is not None, id
                self._hand(app, handed, now)
                if handed.cancelled:
                    self.context.tell(app, Cancel(*id))
            for id in list(service.overrun):  # only now, for each that is let go lets another begin
                del service.overrun[id]
                self._free(app, service, id, now)
            self.hand_out(app, service, now)

    def lose(self, app: App, service: Service, now: float) -> None:
        """What an app had begun is unknown; what may run twice goes back. That is handed out ahead, so only the oldest
        of it, as many as there are workers, is charged with an attempt."""
        for number, id in enumerate(service.running):
            handed = self.state.inbox.find(id)
            if handed is None or handed.stage is ENDED:
                continue
            if handed.parts:
                self._part_ended(handed, app.session, now, lost=True)
            elif handed.is_call:
                failure = self._failure(id, Status.INDETERMINATE, f"the app that ran it at {self.context.node} is gone")
                self._end(handed, failure, now)
                self.context.answer(id[0], failure)
            else:
                self._erase(handed, now)
                limit = "attempts_max" if number < service.workers else ""
                self._give_back(handed, Status.INDETERMINATE, "the app that ran it is gone", limit, GONE_RETRY_MS)

    def _failure(self, id: Id, status: Status, text: str, limit: str = "") -> Failure:
        return Failure(*id, int(status), text, where=self.context.node, limit=limit)
