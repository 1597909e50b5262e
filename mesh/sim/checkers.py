"""What must be true of nodes and sessions: their budgets always, and empty tables when nothing is left to do."""

from collections.abc import Callable, Iterator

import msgspec

from mesh.client.session import Session
from mesh.core.durable import Durable
from mesh.core.effects import Note
from mesh.core.ledger import Expire
from mesh.core.link import Phase
from mesh.core.monitor import MONITOR_MIN_S
from mesh.core.node import Node
from mesh.core.notes import APP_MALFORMED, DUPLICATE_NODE, LINK_MALFORMED
from mesh.core.outbox import Key
from mesh.core.pool import State as SlotState
from mesh.core.records import Ask, Request

__all__ = ["alarm", "leaks", "over_budget", "overdue", "session_leaks", "stale_send", "tags", "unwatched"]

_ALARMS = (APP_MALFORMED, DUPLICATE_NODE, LINK_MALFORMED)
"""Notes that nothing but a defect can cause: the simulated network never delivers a wrong bit."""

_WORK = (Request.__struct_config__.tag, Ask.__struct_config__.tag)

LATE_S = 1.0
"""How late a node may end a request: its ticks, and the grain of its timers."""

_decoder = msgspec.msgpack.Decoder(tuple[int, list[msgspec.Raw]])


def tags(data: bytes) -> list[int]:
    """Return the tags of a frame's records."""
    found = []
    for raw in _decoder.decode(data)[1]:
        view = memoryview(raw)
        found.append(view[1] if view[0] < 0xDC else view[3])
    return found


def alarm(note: Note) -> str:
    """Return what a note tells of a defect, or an empty string."""
    if note.name not in _ALARMS:
        return ""
    return f"{note.name} {' '.join(f'{key}={value}' for key, value in note.facts.items())}"


def stale_send(node: Node, conn: int, data: bytes) -> str:
    """Return what is wrong with sending this frame on a connection: work for an incarnation known to be dead."""
    link = node.state.peers.links.get(conn)
    if link is None or link.phase is not Phase.OPEN:
        return ""
    seen = node.state.peers.peers[link.peer].seen
    if (link.incarnation, link.link_no) == (seen.incarnation, seen.link_no):
        return ""
    if not any(tag in _WORK for tag in tags(data)):
        return ""
    return f"work goes to {link.peer} as {link.incarnation}.{link.link_no}, which was succeeded by {seen.incarnation}"


def over_budget(node: Node) -> Iterator[str]:
    """Return which limits a node has exceeded."""
    state, options = node.state, node.options
    if state.pool.taken > options.pool.links_max:
        yield f"{state.pool.taken} places are taken of links_max = {options.pool.links_max}"
    established = sum(link.phase in (Phase.OPEN, Phase.LEAVING) for link in state.peers.links.values())
    if established > options.pool.links_max:
        yield f"{established} links are open, above links_max = {options.pool.links_max}"
    for app in state.apps.values():
        if app.records > options.outbox.outstanding_records:
            yield f"{app.records} records of {app.name} are outstanding, above outstanding_records"
        for service in app.services.values():
            if service.queued > options.inbox.queue_records:
                yield f"{service.queued} wait for {service.topic} of {app.name}, above queue_records"
            if len(service.running) > max(service.workers, service.prefetch):
                yield f"{len(service.running)} run at {app.name}, above its {service.workers} workers and its prefetch"
    if state.inbox.answers_bytes > options.inbox.answers_bytes:
        yield f"{state.inbox.answers_bytes} bytes of answers are kept, above answers_bytes"


def overdue(node: Node, now: float) -> Iterator[str]:
    """Return which requests a node, which is not stopped, should have ended by now."""
    for kept in (node.state.outbox.entries, node.state.fans):
        for key, held in kept.items():
            if held.deadline + LATE_S < now:
                yield f"{key} is kept, and was due {now - held.deadline:.3f} s ago"


def unwatched(node: Node, silent_s: Callable[[Key, int], float]) -> Iterator[str]:
    """Return which watched calls that must not run twice a node goes on waiting for though their app is silent:
    ``silent_s`` says for how long a session that has begun one shows no sign of life, 0 if it may."""
    outbox = node.state.outbox
    for key in outbox.monitored:
        entry = outbox.entries[key]
        limit_s = max(MONITOR_MIN_S, entry.request.monitor_ms / 1000)
        if not entry.repeatable and entry.nodes and silent_s(key, entry.target[1]) > limit_s + LATE_S / 2:
            yield f"{key} waits for an app that is stopped, though that may be silent for {limit_s:g} s only"


def leaks(node: Node) -> Iterator[str]:
    """Return which tables of a node are not empty though nothing is outstanding anywhere."""
    state, context, outbox = node.state, node.context, node.state.outbox
    yield from _not_empty(
        {
            "entries": outbox.entries,
            "by_target": outbox.by_target,
            "waiting": outbox.waiting,
            "queues": outbox.queues,
            "held": outbox.held,
            "queued": outbox.queued,
            "inquiries": outbox.inquiries,
            "unasked": outbox.unasked,
            "timers of calls": outbox.wheel.buckets,
            "fans": state.fans,
            "timers of requests": state.inbox.wheel.buckets,
            "answers_bytes": state.inbox.answers_bytes,
            "handed": [h.id for caller in state.inbox.callers.values() for h in caller.handed.values()],
            "pending": state.pending,
            "dirty_apps": state.dirty_apps,
            "departing": state.departing,
            "kept questions": state.questions,
            "dirty links": state.peers.dirty,
            "parting links": state.peers.parting,
            "loopback": context.loopback,
            "gathering": state.gathering,
            "monitored": outbox.monitored,
            "leased slots": [slot.node for slot in state.pool.slots.values() if slot.leases],
            "wanted slots": [slot.node for slot in state.pool.slots.values() if slot.wanted],
        }
    )
    gone = [session for session in state.durable.ended if session not in state.apps]
    yield from _not_empty({**_durable_tables(state.durable), "ended casts of sessions that are gone": gone})
    for app in state.apps.values():
        yield from _not_empty(
            {
                f"{app.name}: records": app.records,
                f"{app.name}: bytes": app.bytes,
                f"{app.name}: outcomes": app.outcomes,
                f"{app.name}: out": app.out,
                f"{app.name}: streams out": app.chunker.outgoing,
                f"{app.name}: streams in": app.chunker.incoming,
            }
        )
        for service in app.services.values():
            name = f"{app.name}, {service.topic}"
            yield from _not_empty(
                {
                    f"{name}: queued": service.queued,
                    f"{name}: queued_bytes": service.queued_bytes,
                    f"{name}: running": service.running,
                    f"{name}: running_bytes": service.running_bytes,
                    f"{name}: overrun": service.overrun,
                }
            )
    taken = sum(slot.state is not SlotState.CLOSED for slot in state.pool.slots.values())
    if not state.pool.taken == taken == len(state.peers.links):
        yield f"{state.pool.taken} places are taken, {taken} slots are, {len(state.peers.links)} links are there"
    for link in state.peers.links.values():
        yield from _not_empty(
            {
                f"link to {link.peer}: streams out": link.chunker.outgoing,
                f"link to {link.peer}: streams in": link.chunker.incoming,
                f"link to {link.peer}: chunks in flight": link.chunker.in_flight,
            }
        )


def _durable_tables(durable: Durable) -> dict[str, object]:
    """Return what is kept of durable casts. That the spool is asked for what has expired is no leak."""
    return {
        "unwritten": durable.unwritten,
        "unwritten_bytes": durable.unwritten_bytes,
        "to be written": [entry for entry in durable.entries if not isinstance(entry, Expire)],
        "being written": [entry for entry in durable.flight or () if not isinstance(entry, Expire)],
        "ending": durable.ending,
        "marks": durable.marks,
        "marking": durable.marking,
        "held on shelves": [topic for topic, shelf in durable.shelves.items() if shelf.held or shelf.left],
        "held": durable.held,
        "held_bytes": durable.held_bytes,
        "left": durable.left,
        "unsure": durable.unsure,
    }


def session_leaks(session: Session) -> Iterator[str]:
    """Return what a client session still holds though nothing is outstanding anywhere."""
    calling, serving = session.calling, session.serving
    yield from _not_empty(
        {
            "pending": calling.pending,
            "bytes": calling.bytes,
            "unheld": calling.unheld,
            "queue": [seq for seq in calling.queue if seq in calling.pending],
            "in_hand": serving.in_hand,
            "settling": serving.settling,
            "works": [seq for caller in serving.callers.values() for seq in caller.works],
            "ids": serving.ids,
            "answers_bytes": serving.answers_bytes,
            "out": session.out,
            "streams out": session.connection.chunker.outgoing,
            "streams in": session.connection.chunker.incoming,
        }
    )
    if calling.floor != calling.next_seq:
        yield f"the floor is at {calling.floor}, the next seq is {calling.next_seq}"


def _not_empty(tables: dict[str, object]) -> Iterator[str]:
    for name, table in tables.items():
        if table:
            yield f"{name} is not empty: {str(table)[:200]}"
