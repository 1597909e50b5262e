"""The reactor: one node, its sockets, its matchmaker, on one gevent loop.

A turn: whatever is readable is read and given to the node; then, once, what the node has to say is written. So batches
grow by themselves under load and nothing waits when there is none. Nothing in a turn blocks: files and the matchmaker
are in greenlets and in the hub's thread pool.

What is raised in a turn, or by a greenlet, is a defect: the node may be half changed, so the reactor notes it and ends
with `Exit.FAILED`, after its recorder has written what it was told before. The supervisor starts another, and the apps
resume with what they know.
"""

import os
import random
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
import msgspec
from gevent import get_hub
from gevent.event import Event
from msgspec import structs

from mesh.agent.condition import Condition
from mesh.agent.exits import Exit
from mesh.agent.guard import Guard
from mesh.agent.http import HttpServer
from mesh.agent.incarnation import raise_incarnation
from mesh.agent.ipc import AppEvents, Apps, AppsOptions
from mesh.agent.links import LinkEvents, Links, LinksOptions
from mesh.agent.pages import Pages
from mesh.agent.people import People
from mesh.agent.poison import Poison
from mesh.agent.process import READY, pulse
from mesh.agent.recorder import Recorder
from mesh.agent.reloading import Reloading
from mesh.agent.ruling import Rules, Ruling
from mesh.agent.spooler import Spooler
from mesh.agent.supervisor import Inherited
from mesh.agent.threads import in_place, in_thread
from mesh.agent.topology import Board, Topology
from mesh.agent.watcher import Watcher
from mesh.config import Config
from mesh.core import notes
from mesh.core.catalogue import Health
from mesh.core.edges import callers, edges
from mesh.core.effects import (
    Claim,
    CloseApp,
    CloseLink,
    Confirm,
    FindAgents,
    Inquire,
    Level,
    Note,
    OpenLink,
    Register,
    Renew,
    Spool,
    Stop,
    Unwatch,
    Watch,
    Withdraw,
)
from mesh.core.health import agent_health
from mesh.core.identity import Identity, Proof
from mesh.core.node import Node
from mesh.core.policy import PolicyOptions
from mesh.core.report import vitals
from mesh.core.session import Credentials
from mesh.matchmaker.base import Matchmaker
from mesh.security.store import NodeKeys
from mesh.types import Endpoint

__all__ = ["REACTOR_STOPS", "Reactor"]

AGENT_HEALTH = "agent_health"
REACTOR_STOPS = "reactor_stops"
REACTOR_FAILED = "reactor_failed"
APPS_FULL = "apps_full"
INCARNATION_REFUSED = "incarnation_refused"

REFUSALS_MAX = 32
"""The latest connections that came to nothing, kept for the status."""

LAST_WORDS_S = 0.5
"""How long what was said last has to leave when the reactor ends."""


class Reactor:
    """One agent's working half, from the supervisor's fork to its exit status."""

    def __init__(
        self,
        config: Config,
        keys: NodeKeys | None,
        rules: Rules,
        inherited: Inherited,
        matchmaker: Matchmaker,
        board: Board | None,
        note: Callable[..., None],
    ) -> None:
        self.config = config
        self.rules = rules
        self.inherited = inherited
        self.note = note
        self.clock = time.monotonic
        self.loop = get_hub().loop
        self.stopped = Event()
        self.status = int(Exit.OK)
        self.flush_due = False
        self.armed_for = 0.0
        self.condition = Condition(inherited.incarnation)
        options = config.node_options
        identity = self._identity(keys)
        node = Node(identity, options, random.SystemRandom().getrandbits(63), self.clock(), owner_uid=os.geteuid())
        self.recorder = Recorder(node, config.recorder, inherited.data_dir / "recordings", note, self.clock)
        self.node = self.recorder.node
        self.node.facts["refused"] = []
        self.refusals: deque[dict[str, object]] = deque(maxlen=REFUSALS_MAX)
        self.guard = self._make_guard(keys)
        people = People(rules.tokens)
        readers = {"policy": Ruling(config, inherited.data_dir, people, self._change).read}
        readers |= {"keys": self.guard.read} if self.guard is not None else {}
        self.reloading = Reloading(readers, in_thread, note)
        self.links = self._make_links(keys)
        self.apps = Apps(
            inherited.app_listener,
            people,
            AppEvents(
                *(self._app_connected, self._teller(self.node.app_named), self._app_data, self._app_malformed),
                *(self._app_closed, self._teller(self.node.app_died), self._app_took, self._apps_full),
            ),
            AppsOptions(
                *(config.agent.app_connections_max, config.agent.app_unread_bytes_max, options.outbox.resume_grace_s)
            ),
            self.clock,
        )
        self.watcher = self._make_watcher(matchmaker, identity)
        self.spooler = self._make_spooler()
        self.http: HttpServer | None = None
        may_keep = "topology_keeper" in config.agent.roles
        self.topology = Topology(board, config.topology, may_keep, note) if board else None
        self.timer = self.loop.timer(0.0)
        self.carriers: dict[type, Callable[[Any], None]] = {
            OpenLink: self._open_link,
            CloseLink: self._close_link,
            CloseApp: lambda effect: self.apps.close(effect.app),
            Confirm: lambda effect: self.apps.confirm(effect.app, effect.number),
            Watch: lambda effect: self.watcher.watch(effect.topic, fresh=effect.fresh),
            Unwatch: lambda effect: self.watcher.unwatch(effect.topic),
            Register: lambda effect: self.watcher.register(effect.instance),
            Claim: lambda _: self.watcher.claim(),
            FindAgents: lambda _: self.watcher.find_agents(self._teller(self.node.agents)),
            Renew: lambda effect: self.watcher.renew(effect.instance, effect.health, effect.text),
            Withdraw: lambda effect: self.watcher.withdraw(effect.instance),
            Spool: self._spool,
            Note: self._note,
            Inquire: lambda effect: gevent.spawn(self._answer, effect),
            Stop: self._stop,
        }

    def _make_watcher(self, matchmaker: Matchmaker, identity: Identity) -> Watcher:
        return Watcher(
            matchmaker,
            structs.replace(identity.entry, roles=self.config.agent.roles),
            self.config.fleet,
            self.config.watcher_options,
            self.inherited.data_dir,
            in_thread if self.config.matchmaker_kind == "sqlite" else in_place,
            self._teller(self.node.snapshot),
            self._teller(self.node.namesakes),
            self.note,
        )

    def _identity(self, keys: NodeKeys | None) -> Identity:
        public_key, certificate = (keys.secret.public_key, keys.shown) if keys is not None else ("", b"")
        endpoint = self.config.endpoint(self.inherited.link_listeners, public_key)
        me, born = self.config, self.inherited
        return Identity(me.node_id, me.fleet, born.incarnation, endpoint, certificate, born.successor)

    def _make_guard(self, keys: NodeKeys | None) -> Guard | None:
        if keys is None:
            return None
        place, data_dir = self.config.make_revocations(), self.inherited.data_dir
        tellers = self._link_proven, self._trust, self._restart
        return Guard(self.config, keys, place, data_dir, self.clock, self.note, *tellers)

    def _make_links(self, keys: NodeKeys | None) -> Links:
        data = self._link_data if self.guard is None else self._guarded_data
        options = self.config.node_options
        return Links(
            self.inherited.link_listeners,
            LinkEvents(self._link_accepted, data, self._link_connected, self._link_lost, self._evicted),
            LinksOptions(
                links_max=options.pool.links_max,
                hello_timeout_s=options.link.hello_timeout_s,
                inbound_unproven_max=self.config.agent.inbound_unproven_max,
                reap_after_s=max(10.0, 3 * options.liveness.dead_after_s),
                keys=keys.secret if keys is not None else None,
            ),
            self.clock,
        )

    def _make_spooler(self) -> Spooler | None:
        spool = self.config.make_spool(self.inherited.data_dir)
        return Spooler(spool, in_thread, self._teller(self.node.spooled)) if spool is not None else None

    def _make_http(self, token: str) -> HttpServer | None:
        listener, options = self.inherited.http_listener, self.config.http
        if listener is None:
            return None
        pages = Pages(self.node, self._limits, token, self.clock)
        return HttpServer(listener, pages.answer, options.http_connections_max, options.http_request_s, self.note)

    def run(self, http_token: str) -> int:
        """Serve until the node stops; return the exit status. ``http_token``: empty, none."""
        get_hub().handle_error = self._failed
        drain, reload = self.loop.signal(signal.SIGTERM), self.loop.signal(signal.SIGHUP)
        drain.start(self._drain)
        reload.start(lambda: gevent.spawn(self.reloading.reload))
        if self.guard is not None:
            self.guard.start()
        self.node.obey(self.rules.policy, self.clock())
        for session in self._poison().shut_out():
            self.node.shut_out(session, self.clock())
        self.watcher.start()
        if self.spooler is not None:
            self.node.use_spool(self.clock())
        self.http = self._make_http(http_token)
        if self.http is not None:
            self.http.start()
        if self.topology:
            self.topology.start()
        gevent.spawn(self._beat)
        self._flush_soon()
        pulse(self.inherited.pulse_fd, READY)
        self.stopped.wait()
        if self.status == Exit.FAILED:
            return self.status
        self._flush()
        if self.http is not None:
            self.http.stop()
        if self.guard is not None:
            self.guard.stop()
        self.watcher.stop(withdraw=self.status == Exit.OK)
        if self.spooler is not None:
            self.spooler.stop()
        if self.topology:
            self.topology.stop(withdraw=self.status == Exit.OK)
        self.apps.close_all(LAST_WORDS_S)
        self.links.close_all(LAST_WORDS_S)
        return self.status

    def _beat(self) -> None:
        """Tell the supervisor that the loop turns, and the node's reports how the process is doing."""
        pause_s = min(1.0, self.config.watchdog_s / 8)
        while True:
            pulse(self.inherited.pulse_fd)
            self._gather_facts()
            asleep_at = self.clock()
            gevent.sleep(pause_s)
            self.condition.beat(self.clock() - asleep_at - pause_s)

    def _gather_facts(self) -> None:
        self.node.facts.update(
            self.condition.facts(),
            matchmaker={"kind": self.config.matchmaker_kind, **self.watcher.facts()},
            socket=str(self.config.socket_path),
            preset=self.config.preset,
            security=self.guard.facts() if self.guard is not None else {"curve": False},
        )
        verdict = agent_health(vitals(self.node.state, self.config.node_options, self.node.facts))
        if verdict.health is not self.watcher.own.health:
            level = Level.INFO if verdict.health is Health.PASSING else Level.WARNING
            self.note(AGENT_HEALTH, level, health=verdict.health.name.lower(), why=verdict.text)
        self.watcher.doing(*verdict)
        if self.topology:
            state = self.node.state
            self.topology.see(edges(state), callers(state, self.config.node_options.health, self.clock()))
            self.node.facts["topology"] = self.topology.facts()
        self.node.facts["health"] = {"status": verdict.health.name.lower(), "why": verdict.text}

    def _limits(self) -> dict[str, tuple[float, float]]:
        """Return how much is used of what only the shell bounds."""
        agent, facts = self.config.agent, self.node.facts
        used: dict[str, Any] = {
            "app_connections_max": (len(self.apps.connections), agent.app_connections_max),
            "inbound_unproven_max": (self.links.inbounds.unproven, agent.inbound_unproven_max),
            "descriptors": (facts.get("descriptors", 0), facts.get("descriptors_max", 0)),
            "recorder_bytes": (self.recorder.bytes, self.config.recorder.recorder_bytes),
        }
        if self.http is not None:
            used["http_connections_max"] = (len(self.http.open), self.config.http.http_connections_max)
        return used

    # What comes in

    def _teller(self, entry: Callable[..., None]) -> Callable[..., None]:
        """Return what tells the node something by one of its entries, now, and has what it says to that written."""

        def tell(*arguments: Any) -> None:
            entry(*arguments, self.clock())
            self._flush_soon()

        return tell

    def _app_connected(self, credentials: Credentials) -> int:
        conn = self.node.app_connected(credentials, self.clock())
        self._flush_soon()
        return conn

    def _app_data(self, conn: int, data: Any) -> None:
        try:
            self.node.app_data(conn, data, self.clock())
        except Exception:
            self._poison().broke(self.node.state.conns.get(conn, 0), time.time())
            raise
        self._flush_soon()

    def _poison(self) -> Poison:
        return Poison(self.inherited.data_dir / "poison.msgpack", time.time())

    def _app_malformed(self, conn: int, why: str) -> None:
        state = self.node.state
        if conn in state.conns or conn in state.pending:
            self.node.app_malformed(conn, why, self.clock())
            self._flush_soon()

    def _app_closed(self, conn: int) -> int | None:
        session = self.node.state.conns.get(conn)
        self.node.app_closed(conn, self.clock(), dead=False)
        self._flush_soon()
        return session

    def _app_took(self, conn: int, number: int) -> None:
        self.node.app_took(conn, number, self.clock())
        self._flush_soon()

    def _link_accepted(self, key: str) -> int:
        conn = self.node.link_accepted(self.clock())
        if self.guard is not None:
            self.guard.expect(conn, key)
        return conn

    def _link_proven(self, conn: int, proof: Proof) -> None:
        self.node.link_proven(conn, proof, self.clock())

    def _link_connected(self, conn: int) -> None:
        self.node.link_connected(conn, self.clock())
        self._flush_soon()

    def _guarded_data(self, conn: int, data: Any) -> None:
        assert self.guard is not None
        self.guard.look(conn, data)
        self._link_data(conn, data)

    def _link_data(self, conn: int, data: Any) -> None:
        self.node.link_data(conn, data, self.clock())
        self._flush_soon()

    def _link_lost(self, conn: int, reason: str) -> None:
        if self.guard is not None:
            self.guard.forget(conn)
        self.node.link_lost(conn, reason, self.clock())
        self._flush_soon()

    def _apps_full(self, why: str) -> None:
        self.note(APPS_FULL, Level.WARNING, why=why)

    def _evicted(self, why: str, address: str) -> None:
        self.note(notes.INBOUND_EVICTED, Level.WARNING, why=why, address=address)
        self._remember_refusal("?", address, why)

    def _remember_refusal(self, peer: object, address: str, why: object) -> None:
        """Keep, for the status, who was turned away or did not get through a handshake."""
        self.refusals.append({"at": round(time.time(), 3), "peer": peer, "address": address, "why": why})
        self.node.facts["refused"] = list(self.refusals)

    def _tick(self) -> None:
        self.armed_for = 0.0
        self.apps.tick()
        self.links.tick()
        self.node.tick(self.clock())
        self._flush_soon()

    def _drain(self) -> None:
        self.node.drain(self.clock())
        self._flush_soon()

    # What goes out

    def _flush_soon(self) -> None:
        """Have what gathers in this turn written at its end."""
        if not self.flush_due:
            self.flush_due = True
            self.loop.run_callback(self._flush)

    def _flush(self) -> None:
        """Write what the node has to say: apps first, for they must know where their records go before those leave."""
        self.flush_due = False
        now = self.clock()
        app_data, link_data, effects = self.node.take(now)
        self.recorder.settle(now)
        for conn, data in app_data:
            self.apps.send(conn, data)
        for conn, data in link_data:
            self.links.send(conn, data)
        for effect in effects:
            self.carriers[type(effect)](effect)
        if link_data:
            self.links.settle()
        due = self.node.deadline()
        if due != self.armed_for:
            self.armed_for = due
            self.timer.stop()
            self.timer.close()
            self.timer = self.loop.timer(max(0.0, due - self.clock()))
            self.timer.start(self._tick)

    def _spool(self, effect: Spool) -> None:
        assert self.spooler is not None, "a node without a spool gave it a job"
        self.spooler.give(effect.job)

    def _failed(self, _: Any, kind: type[BaseException], error: BaseException, __: Any) -> None:
        """Take what nobody caught in a callback or a greenlet: the node may be half changed, so end."""
        if isinstance(error, gevent.GreenletExit):
            return
        why = f"{kind.__name__}: {error}"
        self.note(REACTOR_FAILED, Level.ERROR, why=why[:500], exc_info=error)
        if self.status != Exit.FAILED:
            self.status = int(Exit.FAILED)
            self.recorder.crashed(why)
        self.stopped.set()

    # What the node decided is carried out

    def _open_link(self, effect: OpenLink) -> None:
        if self.guard is not None:
            self.guard.expect(effect.conn, effect.public_key)
        self.links.open(effect.conn, Endpoint(effect.host, effect.port, effect.public_key))

    def _close_link(self, effect: CloseLink) -> None:
        if self.guard is not None:
            self.guard.forget(effect.conn)
        self.links.close(effect.conn, effect.linger_s)

    def _note(self, effect: Note) -> None:
        facts = effect.facts
        if effect.name in (notes.LINK_REFUSED, notes.DIAL_FAILED):
            facts = facts | {"address": str(facts.get("address") or self.links.address_of(int(facts["conn"])))}
            self._remember_refusal(facts["peer"], str(facts["address"]), facts["why"])
        self.note(effect.name, effect.level, **facts)

    def _trust(self, keys: NodeKeys) -> None:
        """Believe, and show, what these keys say."""
        revoked = list(keys.revocations.keys)
        if self.links.zap is not None:
            self.links.zap.revoked = frozenset(revoked)
        self.node.trust(keys.shown, revoked, self.clock())
        self._flush_soon()

    def _change(self, policy: PolicyOptions, dropped: list[int]) -> None:
        """Let apps and peers do what these rules let them, but those whose token names nobody any more."""
        for conn in dropped:
            self.apps.close(conn)
        self.node.obey(policy, self.clock())
        self._flush_soon()

    def _restart(self, why: str) -> None:
        """Have the supervisor start another reactor at once, which reads everything anew; apps and peers resume."""
        self._stop(Stop(int(Exit.AGAIN), why))

    def _answer(self, inquire: Inquire) -> None:
        """Answer what only the shell knows."""
        if inquire.what == "reload":
            ok, told = self.reloading.reload()
            body = msgspec.json.encode(told) if ok else str(told).encode()
        elif inquire.what == "recorder_dump":
            ok, text = self.recorder.asked(in_thread)
            body = msgspec.json.encode({"path": text}) if ok else text.encode()
        else:
            ok, body = True, msgspec.json.encode(self.recorder.facts())
        self.node.answered(inquire.session, inquire.seq, ok, body, self.clock())
        self._flush_soon()

    def _stop(self, effect: Stop) -> None:
        """End with the node's status; an incarnation that must be exceeded is stored first, for the next reactor."""
        level = Level.WARNING if effect.status else Level.INFO
        self.note(REACTOR_STOPS, level, status=effect.status, why=effect.reason)
        if effect.incarnation:
            try:
                raise_incarnation(self.inherited.data_dir, effect.incarnation, self.note)
            except ValueError as error:
                self.note(INCARNATION_REFUSED, Level.ERROR, why=str(error))
                return
        self.status = effect.status
        self.stopped.set()
