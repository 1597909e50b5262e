"""The app hop: what local apps say, and whose word it is.

A connection is nobody's until its first batch brings a HELLO; then it is its session's. A session moves to a newer
connection of the same app, never to an older one.
"""

from collections.abc import Callable
from typing import Any

from msgspec import structs

from mesh.core import notes
from mesh.core.calling import Calling
from mesh.core.codec import Batch, decode
from mesh.core.context import SEQS_MAX, Act, Context
from mesh.core.draining import Draining
from mesh.core.effects import CloseApp, Inquire, Level
from mesh.core.floors import Floors
from mesh.core.policy import Subject
from mesh.core.probing import DIAL_BACK, Probing
from mesh.core.ranges import expand
from mesh.core.records import (
    BODY_INLINE_MAX,
    PROTOCOL_MINOR,
    Answer,
    AppHello,
    AppWelcome,
    Cancel,
    Chunk,
    ChunkAck,
    Failure,
    Floor,
    FloorAsk,
    Goodbye,
    Ping,
    Pong,
    Query,
    Reach,
    Refuse,
    RefuseReason,
    Reply,
    Report,
    Request,
    Serve,
    Settled,
    Status,
    Targets,
    Unserve,
    Verdict,
)
from mesh.core.recovery import Recovery
from mesh.core.report import REPORTS, SHELL_REPORTS
from mesh.core.services import Services
from mesh.core.serving import Serving
from mesh.core.session import App, Credentials, Named, Pending
from mesh.core.spooling import SHOW_VERBS, Spooling
from mesh.core.viewing import Viewing, fleet_of
from mesh.core.vocabulary import DURABLE
from mesh.errors import ProtocolError
from mesh.types import Endpoint, name_problem, node_id_problem

__all__ = ["AppHop"]

APPS_MAX = 10_000
"""Sessions at once; one more is refused."""

ADOPTED_MAX = 65_536
"""Requests that an earlier agent had handed to one app, and that are remembered while it says that they run."""

REACHED_MAX = 65_536
"""Serving apps that one app may say it has reached."""

OUTLIVES = (
    *("services", "records", "bytes", "floor", "outcomes", "outcomes_bytes"),
    *("reached", "telling", "adopted", "calls", "revoked", "bucket"),
)
"""What of an app outlives its connection."""

FLEET = "fleet"
"""What an app queries to look at the whole fleet."""

ORDERS = ("drain", "reload", "resume")
"""Queries that change something: only root and the agent's own user may say them."""


class AppHop:
    """The connections of local apps."""

    def __init__(
        self,
        context: Context,
        calling: Calling,
        recovery: Recovery,
        serving: Serving,
        probing: Probing,
        services: Services,
        draining: Draining,
        spooling: Spooling,
        viewing: Viewing,
        act: Act,
    ) -> None:
        self.context = context
        self.state = context.state
        self.options = context.options
        self.calling = calling
        self.recovery = recovery
        self.serving = serving
        self.probing = probing
        self.services = services
        self.draining = draining
        self.spooling = spooling
        self.viewing = viewing
        self.act = act
        self.floors = Floors(context)
        self.verbs: dict[type, Callable[[App, Any, float], None]] = {
            Request: self._request,
            Reply: self._reply,
            Failure: self._served,
            Settled: self._settled,
            Chunk: self._chunk,
            ChunkAck: self._chunk_ack,
            Cancel: self._cancel,
            Serve: self._serve,
            Unserve: self.services.unserve,
            Answer: self._answer,
            Reach: self._reach,
            Targets: self._targets,
            Floor: self.floors.told,
            FloorAsk: self.floors.wanted,
            Query: self._query,
            Ping: self._ping,
            Pong: self._pong,
            Goodbye: self._goodbye,
        }

    def connected(self, credentials: Credentials, now: float) -> int:
        """A local process connected; return the number of its connection."""
        conn = self.state.next_app
        self.state.next_app += 1
        if self._seat(conn, credentials):
            self.state.pending[conn] = Pending(credentials, now)
        return conn

    def named(self, conn: int, named: Named) -> None:
        """A connection's HELLO, which comes next, bears a token that names somebody, or nobody."""
        pending = self.state.pending.get(conn)
        if pending is None:
            return
        who = structs.replace(pending.credentials, user=named.user, groups=named.groups)
        if named.problem or self._seat(conn, who):
            self.state.pending[conn] = Pending(who, pending.since, named.problem)
        else:
            del self.state.pending[conn]

    def _seat(self, conn: int, who: Credentials) -> bool:
        """Count a connection with its user's; one too many is turned away."""
        limit, most = "user_connections_max", self.options.seats.user_connections_max
        if self.state.seats.take(conn, who.whose, self.options.seats):
            return True
        self.calling.count_limit(limit)
        text = f"{limit} = {most}: {who.whose} has so many connections already"
        self._turn_away(conn, Refuse(int(RefuseReason.BUSY), text, retry_after_ms=1000, limit=limit))
        return False

    def data(self, conn: int, data: bytes | memoryview, now: float) -> None:
        """One frame arrived from an app."""
        try:
            batch = decode(data)
            app = self._session_of(conn, batch, now)
            if app is None:
                return
            app.heard_at = now
            for record in batch.records:
                verb = self.verbs.get(type(record))
                if verb is None:
                    raise ProtocolError(f"an app may not send {type(record).__name__}")
                verb(app, record, now)
            if self.state.outbox.unasked:
                self.act(self.recovery.inquire(now), now)
        except (ProtocolError, ValueError) as error:
            self.malformed(conn, str(error), now)

    def _session_of(self, conn: int, batch: Batch, now: float) -> App | None:
        """Return the session of a connection, for its next batch; a first batch opens it. None: it was refused."""
        session = self.state.conns.get(conn)
        if session is not None:
            app = self.state.apps[session]
        else:
            pending = self.state.pending.pop(conn, None)
            if pending is None:
                return None
            hello = batch.records.pop(0) if batch.records else None
            if not isinstance(hello, AppHello):
                raise ProtocolError("the first record of an app is not its HELLO")
            if pending.problem:
                refuse: Refuse | None = Refuse(int(RefuseReason.SECURITY), pending.problem)
            else:
                refuse = self._refuse_app(hello)
            if refuse is not None:
                self._turn_away(conn, refuse)
                self.context.note(
                    notes.APP_REFUSED, Level.WARNING, app=hello.app, pid=pending.credentials.pid, why=refuse.text
                )
                return None
            app = self._attach(conn, hello, pending.credentials, now)
        if batch.counter != app.counter_in:
            raise ProtocolError(f"batch {batch.counter} came where {app.counter_in} was due")
        app.counter_in += 1
        return app

    def _refuse_app(self, hello: AppHello) -> Refuse | None:
        """Return why an app is not let in, or None."""
        identity = self.state.peers.identity
        known = self.state.apps.get(hello.session)
        problem = name_problem("name of an app", hello.app) or name_problem("namespace", hello.namespace)
        if hello.protocol_min > PROTOCOL_MINOR:
            return Refuse(int(RefuseReason.PROTOCOL), f"this agent speaks protocol 1.0 to 1.{PROTOCOL_MINOR}")
        if problem is not None or hello.session == 0:
            return Refuse(int(RefuseReason.MALFORMED), problem or "session 0 is nobody's")
        if hello.session in self.state.shut_out:
            text = "messages of this session broke the agent several times; its directory recordings has them"
            return Refuse(int(RefuseReason.MALFORMED), text)
        if hello.fleet and hello.fleet != identity.fleet:
            text = f"this agent is of fleet {identity.fleet!r}, the app wants {hello.fleet!r}"
            return Refuse(int(RefuseReason.FLEET), text)
        if self.state.stopping and known is None:
            return Refuse(int(RefuseReason.DRAINING), "this agent is draining", retry_after_ms=200)
        if known is None and len(self.state.apps) >= APPS_MAX:
            return Refuse(int(RefuseReason.BUSY), f"{APPS_MAX} apps are here already", retry_after_ms=1000)
        if known is not None and hello.connection <= known.connection:
            return Refuse(int(RefuseReason.STALE_CONNECTION), f"connection {known.connection} came after this one")
        if known is not None and known.namespace != hello.namespace:
            return Refuse(int(RefuseReason.MALFORMED), f"this session is of namespace {known.namespace!r}")
        return None

    def _turn_away(self, conn: int, refuse: Refuse, counter: int = 0) -> None:
        self.context.farewells.append((conn, counter, refuse))
        self.context.effects.append(CloseApp(conn, refuse.text))

    def _attach(self, conn: int, hello: AppHello, credentials: Credentials, now: float) -> App:
        """Open a session on a connection, or move it there from an older one."""
        state, options = self.state, self.options
        app = state.apps.get(hello.session)
        if app is None:
            app = state.apps[hello.session] = App(hello.session, 0, hello.app, hello.namespace, None)
            self.context.note(notes.APP_ATTACHED, Level.INFO, app=hello.app, pid=credentials.pid)
            back_by = state.started_at + options.outbox.resume_grace_s
            if hello.connection > 1 and now < back_by:
                state.returning_until = back_by
        elif app.conn is not None:
            self.context.effects.append(CloseApp(app.conn, "the session moved to a newer connection"))
            state.conns.pop(app.conn, None)
        state.conns[conn] = app.session
        fresh = App(hello.session, hello.connection, app.name, app.namespace, conn)
        for name in OUTLIVES:
            setattr(fresh, name, getattr(app, name))
        app = state.apps[hello.session] = fresh
        app.uid, app.pid, app.heard_at = credentials.uid, credentials.pid, now
        app.who = Subject(self.context.node, credentials.user, credentials.groups)
        app.protocol = min(PROTOCOL_MINOR, hello.protocol_max)
        link = options.link
        app.chunker = structs.replace(
            app.chunker,
            chunk_bytes=link.chunk_bytes,
            in_flight_max=link.chunks_in_flight,
            body_bytes_max=link.body_bytes_max,
        )
        welcome = AppWelcome(
            protocol=app.protocol,
            fleet=state.peers.identity.fleet,
            node=self.context.node,
            incarnation=state.peers.identity.incarnation,
            heartbeat_ms=round(options.liveness.heartbeat_s * 1000),
            body_bytes_max=link.body_bytes_max,
            chunk_bytes=link.chunk_bytes,
            chunks_in_flight=link.chunks_in_flight,
            outstanding_records=options.outbox.outstanding_records,
            outstanding_bytes=options.outbox.outstanding_bytes,
            session_window=options.outbox.session_window,
            call_timeout_ms_max=round(options.outbox.call_timeout_max_s * 1000),
            resume_grace_ms=round(options.outbox.resume_grace_s * 1000),
            draining=state.draining,
        )
        self.context.tell(app, welcome)
        self.calling.sending.tell_again(app)
        self.serving.resumed(app, now)
        return app

    def closed(self, conn: int, now: float, *, dead: bool) -> None:
        """An app's connection is gone; ``dead``: its process is too."""
        self.state.seats.leave(conn)
        self.state.pending.pop(conn, None)
        session = self.state.conns.pop(conn, None)
        if session is None:
            return
        app = self.state.apps[session]
        app.conn = None
        app.out.clear()
        app.detached_at = now
        if dead or app.leaving:
            self._end_session(app, now)
        else:
            self.context.note(notes.APP_DETACHED, Level.INFO, app=app.name, pid=app.pid)

    def took(self, conn: int, number: int, now: float) -> None:
        """An app's socket has taken in its batches up to a number."""
        session = self.state.conns.get(conn)
        if session is not None:
            self.calling.sending.took(self.state.apps[session], number, now)

    def died(self, session: int, now: float) -> None:
        """The process of an app whose connection was lost is gone."""
        app = self.state.apps.get(session)
        if app is not None and app.conn is None:
            self._end_session(app, now)

    def malformed(self, conn: int, why: str, now: float) -> None:
        """An app broke the protocol: it loses this connection, and nobody else anything."""
        session = self.state.conns.get(conn)
        app = self.state.apps.get(session) if session is not None else None
        name, pid = (app.name, app.pid) if app else ("", 0)
        self.context.note(notes.APP_MALFORMED, Level.WARNING, app=name, pid=pid, why=why[:500])
        self._turn_away(conn, Refuse(int(RefuseReason.MALFORMED), why[:500]), app.counter_out if app else 0)
        self.closed(conn, now, dead=False)

    def _end_session(self, app: App, now: float) -> None:
        """An app is gone for good."""
        orderly = app.leaving
        app.dead = True
        topics = self.services.gone(app, now, orderly=orderly)
        for id in app.adopted:
            text = f"the app that ran it at {self.context.node} is gone"
            failure = Failure(*id, int(Status.INDETERMINATE), text, where=self.context.node)
            self.context.answer(id[0], failure)
        self.recovery.forget(app, now)
        self.spooling.forget(app)
        del self.state.apps[app.session]
        self.calling.sending.release_held(app.session, now)
        level = Level.INFO if orderly else Level.WARNING
        self.context.note(notes.APP_SESSION_ENDED, level, app=app.name, pid=app.pid, orderly=int(orderly))
        for topic in topics:
            self.act(self.calling.topic_changed(topic, now), now)

    def _request(self, app: App, request: Request, now: float) -> None:
        if request.size:
            if not app.chunker.announced(request):
                self.calling.reject(app, request, self.calling.too_large(request, request.size))
            return
        self._take(app, request, now)

    def _take(self, app: App, request: Request, now: float) -> None:
        if request.flags & DURABLE:
            self.spooling.keep(app, request, now)
        else:
            actions = self.calling.request(app, request, now)
            if actions:
                self.act(actions, now)

    def _reply(self, app: App, reply: Reply, now: float) -> None:
        if not reply.size:
            self._served(app, reply, now)
        elif not app.chunker.announced(reply):
            self._served(app, self.context.too_large(reply), now)

    def _served(self, app: App, record: Reply | Failure, now: float) -> None:
        app.adopted.pop((record.node, record.session, record.seq), None)
        self.serving.reply(app, record, now)

    def _settled(self, app: App, settled: Settled, now: float) -> None:
        if app.adopted:
            for seq in expand(settled.ranges, SEQS_MAX):
                app.adopted.pop((settled.node, settled.session, seq), None)
        self.serving.settled(app, settled, now)

    def _chunk(self, app: App, chunk: Chunk, now: float) -> None:
        whole, ack = app.chunker.chunk(chunk)
        self.context.tell(app, ack)
        if isinstance(whole, Request):
            self._take(app, whole, now)
        elif whole is not None:
            self._served(app, whole, now)

    def _chunk_ack(self, app: App, ack: ChunkAck, now: float) -> None:
        for chunk in app.chunker.acked(ack):
            self.context.tell(app, chunk)

    def _cancel(self, app: App, cancel: Cancel, now: float) -> None:
        if app.chunker.incoming and app.chunker.withdraw("", 0, cancel.seq) is not None:
            return
        self.calling.cancel(app, cancel, now)

    def _serve(self, app: App, record: Serve, now: float) -> None:
        topic = self.services.serve(app, record, now)
        if topic is not None:
            self.act(self.calling.topic_changed(topic, now), now)

    def _answer(self, app: App, answer: Answer, now: float) -> None:
        """The app says what became of what an earlier agent may have handed to it: with what runs, it is ours to tell
        if the app goes."""
        for (session, seq), verdict in zip(answer.ids, answer.verdicts, strict=False):
            id = (answer.node, session, seq)
            if verdict == Verdict.RUNNING and len(app.adopted) < ADOPTED_MAX and self.state.inbox.find(id) is None:
                app.adopted[id] = None
        self.context.answer(answer.node, structs.replace(answer, target=app.session))

    def _reach(self, app: App, reach: Reach, now: float) -> None:
        """The app tells again where its requests went. What this agent has told it itself is known here.

        Of several incarnations of one agent the first counts, for which only the serving app itself can speak.
        """
        target = (reach.node, reach.session)
        if app.reached.get(target) == reach.incarnation:
            return
        problem = node_id_problem(reach.node)
        if problem or len(app.reached_before) >= REACHED_MAX:
            raise ProtocolError(problem or f"more than {REACHED_MAX} others were reached")
        app.reached_before[target] = min(reach.incarnation, app.reached_before.get(target, reach.incarnation))
        if reach.host and reach.port and reach.node != self.context.node:
            self.recovery.locate(reach.node, Endpoint(reach.host, reach.port, reach.public_key))

    def _targets(self, app: App, targets: Targets, now: float) -> None:
        """The app tells again where a fan-out went, or how many died of a request, which it will now say again."""
        if len(app.targets_before) < self.options.outbox.outstanding_records:
            app.targets_before[targets.seq] = targets

    def _query(self, app: App, query: Query, now: float) -> None:
        report = REPORTS.get(query.what)
        if query.what == DIAL_BACK:
            self.probing.ask(app, query, now)
        elif query.what in ORDERS and (problem := self._barred(app)):
            self._report(app, query.seq, False, problem.encode())
        elif query.what in ("drain", "resume"):
            problem = self._drain(app, query.what, now)
            self.context.tell(app, Report(query.seq, not problem, problem.encode() or b"null"))
        elif query.what in SHOW_VERBS:
            self.spooling.show(app, query)
        elif query.what == FLEET:
            self.viewing.look(now)
            after = (query.arguments or {}).get("after", "")
            page = fleet_of(self.state, self.options, self.context.facts, now, after)
            self._report(app, query.seq, True, page)
        elif report is not None:
            body = report(self.state, self.options, self.context.facts, query.arguments or {}, now)
            self._report(app, query.seq, True, body)
        elif query.what in SHELL_REPORTS:
            self.context.effects.append(Inquire(app.session, query.seq, query.what, query.arguments or {}))
        else:
            known = ", ".join(sorted({*REPORTS, *SHELL_REPORTS, *SHOW_VERBS, DIAL_BACK, FLEET, *ORDERS}))
            self._report(app, query.seq, False, f"this agent does not know {query.what!r}; it knows {known}".encode())

    def answered(self, session: int, seq: int, ok: bool, body: bytes) -> None:
        """The shell answers a query, ``ok`` with JSON; an app that has gone meanwhile is told nothing."""
        app = self.state.apps.get(session)
        if app is not None:
            self._report(app, seq, ok, body)

    def _report(self, app: App, seq: int, ok: bool, body: bytes) -> None:
        if len(body) > BODY_INLINE_MAX:
            text = f"the answer has {len(body)} bytes, over the {BODY_INLINE_MAX} that a report may have"
            ok, body = False, text.encode()
        self.context.tell(app, Report(seq, ok, body))

    def _barred(self, app: App) -> str:
        """Return why an app may not give an order, or nothing."""
        if app.uid in (0, self.state.owner_uid):
            return ""
        who = f"user {app.uid}" if app.uid >= 0 else "a user whom the kernel does not name"
        return f"only root and the agent's own user ({self.state.owner_uid}) may give it orders, and you are {who}"

    def _drain(self, app: App, what: str, now: float) -> str:
        """Drain this agent, or end that; return why not, or nothing."""
        if what == "resume":
            return self.draining.resume(app)
        self.draining.begin(now, stop=False)
        return ""

    def _ping(self, app: App, ping: Ping, now: float) -> None:
        self.context.tell(app, Pong(ping.stamp))

    def _pong(self, app: App, pong: Pong, now: float) -> None:
        """It was heard; that is all."""

    def _goodbye(self, app: App, goodbye: Goodbye, now: float) -> None:
        self.services.goodbye(app, now)

    def tick(self, now: float) -> None:
        """Turn away who does not say hello in time; end sessions that did not come back."""
        for conn, pending in list(self.state.pending.items()):
            if now - pending.since >= self.options.link.hello_timeout_s:
                # Its process or this one may have been stopped: it is not refused, for it would take that for final.
                del self.state.pending[conn]
                self.context.effects.append(CloseApp(conn, "no HELLO within hello_timeout_s"))
        grace_s = self.options.outbox.resume_grace_s
        for app in list(self.state.apps.values()):
            if app.detached_at is not None and app.conn is None and now - app.detached_at >= grace_s:
                self._end_session(app, now)
