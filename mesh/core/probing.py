"""Asking who is there: peers that ask to be dialled back, and agents that are entered under our node id."""

from collections.abc import Iterable, Sequence

from msgspec import json

from mesh.core import notes
from mesh.core.catalogue import AgentEntry
from mesh.core.codec import decode
from mesh.core.context import Context
from mesh.core.effects import Claim, CloseLink, FindAgents, Level, OpenLink, Stop
from mesh.core.link import Event, Link, Phase, advance
from mesh.core.liveness import Condition, Liveness
from mesh.core.pool import Action
from mesh.core.probe import Probe, Question, Ruling
from mesh.core.records import DialBack, DialledBack, Query, Refuse, RefuseReason, Report
from mesh.core.session import App
from mesh.errors import ProtocolError
from mesh.types import Endpoint

__all__ = ["DIAL_BACK", "EXIT_DUPLICATE", "Probing"]

DIAL_BACK = "dial_back"
"""What an app queries to have a peer dial this agent."""

EXIT_DUPLICATE = 78
"""Exit status: another agent has this node id; starting again would only evict it."""

DIAL_BACKS_PER_S = 1
"""How many dials others can have this node make: it must be no good for knocking at somebody's door."""

SOMEBODY = ""
"""Whom an app asks while it is not known yet who could be."""

QUESTIONS_MAX = 16
"""Apps that may wait for what one peer says."""

NAMESAKES_MAX = 8
"""Agents with our node id that are asked at once."""

TURNS = 4
"""A peer has so many times ``hello_timeout_s`` to answer: two for its dial, the rest for those before us."""


class Probing:
    """The probes of one node."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.peers = context.state.peers
        self.probes = context.state.probes
        self.timeout_s = context.options.link.hello_timeout_s

    # Dialled back

    def ask(self, app: App, query: Query, now: float) -> None:
        """Have a peer dial this agent and tell the app: the one in ``arguments``, else one that is linked, else any."""
        wanted = (query.arguments or {}).get("peer", "")
        links = [link for link in self.peers.links.values() if link.phase is Phase.OPEN and wanted in ("", link.peer)]
        links.sort(key=lambda link: (self.peers.peers[link.peer].condition is not Condition.ALIVE, link.peer))
        node = links[0].peer if links else SOMEBODY
        question = Question(app.session, query.seq, now + TURNS * self.timeout_s)
        if wanted and not links:
            self._tell(question, False, f"there is no link to {wanted!r} now".encode())
        elif len(self.probes.questions.get(node, ())) >= QUESTIONS_MAX:
            self._tell(question, False, f"{QUESTIONS_MAX} apps wait already for what {node or 'a peer'} says".encode())
        else:
            self.probes.questions.setdefault(node, []).append(question)
            if links:
                self.peers.say(links[0], DialBack())
            else:
                self.context.effects.append(FindAgents())

    def agents(self, found: Sequence[AgentEntry], now: float) -> list[Action]:
        """Where nobody is linked, have a link opened to one of these, and ask on that."""
        state = self.context.state
        questions = self.probes.questions.pop(SOMEBODY, [])
        others = [agent for agent in found if agent.node != self.context.node]
        if not others or not questions:
            for question in questions:
                self._tell(question, False, b"the matchmaker knows of no other agent")
            return []
        chosen = others[int(state.rng.uniform(0, len(others)))]
        peer = self.peers.peer(chosen.node)
        peer.endpoint = peer.endpoint or chosen.endpoint
        self.probes.questions.setdefault(chosen.node, []).extend(questions)
        link = self.peers.open_link(chosen.node)
        if link is not None:
            self.peers.say(link, DialBack())
        return state.pool.want(chosen.node, self.context.options.pool, now)

    def opened(self, link: Link) -> None:
        """A link stands: what waited for it is asked."""
        if link.peer in self.probes.questions:
            self.peers.say(link, DialBack())

    def dialled_back(self, link: Link, record: DialledBack) -> None:
        """A peer says what came of dialling us."""
        facts = {"peer": link.peer, "address": record.address, "reached": record.reached, "text": record.text}
        for question in self.probes.questions.pop(link.peer, ()):
            self._tell(question, True, json.encode(facts))

    def _tell(self, question: Question, ok: bool, body: bytes) -> None:
        app = self.context.state.apps.get(question.session)
        if app is not None:
            self.context.tell(app, Report(question.seq, ok, body))

    def asked(self, link: Link) -> None:
        """A peer asks to be dialled back: at its next turn."""
        self.probes.to_dial[link.peer] = None

    def _dial_back(self, now: float) -> None:
        """Dial the first in turn that is still there."""
        waiting = list(self.probes.to_dial)
        for node in waiting:
            del self.probes.to_dial[node]
            endpoint = self.peers.peer(node).endpoint
            if endpoint is not None and self.peers.any_link(node) is not None:
                self.probes.rests_until = now + 1 / DIAL_BACKS_PER_S
                self._dial(node, endpoint, now, asker=node)
                return

    # Namesakes

    def namesakes(self, entries: Iterable[AgentEntry], now: float) -> None:
        """Take who is entered under our node id, as of now. Who is entered where we are is what we were before."""
        me, namesakes = self.peers.identity, self.probes.namesakes
        if namesakes.unanswered:
            return
        others = [entry for entry in entries if entry.endpoint[:2] != me.endpoint[:2]][:NAMESAKES_MAX]
        namesakes.unanswered, namesakes.ruling = len(others), Ruling.ENTER
        for entry in others:
            self._dial(me.node, entry.endpoint, now, entry=entry)
        if not others:
            self._rule()

    def _judge(self, entry: AgentEntry, refuse: Refuse | None, why: str) -> None:
        """Take what one of them answered."""
        alive = refuse is not None and refuse.reason == RefuseReason.DUPLICATE_NODE
        entered = self.probes.namesakes.entered
        ruling = self.probes.namesakes.answered(entry, self.peers.identity.incarnation, alive=alive)
        facts: dict[str, str | int | float] = {"address": str(entry.endpoint), "incarnation": entry.incarnation}
        if alive:
            text = f"another agent has the node id {entry.node!r} and answers at {entry.endpoint}"
            if ruling is Ruling.YIELD:
                text = f"{text}: give one of the two a node_id of its own; this one, the later, stops"
                self.context.effects.append(Stop(EXIT_DUPLICATE, text))
            else:
                text = f"{text}: give one of the two a node_id of its own; this one, the earlier, stays"
            self.context.note(notes.DUPLICATE_NODE, Level.ERROR, peer=entry.node, why=text, **facts)
        else:
            level = Level.WARNING if entered else Level.INFO
            self.context.note(notes.NAMESAKE_SILENT, level, peer=entry.node, why=why, **facts)
        if not self.probes.namesakes.unanswered:
            self._rule()

    def _rule(self) -> None:
        if self.probes.namesakes.ruling is Ruling.ENTER:
            self.probes.namesakes.entered = True
            self.context.effects.append(Claim())

    # Both

    def _dial(
        self, node: str, endpoint: Endpoint, now: float, *, asker: str = "", entry: AgentEntry | None = None
    ) -> None:
        conn = self.peers.next_conn
        self.peers.next_conn += 1
        link = Link(conn, True, Phase.DIALLING, node, now, Liveness(now, now), self.peers.terms)
        self.probes.under_way[conn] = Probe(link, endpoint, asker, entry)
        self.context.effects.append(OpenLink(conn, node, *endpoint))

    def link(self, conn: int) -> Link | None:
        """Return the link of a probe."""
        probe = self.probes.under_way.get(conn)
        return probe.link if probe is not None else None

    def connected(self, conn: int, now: float) -> None:
        """A dial reached somebody: ask who it is."""
        probe = self.probes.under_way.get(conn)
        if probe is None:
            return
        advance(probe.link, Event.CONNECTED, now)
        known = self.peers.peers.get(probe.link.peer)
        link_no = known.seen.own_no if known is not None else 0
        probe.link.out.append(self.peers.greeting(probe.link.peer, link_no, probe=True))
        self.peers.parting.append(probe.link)

    def data(self, conn: int, data: bytes | memoryview) -> None:
        """Somebody answers; what is not REFUSE is no answer, nor is that of somebody who is not proven."""
        link = self.link(conn)
        if link is None:
            return
        try:
            (record,) = decode(data).records
            problem = self.peers.unproven(link, link.peer)
            refuse = record if isinstance(record, Refuse) and not problem else None
            self._over(conn, refuse, problem or f"it answered with {type(record).__name__}")
        except (ProtocolError, ValueError) as error:
            self._over(conn, None, f"it does not speak the protocol: {error}"[:500])

    def lost(self, conn: int, reason: str) -> None:
        """A dial failed, or the connection broke."""
        if conn in self.probes.under_way:
            self._over(conn, None, reason)

    def lagged(self, lag_s: float) -> None:
        """This node's own loop came late: nobody else's silence includes that time."""
        for probe in self.probes.under_way.values():
            probe.link.since += lag_s

    def tick(self, now: float) -> None:
        """Dial who is in turn; end what took too long."""
        for conn, probe in list(self.probes.under_way.items()):
            if now - probe.link.since >= self.timeout_s:
                what = "connection" if probe.link.phase is Phase.DIALLING else "answer"
                self._over(conn, None, f"no {what} within {self.timeout_s:g} s")
        if self.probes.to_dial and now >= self.probes.rests_until:
            self._dial_back(now)
        for node, questions in list(self.probes.questions.items()):
            if now >= questions[0].ends_at:
                del self.probes.questions[node]
                for question in questions:
                    self._tell(question, False, f"{node or 'the matchmaker'} said nothing in time".encode())

    def _over(self, conn: int, refuse: Refuse | None, why: str) -> None:
        """A probe has its answer, or will have none."""
        probe = self.probes.under_way.pop(conn)
        self.context.effects.append(CloseLink(conn, 0.0))
        why = refuse.text if refuse is not None else why
        if probe.entry is not None:
            self._judge(probe.entry, refuse, why)
        else:
            reached = refuse is not None and refuse.reason == RefuseReason.REACHED
            text = "" if reached else why
            self.context.answer(probe.asker, DialledBack(str(probe.endpoint), reached, text))
