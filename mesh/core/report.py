"""What an agent tells of itself, for people and programs: one pure function for each question, answered in JSON."""

from collections.abc import Callable, Mapping

from msgspec import json

from mesh.core.context import NodeOptions, State
from mesh.core.health import Vitals
from mesh.core.inbox import Stage
from mesh.core.link import Phase
from mesh.core.liveness import Condition
from mesh.core.outbox import Place

__all__ = ["REPORTS", "SHELL_REPORTS", "Facts", "limits", "links", "status", "topics", "unfinished", "vitals"]

LAG_WARN_S, LAG_FAIL_S = 1.0, 5.0
"""The least lag that counts, however short the heartbeats are."""

Facts = Mapping[str, object]
"""What only the shell knows: process, descriptors, loop lag, matchmaker."""

Report = Callable[[State, NodeOptions, Facts, Mapping[str, str], float], bytes]


def unfinished(state: State) -> int:
    """Return how much is open here: what apps asked for and has left, what they were asked for, bodies on their way,
    and what is being written to disk."""
    left = len(state.fans) + len(state.durable.unwritten) + len(state.durable.ending)
    left += sum(entry.place in (Place.PLACED, Place.ASKED) for entry in state.outbox.entries.values())
    for caller in state.inbox.callers.values():
        left += sum(handed.stage is not Stage.ENDED for handed in caller.handed.values())
    chunkers = [link.chunker for link in state.peers.links.values()] + [app.chunker for app in state.apps.values()]
    return left + sum(len(chunker.outgoing) for chunker in chunkers)


def vitals(state: State, options: NodeOptions, facts: Facts) -> Vitals:
    """Return how this agent is doing, for its check: the ``facts`` that count are numbers, 0 where not told."""

    def fact(name: str) -> float:
        value = facts.get(name, 0)
        return float(value) if isinstance(value, int | float) else 0.0

    peers = state.peers
    return Vitals(
        draining=state.draining,
        unfinished=unfinished(state),
        lag_s=fact("lasting_lag_ms") / 1000,
        lag_warn_s=max(LAG_WARN_S, options.liveness.heartbeat_s),
        lag_fail_s=max(LAG_FAIL_S, options.liveness.dead_after_s),
        descriptors=int(fact("descriptors")),
        descriptors_max=int(fact("descriptors_max")) or 1,
        waiting=state.outbox.queued,
        waiting_max=options.pool.waiting_records_max,
        remembered=state.inbox.ids,
        remembered_max=options.inbox.ids_max,
        links=sum(link.phase is Phase.OPEN for link in peers.links.values()),
        lost=tuple(
            node
            for node, slot in state.pool.slots.items()
            if (slot.wanted or slot.persistent or slot.leases)
            and peers.open_link(node) is None
            and (peer := peers.peers.get(node)) is not None
            and peer.condition is not Condition.ALIVE
        ),
        clock_behind_s=fact("clock_behind_s"),
    )


def status(state: State, options: NodeOptions, facts: Facts, arguments: Mapping[str, str], now: float) -> bytes:
    """Return who this agent is and how it is doing."""
    identity = state.peers.identity
    return json.encode(
        {
            "node": identity.node,
            "fleet": identity.fleet,
            "incarnation": identity.incarnation,
            "endpoint": str(identity.endpoint),
            "draining": state.draining,
            "stopping": state.stopping,
            "unfinished": unfinished(state),
            "apps": [
                {
                    "name": app.name,
                    "namespace": app.namespace,
                    "pid": app.pid,
                    "user": app.who.user,
                    "groups": app.who.groups,
                    "session": f"{app.session:x}",
                    "attached": app.conn is not None,
                    "outstanding_records": app.records,
                    "outstanding_bytes": app.bytes,
                    "serves": [{"topic": s.topic, "server": s.server} for s in app.services.values()],
                }
                for app in state.apps.values()
            ],
            "links": sum(link.phase is Phase.OPEN for link in state.peers.links.values()),
            "links_max": options.pool.links_max,
            "outstanding": len(state.outbox.entries) + len(state.fans),
            "waiting": state.outbox.queued,
            "remembered": sum(len(caller.handed) for caller in state.inbox.callers.values()),
            "totals": {
                "calls": state.totals.calls,
                "casts": state.totals.casts,
                "fanouts": state.totals.fanouts,
                "served": state.totals.served,
                "casts_failed": state.totals.casts_failed,
                "poisoned": state.totals.poisoned,
                "outcomes": {str(status): count for status, count in state.totals.outcomes.items()},
                "limits": state.totals.limits,
            },
            "policy": {
                "default": state.policy.default,
                "rules": len(state.policy.rules),
                "refused": {rule: tally.count for rule, tally in state.refusals.items()},
            },
            "spool": {
                "state": state.durable.phase.name.lower(),
                "problem": state.durable.why,
                "records": state.durable.totals.records,
                "bytes": state.durable.totals.bytes,
                "oldest_s": round(state.durable.totals.oldest_s, 3),
                "in_memory": state.durable.held,
                "dead": state.durable.totals.dead,
                "records_max": options.durable.spool_records_max,
                "bytes_max": options.durable.spool_bytes_max,
            },
            **facts,
        }
    )


def links(state: State, options: NodeOptions, facts: Facts, arguments: Mapping[str, str], now: float) -> bytes:
    """Return every link: to whom, of what kind and why, its round trip, and what went over it."""
    rows = []
    for link in state.peers.links.values():
        peer = state.peers.peers.get(link.peer)
        slot = state.pool.slots.get(link.peer)
        topics = [
            {
                "topic": str(topic),
                "hot": state.heats.is_hot(topic, options.heat),
                "pin": options.heat.pin.get(topic.topic),
                "rate": round(state.heats.rate(topic), 3),
            }
            for topic in (slot.topics if slot else ())
        ]
        rows.append(
            {
                "peer": link.peer or "?",
                "phase": link.phase.name.lower(),
                "kind": "persistent" if link.persistent else "ephemeral",
                "dialled": link.dialled,
                "kept_by": [side for side, keeps in (("us", link.keep_here), ("them", link.keep_there)) if keeps],
                "topics": topics,
                "condition": peer.condition.name.lower() if peer else "unknown",
                "rtt_ms": round(link.rtt_s * 1000, 3) if link.rtt_s is not None else None,
                "heard_s": round(max(0.0, now - link.liveness.heard_at), 3),
                "age_s": round(now - link.since, 3),
                "leases": slot.leases if slot else 0,
                "records_in": link.records_in,
                "records_out": link.records_out,
                "bytes_in": link.bytes_in,
                "bytes_out": link.bytes_out,
            }
        )
    return json.encode(rows)


def topics(state: State, options: NodeOptions, facts: Facts, arguments: Mapping[str, str], now: float) -> bytes:
    """Return every topic of interest here: its heat, and who serves it."""
    rows = []
    for key, view in sorted(state.directory.views.items()):
        instances = {**view.listed, **view.local}
        rows.append(
            {
                "topic": key.topic,
                "namespace": key.namespace,
                "hot": state.heats.is_hot(key, options.heat),
                "pin": options.heat.pin.get(key.topic),
                "rate": round(state.heats.rate(key), 3),
                "known": view.known or bool(view.local),
                "waiting": len(state.outbox.waiting.get(key, ())),
                "instances": [
                    {
                        "node": instance.agent.node,
                        "server": instance.server,
                        "session": f"{instance.session:x}",
                        "endpoint": str(instance.agent.endpoint),
                        "health": instance.health.name.lower(),
                        "local": instance_key in view.local,
                        "hidden": instance_key in view.hidden,
                    }
                    for instance_key, instance in sorted(instances.items())
                ],
                "absent": [str(gone.node) + "/" + gone.server for gone in view.absent],
            }
        )
    return json.encode(rows)


def limits(state: State, options: NodeOptions, facts: Facts, arguments: Mapping[str, str], now: float) -> bytes:
    """Return, by option, how much of each limit is used: of those for each app or service, by the one nearest to it."""
    apps, inbox = state.apps.values(), options.inbox
    services = [service for app in apps for service in app.services.values()]
    used: dict[str, tuple[float, float]] = {
        "links_max": (state.pool.taken, options.pool.links_max),
        "waiting_records_max": (state.outbox.queued, options.pool.waiting_records_max),
        "watches_max": (sum(view.watched for view in state.directory.views.values()), options.directory.watches_max),
        "outstanding_records": (max((app.records for app in apps), default=0), options.outbox.outstanding_records),
        "outstanding_bytes": (max((app.bytes for app in apps), default=0), options.outbox.outstanding_bytes),
        "rate_burst_records": (_burst(state, options, now), options.outbox.rate_burst_records),
        "user_connections_max": (max(state.seats.counts.values(), default=0), options.seats.user_connections_max),
        "outcomes_bytes": (max((app.outcomes_bytes for app in apps), default=0), options.outbox.outcomes_bytes),
        "reach_max": (max((len(app.reached) for app in apps), default=0), options.outbox.reach_max),
        "queue_records": (max((s.queued for s in services), default=0), inbox.queue_records),
        "queue_bytes": (max((s.queued_bytes for s in services), default=0), inbox.queue_bytes),
        "handed_bytes": (max((s.running_bytes for s in services), default=0), inbox.handed_bytes),
        "ids_max": (state.inbox.ids, inbox.ids_max),
        "answers_bytes": (state.inbox.answers_bytes, inbox.answers_bytes),
        "view_nodes_max": (len(state.views.heard), options.view.view_nodes_max),
    }
    return json.encode({name: {"used": now_used, "max": most} for name, (now_used, most) in used.items()})


def _burst(state: State, options: NodeOptions, now: float) -> float:
    """Return how much of its burst the app has used that has used most, where apps are held to a rate."""
    rate = options.outbox.rate_records_per_s
    return round(max((app.bucket.settle(rate, now) for app in state.apps.values()), default=0.0), 3) if rate else 0


REPORTS: dict[str, Report] = {"status": status, "links": links, "topics": topics, "limits": limits}
"""What a query may ask for."""

SHELL_REPORTS = ("recorder", "recorder_dump", "reload")
"""What of it only the shell can answer: how its recorder is doing, where it wrote a recording just now, and what became
of reading its keys and its policy anew."""
