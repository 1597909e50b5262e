"""What a recording tells of one message: when it came to this agent, where it went from here, and how it ended.

The recording is replayed, so that what the node decided is seen too, and not only what it was told. A recording covers
the time from its first segment on; what it began with of the message is said first.
"""

from collections.abc import Iterable, Iterator

from msgspec import Struct, field

from mesh.core.effects import Note
from mesh.core.inbox import Stage
from mesh.core.node import Node
from mesh.core.notes import LINK_CLOSED, LINK_LOST
from mesh.core.outbox import Place
from mesh.core.recording import Recording
from mesh.core.records import (
    Accepted,
    Answer,
    Ask,
    Cancel,
    Failure,
    GiveBack,
    Kind,
    Receipt,
    Record,
    Reply,
    Request,
    Settled,
    Status,
    Targets,
    Verdict,
)
from mesh.sim.replay import Outcome, Step, replay
from mesh.types import MessageId

__all__ = ["Passage", "Story", "story"]

_ENDS = (Reply, Failure, Receipt, Settled)


class Passage(Struct, frozen=True):
    """One thing that happened to the message, ``at_s`` since the recording began.

    ``way``: ``←`` from whom it came, ``→`` to whom it went, ``✕`` who was lost while the message was open with them."""

    at_s: float
    way: str
    whom: str
    what: str


class Story(Struct):
    """What one agent knows of a message.

    ``at_first``: what it had of it when the recording begins; ``from_start``: whether that is when its reactor began;
    ``whole``: whether the replay came through to its end; ``length_s``: how long the recording is. ``open_with``: who
    has the message, or was asked about it, and has not answered: links by their peers, apps by their connections, and
    by their sessions when they have lost those."""

    node: str
    incarnation: int
    from_start: bool = False
    at_first: str = ""
    passages: list[Passage] = field(default_factory=list)
    handed_to: str = ""
    ran: bool = False
    ended: str = ""
    whole: bool = True
    length_s: float = 0.0
    open_with: dict[str, None] = field(default_factory=dict)

    @property
    def peers(self) -> list[str]:
        """The nodes that it came from or went to, in order."""
        links = (passage.whom.split() for passage in self.passages if passage.whom.startswith("link "))
        return list(dict.fromkeys(words[1] for words in links if words[1] != "?"))

    @property
    def verdict(self) -> str:
        """What this agent knows of how it went, in a sentence."""
        if not (self.passages or self.at_first):
            return "nothing of it: it did not come here in that time"
        words = []
        if self.ran:
            words.append("its handler ended here")
        elif self.handed_to:
            words.append(f"it was handed to {self.handed_to}, and nothing came back: it may have run")
        if self.ended:
            words.append(f"its app was told here: {self.ended}")
        return "; ".join(words) or "it passed, and did not end here"


def story(recording: Recording, id: MessageId) -> Story:
    """Return what a recording tells of a message; raises ValueError for one that cannot be replayed here."""
    header = recording.header
    told = Story(header.node, header.incarnation)
    if recording.segments:
        node = recording.segments[0].node(header.options)
        told.at_first = _at_first(node, id)
        told.from_start = node.state.ticked_at == node.state.started_at
    for each in replay(recording):
        if isinstance(each, Outcome):
            told.whole &= each.same
            continue
        told.length_s = max(told.length_s, each.at_s)
        _hear(told, each, id)
    return told


def _hear(told: Story, step: Step, id: MessageId) -> None:
    sessions = step.sessions if id.node == told.node else {}
    for record in step.told:
        what = _about(record, id, sessions.get(step.whom, 0))
        if what:
            told.passages.append(Passage(step.at_s, "←", step.whom, what))
            _move(told, step.whom, record)
            is_of_app = step.whom.startswith("app ")
            told.ran |= is_of_app and isinstance(record, Reply | Settled)
            told.ran |= is_of_app and isinstance(record, Failure) and record.status == Status.REMOTE_ERROR
    for end, whom, why in _lost(step):
        if end in told.open_with and not told.ended:
            told.passages.append(Passage(step.at_s, "✕", whom, why))
            del told.open_with[end]
            if step.entry == "app_closed" and not step.facts["dead"]:
                told.open_with[_session(step.sessions[whom])] = None
    for whom, records in step.said:
        session = sessions.get(whom, 0)
        for record in records:
            what = _about(record, id, session)
            if what:
                told.passages.append(Passage(step.at_s, "→", whom, what))
                _move(told, whom, record)
                if isinstance(record, Request) and whom.startswith("app "):
                    told.handed_to = whom
                elif isinstance(record, _ENDS) and session == id.session:
                    told.ended = what


def _move(told: Story, whom: str, record: Record) -> None:
    """Keep with whom the message is open."""
    if isinstance(record, Request | Ask):
        told.open_with[_end(whom)] = None
    elif isinstance(record, (*_ENDS, GiveBack)):
        closed = [end for end in told.open_with if end == _end(whom) or end.startswith("session ")]
        for end in closed:
            del told.open_with[end]


def _end(whom: str) -> str:
    """Return who is at the other end: an app's connection is its own, a peer is the same by any link."""
    return whom.partition(" #")[0] if whom.startswith("link ") else whom


def _session(session: int) -> str:
    return f"session {session:x}"


def _lost(step: Step) -> Iterator[tuple[str, str, str]]:
    """Yield the ends that were lost in a step, who that is, and why."""
    if step.entry == "app_closed":
        yield step.whom, step.whom, "its process is gone" if step.facts["dead"] else "its connection is lost"
    elif step.entry == "app_died":
        yield _session(step.facts["session"]), step.whom, "its process is gone"
    for effect in step.effects:
        if isinstance(effect, Note) and effect.name in (LINK_LOST, LINK_CLOSED):
            ended = "lost" if effect.name == LINK_LOST else "closed"
            whom = f"link {effect.facts['peer']}"
            yield whom, whom, f"the link is {ended}: {effect.facts['why']}"


def _at_first(node: Node, id: MessageId) -> str:
    """Return what of the message is in a node's state."""
    state, key = node.state, (id.session, id.seq)
    entry = state.outbox.entries.get(key) if id.node == node.context.node else None
    if entry is not None:
        places = {
            Place.WAITING: "waiting for somebody who serves its topic",
            Place.QUEUED: f"on its way to {entry.target[0]}",
            Place.PLACED: f"with {entry.target[0]}",
            Place.ASKED: f"asked about at {', '.join(sorted(node for node, _ in entry.asked))}",
        }
        return places[entry.place]
    if id.node == node.context.node and key in state.fans:
        return f"a fan-out that waits for {', '.join(state.fans[key].pending)}"
    handed = state.inbox.find((id.node, *key))
    if handed is None:
        return ""
    return {Stage.QUEUED: "waiting for an app here", Stage.HANDED: "with an app here", Stage.ENDED: "ended here"}[
        handed.stage
    ]


# One record


def _about(record: Record, id: MessageId, session: int) -> str:
    """Return what a record says of the message, in words; empty: nothing. ``session``: of the app at the other end,
    whose own records leave out whose they are."""
    return next((text for mine, text in _said(record, id, session) if mine), "")


def _said(record: Record, id: MessageId, session: int) -> Iterator[tuple[bool, str]]:
    whose = (id.node, id.session)
    is_own = session == id.session
    if isinstance(record, Request):
        is_it = record.seq == id.seq and ((record.node, record.session) == whose or (not record.node and is_own))
        yield is_it, _asked(record)
    elif isinstance(record, Reply):
        yield (record.node, record.session, record.seq) == id, "its reply"
    elif isinstance(record, Failure):
        yield (record.node, record.session, record.seq) == id, f"{Status(record.status).name}: {record.text}"
    elif isinstance(record, Receipt):
        text = f"{record.finished} of {record.asked} finished, {record.failed} failed, {record.unknown} unknown"
        yield (record.node, record.session, record.seq) == id, text
    elif isinstance(record, Settled):
        text = "its handler raised" if record.failed else "its handler ended"
        yield (record.node, record.session) == whose and _within(id.seq, record.ranges), text
    elif isinstance(record, Accepted):
        yield is_own and _within(id.seq, record.ranges), "it is held"
    elif isinstance(record, GiveBack):
        yield (record.node, record.session, record.seq) == id, f"given back, not run: {record.text}"
    elif isinstance(record, Cancel):
        yield record.seq == id.seq and ((record.node, record.session) == whose or is_own), "it is given up"
    elif isinstance(record, Targets):
        yield is_own and record.seq == id.seq, f"it goes to {', '.join(node for node, _ in record.nodes)}"
    elif isinstance(record, Ask):
        yield record.node == id.node and (id.session, id.seq) in record.ids, "what became of it?"
    elif isinstance(record, Answer):
        for asked, verdict in zip(record.ids, record.verdicts, strict=False):
            yield record.node == id.node and asked == (id.session, id.seq), f"{Verdict(verdict).name} is the answer"


def _asked(request: Request) -> str:
    to = f"{request.topic}@{request.server}" if request.server else request.topic
    again = f", sent {request.dispatch} times" if request.dispatch > 1 else ""
    return f"{Kind(request.kind).name.lower()} to {to!r}, {request.timeout_ms / 1000:g} s left{again}"


def _within(seq: int, ranges: Iterable[tuple[int, int]]) -> bool:
    return any(first <= seq <= last for first, last in ranges)
