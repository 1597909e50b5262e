"""Other nodes and the links to them: who is at the other end, and which link is *the* link.

`link` knows one connection. Here is what is true between connections: one open link for each peer, glare, challenges,
the fence of incarnations and link numbers, timeouts, heartbeats. A method that changes what the rest of the node can
see returns `Change` values; what is to be said goes to the links' own ``out`` lists, and ``dirty`` names those that
have something in them.
"""

from collections.abc import Container
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from mesh.core.catalogue import AgentEntry
from mesh.core.changes import Change, Closed, Opened, Refused
from mesh.core.chunks import Chunker
from mesh.core.identity import Identity, judge
from mesh.core.link import (
    OPEN,
    Event,
    Judgement,
    Link,
    LinkOptions,
    Phase,
    Ruling,
    Seen,
    advance,
    goodbye,
    judge_hello,
    judge_welcome,
)
from mesh.core.liveness import Condition, Liveness, LivenessOptions, agreed
from mesh.core.records import (
    PROTOCOL_MINOR,
    Credit,
    Hello,
    Keep,
    Ping,
    Pong,
    Record,
    Refuse,
    RefuseReason,
    Welcome,
)
from mesh.types import Endpoint

__all__ = ["Change", "Closed", "Opened", "Peer", "Peers", "Refused"]

RTT_PROBE_BEATS = 10
"""Round trips are measured at least once in this many heartbeats, however busy the link is."""

HELD_SHARE = 0.5
"""The part of ``hello_timeout_s`` for which a HELLO is held: its sender began to wait earlier, and must still do."""


class Peer(Struct):
    """Another node. ``link``, ``dial``, ``held`` are connections: the open one, ours under way, theirs in waiting;
    ``told``: the greatest incarnation that the catalogue told of it."""

    node: str
    seen: Seen = field(default_factory=Seen)
    endpoint: Endpoint | None = None
    link: int | None = None
    dial: int | None = None
    held: int | None = None
    challenged: int | None = None
    told: int = 0
    suspected_at: float = 0.0
    condition: Condition = Condition.ALIVE


class Peers(Struct):
    """All links of this node, by connection, and its peers by node id."""

    identity: Identity
    terms: LivenessOptions
    options: LinkOptions
    links: dict[int, Link] = field(default_factory=dict)
    peers: dict[str, Peer] = field(default_factory=dict)
    dirty: dict[int, None] = field(default_factory=dict)
    parting: list[Link] = field(default_factory=list)
    next_conn: int = 1
    draining: bool = False

    # What the node asks

    def peer(self, node: str) -> Peer:
        """Return what is known of a node, making it."""
        peer = self.peers.get(node)
        if peer is None:
            peer = self.peers[node] = Peer(node)
        return peer

    def open_link(self, node: str) -> Link | None:
        """Return the link on which something new may be sent to a node."""
        peer = self.peers.get(node)
        if peer is None or peer.link is None:
            return None
        link = self.links[peer.link]
        return link if link.phase is OPEN else None

    def any_link(self, node: str) -> Link | None:
        """Return the link on which an answer may be sent to a node: the open one, or the one that is leaving."""
        peer = self.peers.get(node)
        return self.links[peer.link] if peer is not None and peer.link is not None else None

    def is_suspect(self, node: str) -> bool:
        """Return whether a node is passed over while there is another choice: silent, or draining."""
        peer = self.peers.get(node)
        if peer is None:
            return False
        if peer.link is not None and self.links[peer.link].draining_there:
            return True
        return peer.condition is not Condition.ALIVE

    def suspect(self, node: str, now: float) -> None:
        """A link or dial to a node broke: for as long as silence would take to be death, others are tried first."""
        peer = self.peer(node)
        peer.condition, peer.suspected_at = Condition.SUSPECT, now

    def suspects(self, now: float) -> list[str]:
        """Return the suspect nodes without a link; who was suspected for so long that it counts no more is none."""
        found: list[str] = []
        for node, peer in self.peers.items():
            if peer.link is not None or peer.condition is Condition.ALIVE:
                continue
            if now - peer.suspected_at >= self.terms.dead_after_s:
                peer.condition = Condition.ALIVE
            else:
                found.append(node)
        return found

    def news(self, agent: AgentEntry) -> bool:
        """Take what the catalogue says of a node without a link; return whether that is a later incarnation."""
        peer = self.peers.get(agent.node)
        if peer is None or peer.link is not None or agent.incarnation <= max(peer.told, peer.seen.incarnation):
            return False
        peer.told, peer.endpoint, peer.condition = agent.incarnation, agent.endpoint, Condition.ALIVE
        return True

    def say(self, link: Link, record: Record) -> None:
        """Put a record on a link's way out."""
        link.out.append(record)
        self.dirty[link.conn] = None

    # Connections

    def dial(self, node: str, now: float) -> Link:
        """Begin a connection to a node; the shell carries it out and says connected or lost."""
        link = self._new_link(node, True, now)
        self.peer(node).dial = link.conn
        return link

    def accepted(self, now: float) -> Link:
        """Somebody connected to us; who it is, its HELLO will say."""
        return self._new_link("", False, now)

    def _new_link(self, node: str, dialled: bool, now: float) -> Link:
        conn = self.next_conn
        self.next_conn += 1
        phase = Phase.DIALLING if dialled else Phase.UNPROVEN
        link = self.links[conn] = Link(conn, dialled, phase, node, now, Liveness(now, now), self.terms)
        return link

    def connected(self, conn: int, now: float) -> None:
        """Our dial reached somebody: say who we are and whom we mean."""
        link = self.links.get(conn)
        if link is None or link.phase is not Phase.DIALLING:
            return
        advance(link, Event.CONNECTED, now)
        self.say(link, self.greeting(link.peer, self._number(link)))

    def greeting(self, meant: str, link_no: int, *, probe: bool = False) -> Hello:
        """Return the HELLO that says who we are."""
        at, versions = self.identity.endpoint, (0, PROTOCOL_MINOR)
        return Hello(*versions, meant=meant, host=at.host, port=at.port, probe=probe, **self._terms(link_no))

    def _number(self, link: Link) -> int:
        """Give a link the next of our numbers for its peer, and return it."""
        seen = self.peer(link.peer).seen
        seen.own_no += 1
        link.own_no = seen.own_no
        return link.own_no

    def _terms(self, link_no: int) -> dict[str, Any]:
        """Return what HELLO and WELCOME both say of this node."""
        me, terms, options = self.identity, self.terms, self.options
        return {
            "fleet": me.fleet,
            "node": me.node,
            "incarnation": me.incarnation,
            "link_no": link_no,
            "heartbeat_ms": round(terms.heartbeat_s * 1000),
            "dead_after_ms": round(terms.dead_after_s * 1000),
            "body_bytes_max": options.body_bytes_max,
            "chunk_bytes": options.chunk_bytes,
            "chunks_in_flight": options.chunks_in_flight,
            "credit_records": options.credit_records,
            "credit_bytes": options.credit_bytes,
            "draining": self.draining,
            "certificate": me.certificate,
        }

    def lost(self, conn: int, reason: str, now: float) -> list[Change]:
        """A connection is gone, or never came to be; a held HELLO of the same peer may take its place."""
        link = self.links.get(conn)
        if link is None:
            return []
        return [self._close(link, Event.LOST, reason, now), *self._unhold(link.peer, now)]

    def _close(self, link: Link, event: Event, reason: str, now: float) -> Closed:
        """Take a link out of all tables."""
        orderly = link.phase is Phase.LEAVING and link.goodbye_sent and link.goodbye_heard
        advance(link, event, now)
        del self.links[link.conn]
        self.dirty.pop(link.conn, None)
        peer = self.peers.get(link.peer)
        was_open = peer is not None and peer.link == link.conn
        was_dial = peer is not None and peer.dial == link.conn
        if peer is not None:
            peer.link = None if was_open else peer.link
            peer.dial = None if was_dial else peer.dial
            if peer.held == link.conn:
                peer.held = peer.challenged = None
        idle = orderly and not link.draining_there
        return Closed(link.peer, link.conn, reason, was_open, was_dial, orderly, idle)

    # The handshake

    def hello(self, link: Link, hello: Hello, admitted: bool, now: float) -> list[Change]:
        """Take a HELLO; ``admitted``: whether the budget has a place for this peer's link."""
        problem = self.unproven(link, hello.node)
        if problem:
            return [self.refuse(link, hello.node, Refuse(int(RefuseReason.SECURITY), problem), now)]
        peer = self.peers.get(hello.node) or Peer(hello.node)
        incumbent = self.links[peer.link] if peer.link is not None else None
        held = self.links[peer.held].hello if peer.held is not None else None
        seen, me = peer.seen, self.identity
        if held is not None and (incumbent is None or incumbent.incarnation != hello.incarnation):
            seen = Seen(held.incarnation, held.link_no)
        judgement = judge_hello(
            hello,
            node=me.node,
            fleet=me.fleet,
            incarnation=me.incarnation,
            seen=seen,
            incumbent=incumbent,
            own_dial=self.links[peer.dial] if peer.dial is not None else None,
        )
        if judgement.ruling is not Ruling.REFUSE and not admitted:
            refuse = Refuse(int(RefuseReason.BUSY), f"{me.node}: links_max is reached", retry_after_ms=100)
            judgement = Judgement(Ruling.REFUSE, refuse)
        if judgement.ruling is Ruling.REFUSE:
            assert judgement.refuse is not None
            return [self.refuse(link, hello.node, judgement.refuse, now)]
        self.peers[hello.node] = peer
        link.hello = hello
        link.peer = hello.node
        changes: list[Change] = []
        if peer.held is not None:
            changes.append(self._close(self.links[peer.held], Event.LOST, "replaced by a newer HELLO", now))
        if judgement.ruling is Ruling.ACCEPT:
            return changes + self._welcome(link, now)
        advance(link, Event.HELD, now)
        peer.held = link.conn
        if judgement.ruling is Ruling.CHALLENGE and incumbent is not None:
            peer.challenged = _stamp(now)
            self.say(incumbent, Ping(peer.challenged))
        return changes

    def refuse(self, link: Link, node: str, refuse: Refuse, now: float) -> Refused:
        """Turn a connection away with the reason; it closes once that has left."""
        refuse.certificate = self.identity.certificate
        link.out.append(refuse)
        link.peer = node
        self.parting.append(link)
        self._close(link, Event.REFUSED, refuse.text, now)
        return Refused(node, link.conn, refuse, by_us=True)

    def _welcome(self, link: Link, now: float) -> list[Change]:
        """Accept the HELLO that a link came with: it becomes the peer's link, in place of all others."""
        hello = link.hello
        assert hello is not None
        peer = self.peer(link.peer)
        changes: list[Change] = []
        for conn, reason in ((peer.dial, "glare: theirs was taken"), (peer.link, "replaced by a newer link")):
            if conn is not None:
                changes.append(self._close(self.links[conn], Event.LOST, reason, now))
        advance(link, Event.ACCEPTED, now)
        link.terms = agreed(self.terms, hello.heartbeat_ms, hello.dead_after_ms)
        link.protocol = min(PROTOCOL_MINOR, hello.protocol_max)
        link.keep_there = hello.persistent
        self.say(link, Welcome(protocol=link.protocol, **self._terms(self._number(link))))
        peer.endpoint = Endpoint(hello.host, hello.port, link.proof.certified if link.proof is not None else "")
        return [*changes, self._opened(link, peer, hello, now)]

    def welcome(self, link: Link, welcome: Welcome, now: float) -> list[Change]:
        """Take the answer to our HELLO."""
        peer = self.peer(link.peer)
        problem = self.unproven(link, link.peer)
        refuse = judge_welcome(welcome, meant=link.peer, fleet=self.identity.fleet, seen=peer.seen)
        if problem:
            refuse = Refuse(int(RefuseReason.SECURITY), problem)
        if refuse is not None:
            link.out.append(refuse)
            self.parting.append(link)
            closed = self._close(link, Event.REFUSED, refuse.text, now)
            return [Refused(link.peer, link.conn, refuse, by_us=True), closed, *self._unhold(link.peer, now)]
        changes: list[Change] = []
        for conn, reason in ((peer.held, "glare: ours was taken"), (peer.link, "replaced by a newer link")):
            if conn is not None:
                changes.append(self._close(self.links[conn], Event.LOST, reason, now))
        link.rtt_s, link.rtt_at = now - link.since, now
        advance(link, Event.WELCOMED, now)
        link.terms = agreed(link.terms, welcome.heartbeat_ms, welcome.dead_after_ms)
        link.protocol = welcome.protocol
        return [*changes, self._opened(link, peer, welcome, now)]

    def _opened(self, link: Link, peer: Peer, terms: Hello | Welcome, now: float) -> Opened:
        """Make this connection the peer's link, on the terms that it told."""
        options = self.options
        peer.seen.incarnation, peer.seen.link_no = terms.incarnation, terms.link_no
        peer.link = link.conn
        peer.condition = Condition.ALIVE
        if peer.dial == link.conn:
            peer.dial = None
        if peer.held == link.conn:
            peer.held = peer.challenged = None
        link.incarnation, link.link_no = terms.incarnation, terms.link_no
        link.draining_there = terms.draining
        link.credit_records, link.credit_bytes = terms.credit_records, terms.credit_bytes
        link.granted_records, link.granted_bytes = options.credit_records, options.credit_bytes
        link.chunker = Chunker(
            chunk_bytes=max(1024, min(options.chunk_bytes, terms.chunk_bytes)),
            in_flight_max=max(1, min(options.chunks_in_flight, terms.chunks_in_flight)),
            body_bytes_max=options.body_bytes_max,
        )
        link.liveness = Liveness(now, now)
        link.hello = None
        return Opened(peer.node, link.conn)

    def refused(self, link: Link, refuse: Refuse, now: float) -> list[Change]:
        """The other end turned our dial away, or found our welcome to be of the past."""
        problem = self.unproven(link, link.peer)
        if problem:
            return self.lost(link.conn, f"refused ({refuse.text}), but {problem}", now)
        closed = self._close(link, Event.REFUSED, refuse.text, now)
        change = Refused(link.peer, link.conn, refuse, by_us=False, was_dial=closed.was_dial)
        return [*([closed] if closed.was_open else []), change, *self._unhold(link.peer, now)]

    def _unhold(self, node: str, now: float) -> list[Change]:
        """Accept a held HELLO whose obstacle, our own dial or an older link, is gone."""
        peer = self.peers.get(node)
        if peer is None or peer.held is None or peer.dial is not None or peer.link is not None:
            return []
        link = self.links[peer.held]
        return self._welcome(link, now)

    # Who is to be believed

    def unproven(self, link: Link, node: str) -> str:
        """Return why whoever is at the other end is not proven to be a node, or an empty string."""
        return judge(link.proof, node) if self.identity.endpoint.public_key else ""

    def trust(self, certificate: bytes, revoked: list[str], now: float) -> list[Change]:
        """Show this certificate from now on, and end every connection that was made by one of these public keys."""
        self.identity = replace(self.identity, certificate=certificate)
        changes: list[Change] = []
        keys = dict.fromkeys(revoked)
        for link in list(self.links.values()):
            if link.conn in self.links and link.proof is not None and link.proof.key in keys:
                changes += self.lost(link.conn, f"the key of {link.proof.node!r} was revoked", now)
        return changes

    def expired(self, now: float) -> list[str]:
        """Return the nodes whose open links stand on certificates that have expired."""
        open_links = [link for link in self.links.values() if link.phase is Phase.OPEN]
        return [link.peer for link in open_links if link.proof is not None and link.proof.until <= now]

    # Life

    def heard(self, link: Link, now: float) -> None:
        """Something arrived on an established link: it is alive."""
        link.liveness.heard(now)
        self.peers[link.peer].condition = Condition.ALIVE

    def keep(self, link: Link, persistent: bool) -> None:
        """Decide whether this end wants the link persistent, and tell the other."""
        if link.keep_here != persistent and link.usable:
            link.keep_here = persistent
            self.say(link, Keep(persistent))

    def leave(self, link: Link, reason: str, now: float, *, final: bool = False) -> None:
        """Say goodbye on an open link; ``final``: whatever the other end has open."""
        if link.phase is Phase.OPEN:
            goodbye(link, reason, now, final=final)
            self.dirty[link.conn] = None

    def goodbye_heard(self, link: Link, now: float, *, final: bool = False) -> None:
        """The other end starts nothing new: nor do we. ``final``: nor may it on the next link."""
        link.goodbye_heard = True
        link.draining_there |= final
        goodbye(link, "answer", now)
        self.dirty[link.conn] = None

    def pong(self, link: Link, pong: Pong, now: float) -> list[Change]:
        """Take the answer to a ping of ours; its stamp is our clock in microseconds.

        If the link was challenged since, it is alive, and the challenger is refused. Only an answer to the challenge
        itself proves that: other bytes may have been on their way when the sender died.
        """
        rtt = now - pong.stamp / 1e6
        if 0 <= rtt <= link.terms.dead_after_s:
            link.rtt_s, link.rtt_at = rtt, now
        peer = self.peers[link.peer]
        if peer.challenged is None or pong.stamp < peer.challenged or peer.held is None:
            return []
        text = f"two agents have the node id {peer.node!r}: you, and one that is alive at {peer.endpoint}"
        refuse = Refuse(int(RefuseReason.DUPLICATE_NODE), text, link.incarnation)
        return [self.refuse(self.links[peer.held], peer.node, refuse, now)]

    def grant(self, link: Link) -> None:
        """Widen the peer's window if enough of it was taken up."""
        window = link.grant(self.options)
        if window is not None:
            self.say(link, Credit(*window))

    def lagged(self, lag_s: float) -> None:
        """This node's own loop came late: nobody else's silence includes that time."""
        for link in self.links.values():
            link.liveness.lagged(lag_s)
            if link.phase in (Phase.DIALLING, Phase.GREETING, Phase.UNPROVEN, Phase.HELD):
                link.since += lag_s

    def tick(self, busy: Container[str], now: float) -> list[Change]:
        """Ping what is due, judge the silent, end what took too long. ``busy``: nodes with something outstanding."""
        changes: list[Change] = []
        for link in list(self.links.values()):
            if link.phase in (Phase.OPEN, Phase.LEAVING):
                changes += self._beat(link, link.peer in busy, now)
            elif link.conn in self.links and now - link.since >= self._patience_s(link):
                changes += self._timed_out(link, now)
        return changes

    def _patience_s(self, link: Link) -> float:
        return self.options.hello_timeout_s * (HELD_SHARE if link.phase is Phase.HELD else 1)

    def _beat(self, link: Link, busy: bool, now: float) -> list[Change]:
        if link.phase is Phase.LEAVING:
            if now - link.since >= self.options.drain_s:
                return self.lost(link.conn, "goodbye was not answered within drain_s", now)
        elif not busy and not link.persistent:
            link.liveness.heard_at = max(link.liveness.heard_at, now - link.terms.heartbeat_s)
            return []
        peer = self.peers[link.peer]
        peer.condition = link.liveness.condition(link.terms, now)
        if peer.condition is Condition.DEAD:
            peer.suspected_at = now
            silence = link.liveness.silence_s(now)
            return self.lost(link.conn, f"silent for {silence:.1f} s: dead", now)
        # A peer that only listens owes us nothing: unless it is asked for a sign of life, it would pass for dead.
        since_ping_s, beat_s = now - link.rtt_at, link.terms.heartbeat_s
        is_silent = since_ping_s >= beat_s and link.liveness.silence_s(now) >= beat_s
        if is_silent or link.liveness.ping_due(link.terms, now) or since_ping_s >= RTT_PROBE_BEATS * beat_s:
            link.rtt_at = now
            self.say(link, Ping(_stamp(now)))
        return []

    def _timed_out(self, link: Link, now: float) -> list[Change]:
        if link.phase is not Phase.HELD:
            return self.lost(link.conn, f"no {_AWAITED[link.phase]} within hello_timeout_s", now)
        peer = self.peers[link.peer]
        reason = "held too long" if peer.dial is not None else "challenged, and silent"
        obstacles = [self.links[conn] for conn in (peer.dial, peer.link) if conn is not None]
        changes: list[Change] = [self._close(obstacle, Event.LOST, reason, now) for obstacle in obstacles]
        return changes + self._unhold(peer.node, now)


_AWAITED = {Phase.DIALLING: "connection", Phase.GREETING: "WELCOME", Phase.UNPROVEN: "HELLO"}


def _stamp(now: float) -> int:
    return int(now * 1e6)
