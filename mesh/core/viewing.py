"""Looking at the whole fleet from one agent.

While somebody looks, the agent asks those it has a link to, every `view_s`, and learns from the matchmaker which others
there are; some of these it dials, those first of which it knows least. A link that was opened for it closes when it is
idle, as any other. So a look costs each other agent one record now and then, and no fleet becomes fully connected by
it. What is not known is not made up: every part bears its age.
"""

from collections.abc import Mapping, Sequence

from msgspec import MsgspecError, Raw, json

from mesh.core import notes
from mesh.core.catalogue import AgentEntry
from mesh.core.context import Context, NodeOptions, State
from mesh.core.effects import FindAgents, Level
from mesh.core.link import Link, Phase
from mesh.core.liveness import Condition
from mesh.core.pool import Action
from mesh.core.records import Query, Report
from mesh.core.views import (
    VIEW_BYTES_MAX,
    AppView,
    CallView,
    Heard,
    LinkView,
    NodeView,
    ServiceView,
    TopicView,
)

__all__ = ["FLEET_BYTES_MAX", "VIEW", "Viewing", "fleet_of", "view_of"]

VIEW = "view"
"""What an agent queries of another."""

FLEET_BYTES_MAX = 1 << 19
"""About what one page of `fleet_of` has at most; one node more may be in it."""

LOOK_S = 10.0
"""How long a look lasts: who goes on looking says so again within it."""

REMEMBER_S = 60.0
"""How long after the last look, and of a node that has gone, what was seen is kept."""

AGENTS_S = 5.0
"""How often the matchmaker is asked which agents there are."""

SAY_S = 0.5
"""What this node tells of itself is that old at most; it is made once for all that ask within it."""

TELLS_MAX = 4
"""How often one peer is told that: a peer that asks without end gets little for it."""

_ROWS = (1024, 256, 64, 16, 4, 0)
"""Rows of a kind in a view, most first: as many as fit, and none always does."""

_decoder = json.Decoder(NodeView)


def view_of(state: State, options: NodeOptions, facts: Mapping[str, object], now: float) -> bytes:
    """Return what this node tells of itself, as JSON of a `NodeView` with at most `VIEW_BYTES_MAX` bytes."""
    tries = (json.encode(_view(state, options, facts, most, now)) for most in _ROWS)
    return next(view for view in tries if len(view) <= VIEW_BYTES_MAX)


def _view(state: State, options: NodeOptions, facts: Mapping[str, object], most: int, now: float) -> NodeView:
    identity = state.peers.identity
    open_links = [link for link in state.peers.links.values() if link.phase is Phase.OPEN]
    heats = sorted(state.heats.topics.items(), key=lambda item: -item[1].rate)
    apps = list(state.apps.values())
    inner = min(most, 64)
    left_out = sum(max(0, len(rows) - most) for rows in (open_links, heats, apps))
    left_out += sum(max(0, len(app.services) - inner) + max(0, len(app.calls) - inner) for app in apps[:most])
    matchmaker, lag_ms = facts.get("matchmaker"), facts.get("loop_lag_ms")
    return NodeView(
        node=identity.node,
        incarnation=identity.incarnation,
        state="stopping" if state.stopping else "draining" if state.draining else "serving",
        clock_s=round(now - state.started_at, 3),
        lag_ms=float(lag_ms) if isinstance(lag_ms, int | float) else 0.0,
        matchmaker=matchmaker.get("reachable") if isinstance(matchmaker, Mapping) else None,
        links=[_link(state, link) for link in open_links[:most]],
        topics=[
            TopicView(key.namespace, key.topic, state.heats.is_hot(key, options.heat), round(heat.rate, 3))
            for key, heat in heats[:most]
        ],
        apps=[
            AppView(
                app.name,
                app.namespace,
                app.conn is not None,
                app.records,
                [ServiceView(s.topic, s.server) for s in list(app.services.values())[:inner]],
                [CallView(topic, round(now - at, 3)) for topic, at in list(app.calls.items())[:inner]],
            )
            for app in apps[:most]
        ],
        left_out=left_out,
    )


def _link(state: State, link: Link) -> LinkView:
    slot, peer = state.pool.slots.get(link.peer), state.peers.peers[link.peer]
    return LinkView(
        peer=link.peer,
        persistent=link.persistent,
        condition=peer.condition.name.lower(),
        rtt_ms=round(link.rtt_s * 1000, 3) if link.rtt_s is not None else None,
        in_flight=slot.leases if slot else 0,
        records_in=link.records_in,
        records_out=link.records_out,
        bytes_in=link.bytes_in,
        bytes_out=link.bytes_out,
    )


def fleet_of(
    state: State,
    options: NodeOptions,
    facts: Mapping[str, object],
    now: float,
    after: str = "",
    bytes_max: int = FLEET_BYTES_MAX,
) -> bytes:
    """Return, as JSON, what this node knows of the fleet: of the nodes by name above ``after``, until there are
    ``bytes_max``; ``next``: after which to go on, empty at the end. ``age_s``: of what a node said, null: nothing."""
    views, me = state.views, state.peers.identity
    linked = {link.peer: None for link in state.peers.links.values() if link.phase is Phase.OPEN}
    names = sorted({me.node: None, **linked, **views.listed, **views.heard})
    rows: list[dict[str, object]] = []
    next_name, taken = "", 0
    for name in names:
        if name <= after:
            continue
        if taken >= bytes_max:
            next_name = str(rows[-1]["node"])
            break
        heard = Heard(view_of(state, options, facts, now), now) if name == me.node else views.heard.get(name)
        listed, peer = views.listed.get(name), state.peers.peers.get(name)
        endpoint = me.endpoint if name == me.node else peer.endpoint if peer else None
        rows.append(
            {
                "node": name,
                "endpoint": str(listed.endpoint if listed else endpoint or ""),
                "zone": listed.zone if listed else "",
                "listed": listed is not None,
                "linked": name in linked,
                "condition": (peer.condition if peer else Condition.ALIVE).name.lower(),
                "age_s": round(now - heard.at, 3) if heard else None,
                "view": Raw(heard.view) if heard else None,
            }
        )
        taken += 200 + (len(heard.view) if heard else 0)
    return json.encode(
        {
            "fleet": me.fleet,
            "node": me.node,
            "view_s": options.view.view_s,
            "nodes": rows,
            "unlisted": views.unlisted,
            "next": next_name,
        }
    )


class Viewing:
    """One node's looking at the others, and their looking at it."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.state = context.state
        self.views = context.state.views
        self.options = context.options.view

    def look(self, now: float) -> None:
        """Somebody looks at the fleet: from now on the others are asked, for a while."""
        self.views.looked_at = now

    def asked(self, link: Link, query: Query, now: float) -> None:
        """A peer asks what this node tells of itself."""
        views = self.views
        if query.what != VIEW:
            text = f"this agent tells its peers {VIEW!r}, and not {query.what!r}"
            self.state.peers.say(link, Report(query.seq, False, text.encode()))
            return
        if not views.said or now - views.said_at >= SAY_S:
            views.said, views.said_at = view_of(self.state, self.context.options, self.context.facts, now), now
            views.told.clear()
        count = views.told[link.peer] = views.told.get(link.peer, 0) + 1
        often = f"a peer is told {TELLS_MAX} times within {SAY_S} s at most".encode()
        is_well = count <= TELLS_MAX
        self.state.peers.say(link, Report(query.seq, is_well, views.said if is_well else often))

    def told(self, link: Link, report: Report, now: float) -> None:
        """A peer tells of itself. What was not asked, or is no view, is dropped."""
        views = self.views
        if views.asked.get(link.peer) != report.seq:
            return
        del views.asked[link.peer]
        if link.peer not in views.heard and len(views.heard) >= self.options.view_nodes_max:
            return
        try:
            if not report.ok or len(report.body) > VIEW_BYTES_MAX:
                raise ValueError(report.body[:200].decode(errors="replace"))
            view = _decoder.decode(report.body)
            if view.node != link.peer:
                raise ValueError(f"it tells of {view.node!r}")
        except (MsgspecError, ValueError) as error:
            self.context.note(notes.VIEW_MALFORMED, Level.WARNING, peer=link.peer, why=str(error)[:500])
            return
        views.heard[link.peer] = Heard(json.encode(view), now)

    def agents(self, found: Sequence[AgentEntry]) -> None:
        """The matchmaker says which agents there are; none: it is away, and what it said last stays."""
        if self.views.looked_at is None or not found:
            return
        entries = sorted(found, key=lambda entry: entry.node)
        most = self.options.view_nodes_max
        self.views.listed = {entry.node: entry for entry in entries[:most]}
        self.views.unlisted = max(0, len(entries) - most)

    def tick(self, now: float) -> list[Action]:
        """Ask who is to be asked; return the dials to those without a link."""
        views = self.views
        if views.looked_at is None or now - views.asked_at < self.options.view_s:
            return []
        if now - views.looked_at >= LOOK_S:
            if now - views.looked_at >= REMEMBER_S:
                views.forget()
            return []
        views.asked_at = now
        views.question += 1
        if views.found_at is None or now - views.found_at >= AGENTS_S:
            views.found_at = now
            self.context.effects.append(FindAgents())
        open_links = [link for link in self.state.peers.links.values() if link.phase is Phase.OPEN]
        views.asked = {link.peer: views.question for link in open_links}
        for link in open_links:
            self.state.peers.say(link, Query(views.question, VIEW))
        old = [node for node, heard in views.heard.items() if now - heard.at >= REMEMBER_S]
        for node in [node for node in old if node not in views.listed and node not in views.asked]:
            del views.heard[node]
        return self._dials(now)

    def _dials(self, now: float) -> list[Action]:
        """Dial those without a link of which least is known, while half of the budget stays free for work."""
        views, pool, options = self.views, self.state.pool, self.context.options.pool
        room = min(self.options.view_dials_max, options.links_max // 2 - pool.taken)
        if room <= 0:
            return []
        unlinked = [node for node in views.listed if node not in views.asked and node != self.context.node]
        unlinked.sort(key=lambda node: (views.heard[node].at if node in views.heard else -1.0, node))
        actions: list[Action] = []
        for node in unlinked[:room]:
            entry, peer = views.listed[node], self.state.peers.peer(node)
            peer.endpoint = peer.endpoint or entry.endpoint
            self.state.peers.news(entry)
            actions += pool.want(node, options, now)
        return actions
