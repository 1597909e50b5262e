"""The node and its spool: what came of writing and reading, and what is to be done about it.

The way of a durable cast: `keep` has it written; `_written` accepts it and gives it to `Calling` to place,
or leaves it on disk for `_fetched`; `Calling.end` has its end written, and `_landed` tells it. After a restart
`_opened` finds what is left, and `_fetched` places it: with its old identity, so that whoever had it knows it. What
must not be sent twice and may have left is asked about instead.
"""

from collections.abc import Callable
from typing import Any

from msgspec import MsgspecError

from mesh.core import notes
from mesh.core.calling import Calling
from mesh.core.context import Context
from mesh.core.durable import Ending, Phase, is_durable, is_sent_once, size_of, unpack
from mesh.core.effects import Level, Spool
from mesh.core.ledger import (
    Away,
    Committed,
    Dead,
    Done,
    Expire,
    Expired,
    Fetched,
    Kept,
    Open,
    Opened,
    Put,
    Refused,
    Sent,
    Show,
    Shown,
    Standing,
    Sweep,
    Unread,
    Word,
)
from mesh.core.outbox import Entry, Key, Place
from mesh.core.pool import Action
from mesh.core.records import BODY_INLINE_MAX, Query, Report, Request, Status
from mesh.core.session import App
from mesh.types import TopicKey

__all__ = ["SHOW_VERBS", "Spooling"]

SHOW_VERBS = ("dead_list", "dead_show", "dead_retry", "dead_purge")
"""What an app may ask of dead letters."""

TICK_S = 1.0
"""How often the spool is asked for what is past its time."""

SETTLED = 1 << 62
"""A floor above every seq: of a session that is gone."""


class Spooling:
    """What a node does with the words of its spool."""

    def __init__(self, context: Context, calling: Calling) -> None:
        self.context = context
        self.state = context.state
        self.options = context.options
        self.calling = calling
        self.durable = context.state.durable
        self.verbs: dict[type, Callable[[Any, float], list[Action]]] = {
            Opened: self._opened,
            Away: self._away,
            Committed: self._committed,
            Refused: self._refused,
            Fetched: self._fetched,
            Unread: self._unread,
            Shown: self._shown,
        }

    def start(self) -> None:
        """There is a spool: have it opened."""
        self.durable.phase = Phase.OPENING
        self.context.effects.append(Spool(Open()))

    def word(self, word: Word, now: float) -> list[Action]:
        """Take what came of the oldest job that is not answered."""
        return self.verbs[type(word)](word, now)

    def flush(self, now: float) -> None:
        """Have written what has gathered, and read what there is room for."""
        commit = self.durable.commit(now)
        if commit is not None:
            self.context.effects.append(Spool(commit))
        fetch = self.durable.fetch(self.options.durable) if self.durable.left else None
        if fetch is not None:
            self.context.effects.append(Spool(fetch))

    def tick(self, now: float) -> None:
        """Open again what was away; have the spool forget what it may."""
        durable = self.durable
        if durable.phase is Phase.AWAY and now >= durable.retry_at:
            self.start()
        if durable.phase is Phase.OPEN and now - durable.ticked_at >= TICK_S:
            durable.ticked_at = now
            apps = self.state.apps
            durable.sweep({session: apps[session].floor for session in durable.ended if session in apps})
            if now - self.state.started_at >= self.options.outbox.resume_grace_s:
                durable.ended = {session: floor for session, floor in durable.ended.items() if session in apps}
            durable.expire()
            durable.tidy()

    def forget(self, app: App) -> None:
        """An app is gone for good: nobody replays its casts."""
        self.durable.sweep({app.session: SETTLED})
        self.durable.ended.pop(app.session, None)

    # A durable cast comes in

    def keep(self, app: App, request: Request, now: float) -> None:
        """Have a durable cast of a local app written, or refuse it."""
        durable, calling = self.durable, self.calling
        request.node, request.session, request.namespace = self.context.node, app.session, app.namespace
        app.raise_floor(request.floor)
        key = (app.session, request.seq)
        if request.seq < app.floor or calling.is_replay(app, key, request) or durable.knows(key):
            return
        request.user = app.who.user or ""
        failure = calling.unfit(app, request, now)
        refusal = durable.refusal(request, self.options.durable) if failure is None else None
        if refusal is not None:
            status, limit, text = refusal
            failure = calling.failure(request, status, text, limit)
        if failure is None and self.options.outbox.rate_records_per_s:
            failure = calling.too_fast(app, request, now)
        if failure is not None:
            calling.refuse(app, request, failure)
        else:
            app.calls[request.topic] = now
            durable.put(request, now + calling.timeout_s(request), now)

    # It opens

    def _opened(self, opened: Opened, now: float) -> list[Action]:
        durable, totals = self.durable, opened.totals
        durable.phase, durable.why, durable.stuck = Phase.OPEN, "", False
        durable.totals, durable.last = totals, opened.last
        durable.reopened()
        for survey in opened.topics:
            durable.leave(survey.topic, survey.records)
        durable.ended = dict.fromkeys(opened.ended, 0)
        if opened.aside:
            self.context.note(notes.SPOOL_SET_ASIDE, Level.ERROR, why=opened.aside)
        facts = {"records": totals.records, "bytes": totals.bytes, "dead": totals.dead}
        self.context.note(notes.SPOOL_OPENED, Level.INFO, **facts)
        for entry in self.state.outbox.entries.values():
            if is_durable(entry.request):
                durable.write(entry.request, entry.deadline, now)
                mark = durable.marks.get(entry.key)
                if mark is not None:
                    durable.entries.append(Sent(*entry.key, mark[0], mark[1], mark[2]))
        return []

    def _away(self, away: Away, now: float) -> list[Action]:
        durable = self.durable
        if durable.why != away.why:
            self.context.note(notes.SPOOL_AWAY, Level.ERROR, why=away.why)
        durable.phase, durable.why = Phase.AWAY, away.why
        durable.again(self._untake(durable.take_back(), away.why), now)
        return []

    # It is written

    def _committed(self, committed: Committed, now: float) -> list[Action]:
        durable, actions = self.durable, list[Action]()
        durable.totals = committed.totals
        entries, puts = durable.landed(), iter(committed.puts)
        if durable.recovered(entries, now):
            self.context.note(notes.SPOOL_BACK, Level.INFO)
        for entry in entries:
            if isinstance(entry, Put):
                actions += self._written(entry, *next(puts), now)
            elif isinstance(entry, Done | Dead):
                self._landed((entry.session, entry.seq))
            elif isinstance(entry, Sent):
                actions += self._marked(entry, now)
        for expired in committed.expired:
            self._expired(expired, now)
        return actions

    def _written(self, put: Put, standing: Standing, number: int, text: str, now: float) -> list[Action]:
        """A cast is on disk, or was before."""
        durable = self.durable
        unwritten = durable.written(put)
        if unwritten is None:
            shelf = durable.shelf(put.topic)
            shelf.after = max(shelf.after, number)
            return []
        request, app = unwritten.request, self.state.apps.get(put.session)
        if app is not None and standing in (Standing.NEW, Standing.LIVE):
            self.calling.accept(app, put.seq)
        elif app is not None:
            durable.ended.setdefault(put.session, 0)
            failure = self.calling.failure(request, Status.INDETERMINATE, f"it is a dead letter: {text}")
            self.calling.conclude(app, put.seq, None if standing is Standing.DONE else failure)
        if standing is not Standing.NEW:
            return []
        self.state.totals.casts += 1
        self.state.heats.count(put.topic)
        may_have_left = app is not None and self.calling.may_have_left(app, request)
        if not durable.has_room(request, self.options.durable):
            durable.leave(put.topic, 1)
            if may_have_left:
                durable.unsure[put.session, put.seq] = None
            return []
        durable.hold(request, number)
        entry = self._admit(request, unwritten.deadline)
        return self._seek(entry, now) if may_have_left else self.calling.replace(entry, now)

    def _seek(self, entry: Entry, now: float) -> list[Action]:
        """Place an entry whose app repeats it and of which this disk knew nothing. An earlier agent, if it had another
        disk, may have sent it: what must not be sent twice is sought first where the app has requests."""
        self.calling.view(entry.topic, now)
        entry.doubtful = entry.repeatable
        app = self.state.apps.get(entry.request.session)
        if entry.repeatable:
            return self.calling.replace(entry, now)
        if app is None:
            text = "its app is gone, and an earlier disk of its agent with it: it may have been sent"
            self.calling.end(entry.key, self.calling.failure(entry.request, Status.INDETERMINATE, text), now)
            return []
        sought = self.calling.sought(app)
        if not sought:
            return self.calling.replace(entry, now)
        self.calling.sending.ask(entry, sought, now)
        return []

    def _admit(self, request: Request, deadline: float) -> Entry:
        entry = Entry(request, TopicKey(request.namespace, request.topic), deadline, size_of(request))
        self.state.outbox.admit(entry)
        return entry

    def _landed(self, key: Key) -> None:
        """The end of a cast is on disk: now its app may know."""
        self.durable.ended.setdefault(key[0], 0)
        ending = self.durable.ending.pop(key, None)
        if ending is not None:
            self._conclude(key, ending)

    def _conclude(self, key: Key, ending: Ending) -> None:
        app = self.state.apps.get(key[0])
        if app is not None and not ending.told:
            ending.told = True
            self.calling.conclude(app, key[1], ending.failure)

    def _marked(self, sent: Sent, now: float) -> list[Action]:
        """That a cast may be with an instance, or what died of it, is on disk: now it may leave, if it still goes."""
        durable, key = self.durable, (sent.session, sent.seq)
        entry = self.state.outbox.entries.get(key)
        if entry is None or durable.marking.get(key) != (sent.node, sent.target, sent.incarnation):
            return []
        durable.marks[key] = durable.marking.pop(key)
        node, outbox = entry.target[0], self.state.outbox
        is_meant = not sent.node or entry.target == (sent.node, sent.target)
        if entry.place is not Place.QUEUED or not is_meant or key in outbox.queues.get(node, ()):
            return []
        if node == self.context.node:
            self.calling.sending.send_here(entry, now)
            return []
        outbox.queue(node, key)
        self.calling.sending.flush_queue(node, now)
        return self.state.pool.want(node, self.options.pool, now)

    def _expired(self, expired: Expired, now: float) -> None:
        """The spool made a dead letter of what was past its time there: left on disk, or held here by a clock that
        stood still while the machine slept."""
        key = (expired.session, expired.seq)
        entry = self.state.outbox.entries.get(key)
        is_doubtful = expired.number <= self.durable.last or key in self.durable.unsure
        self.durable.unsure.pop(key, None)
        status = Status.INDETERMINATE if is_doubtful else Status.EXPIRED
        request = entry.request if entry is not None else Request(0, expired.seq, "", "", 0, b"")
        request.session = expired.session
        failure = self.calling.failure(request, status, "its time was over before anybody took it")
        if entry is not None:
            self.calling.end(key, failure, now)
        else:
            self._conclude(key, Ending(failure))

    def _refused(self, refused: Refused, now: float) -> list[Action]:
        """The disk would not take a commit: what is new is refused, what has ended is tried again."""
        durable = self.durable
        self._trouble(refused.why, now)
        durable.again(self._untake(durable.landed(), refused.why), now)
        if refused.lost and durable.phase is Phase.OPEN:
            self.start()
        return []

    def _trouble(self, why: str, now: float) -> None:
        if self.durable.refused(why, now):
            self.context.note(notes.SPOOL_REFUSES, Level.ERROR, why=why)

    def _untake(self, entries: list[Any], why: str) -> list[Any]:
        """Refuse the casts among what was not written; return what has to be, later. An end is told now, but of what
        must not be sent twice: its serving app may forget it then, and only the disk would know."""
        later: list[Any] = []
        for entry in entries:
            unwritten = self.durable.written(entry) if isinstance(entry, Put) else None
            if unwritten is not None:
                app = self.state.apps.get(entry.session)
                if app is not None:
                    failure = self.calling.failure(unwritten.request, Status.OVERLOADED, why, "spool_disk")
                    self.calling.refuse(app, unwritten.request, failure)
                continue
            if isinstance(entry, Sweep):
                self.durable.ended[entry.session] = 0
            elif not isinstance(entry, Expire):
                later.append(entry)
            ending = self.durable.ending.get((entry.session, entry.seq)) if isinstance(entry, Done | Dead) else None
            if ending is not None and not ending.once:
                self._conclude((entry.session, entry.seq), ending)
        return later

    # It is read

    def _fetched(self, fetched: Fetched, now: float) -> list[Action]:
        self.durable.fetched(fetched.topic, len(fetched.rows), more=fetched.more)
        actions: list[Action] = []
        for row in fetched.rows:
            actions += self._resume(fetched.topic, row, now)
        return actions

    def _resume(self, topic: TopicKey, row: Kept, now: float) -> list[Action]:
        """Go on with a row as if it had just been written; an earlier agent may have sent it."""
        durable = self.durable
        try:
            request = unpack(row.record)
        except MsgspecError as error:
            durable.shelf(topic).after = row.number
            durable.entries.append(Dead(row.session, row.seq, "unreadable", str(error)))
            return []
        request.node, request.session, request.seq = self.context.node, row.session, row.seq
        durable.hold(request, row.number)
        entry = self._admit(request, now + row.left_s)
        if entry.key in durable.unsure:
            del durable.unsure[entry.key]
            return self._seek(entry, now)
        entry.doubtful = row.number <= durable.last
        node, target, reached = row.sent
        if target:
            durable.marks[entry.key] = row.sent
        if not is_sent_once(request):
            entry.attempts = target
            return [] if self.calling.is_poison(entry, now) else self.calling.replace(entry, now)
        if not node:
            return self.calling.replace(entry, now)
        self.calling.view(topic, now)
        if node != self.context.node:
            self._locate(node)
        self.calling.sending.ask(entry, {(node, target): reached}, now)
        return []

    def _locate(self, node: str) -> None:
        """Have a node that is to be asked be known, by the catalogue, now or with the next snapshot."""
        peer, listed = self.state.peers.peer(node), self.state.directory.agent(node)
        if peer.endpoint is None and listed is not None:
            peer.endpoint = listed.endpoint

    def _unread(self, unread: Unread, now: float) -> list[Action]:
        self._trouble(unread.why, now)
        self.durable.stuck = True  # for the moment: a disk that cannot be read is not asked again at once
        self.durable.fetching = False
        if unread.lost and self.durable.phase is Phase.OPEN:
            self.start()
        return []

    # People ask

    def show(self, app: App, query: Query) -> None:
        """An app asks about dead letters, or has something done with them."""
        if self.durable.phase is Phase.OPEN:
            self.context.effects.append(Spool(Show(app.session, query.seq, query.what, query.arguments or {})))
        else:
            why = self.durable.why or "the spool is being opened: ask again"
            text = "this agent has no spool" if self.durable.phase is Phase.NONE else why
            self.context.tell(app, Report(query.seq, False, text.encode()))

    def _shown(self, shown: Shown, now: float) -> list[Action]:
        if shown.totals is not None:
            self.durable.totals = shown.totals
        for survey in shown.revived:
            self.durable.leave(survey.topic, survey.records)
        app = self.state.apps.get(shown.session)
        if app is not None:
            ok = shown.ok and len(shown.body) <= BODY_INLINE_MAX
            text = f"the answer has {len(shown.body)} bytes, over the {BODY_INLINE_MAX} that a report may have".encode()
            self.context.tell(app, Report(shown.seq, ok, shown.body if ok or not shown.ok else text))
        return []
