"""Replaying a recording: the same core, told the same inputs, decides the same.

The node of the first segment goes on through all of them. At the start of each further one its state must be the state
that was recorded there; if it is not, the two versions of the core differ, or something was not recorded.
"""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct, field

from mesh.core.codec import decode
from mesh.core.context import State
from mesh.core.effects import Effect
from mesh.core.node import Node, Output
from mesh.core.recording import Input, Recording, apply, arguments_of, digest, name_of
from mesh.core.records import Record
from mesh.errors import ProtocolError

__all__ = ["Outcome", "Step", "replay"]


class Step(Struct, frozen=True):
    """One input and what the node decided on it.

    ``at_s``: since the recording began. ``whom``: who said it, or which connection it is about. ``told``: what records
    it brought; ``facts``: its other arguments. ``said``: the records that left, by destination, and ``effects``; both
    are decided earlier in the turn than the `take` that brings them. ``raised``: what the node broke with.
    ``sessions``: those of the apps that are named, by their names here.
    """

    segment: int
    at_s: float
    entry: str
    whom: str
    told: list[Record] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    said: list[tuple[str, list[Record]]] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    raised: str = ""
    sessions: dict[str, int] = field(default_factory=dict)

    @property
    def says_something(self) -> bool:
        """Whether it is more than time passing."""
        return self.entry not in ("take", "tick", "deadline") or bool(self.said or self.effects or self.raised)


class Outcome(Struct, frozen=True):
    """How the state at the end of a segment compares with the recorded one, by their digests."""

    segment: int
    recorded: str
    replayed: str

    @property
    def same(self) -> bool:
        return self.recorded == self.replayed


def replay(recording: Recording) -> Iterator[Step | Outcome]:
    """Step a node through a recording. Ends at the first segment whose end differs, and with what the node raises.

    Raises ValueError for a state that this version of the node cannot be in.
    """
    header, segments = recording.header, recording.segments
    if not segments:
        return
    node = segments[0].node(header.options)
    began = node.state.ticked_at
    for number, segment in enumerate(segments):
        if number:
            outcome = Outcome(number - 1, _recorded(recording, number), digest(node.state, bodies=header.bodies))
            yield outcome
            if not outcome.same:
                return
        now = began
        for input in segment.inputs:
            now = getattr(input, "now", now)
            step = _step(node, input, number, now - began)
            yield step
            if step.raised:
                return


def _recorded(recording: Recording, number: int) -> str:
    state = recording.segments[number].node(recording.header.options).state
    return digest(state, bodies=recording.header.bodies)


def _step(node: Node, input: Input, segment: int, at_s: float) -> Step:
    entry, facts = name_of(input), arguments_of(input)
    facts.pop("now", None)
    conn = facts.get("conn", 0)
    session = node.state.conns.get(conn, 0)
    whom = _whom(node.state, entry, facts)
    told = _records(facts.pop("data")) if "data" in facts else []
    said: list[tuple[str, list[Record]]] = []
    effects: list[Effect] = []
    raised = ""
    try:
        result = apply(node, input)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what broke the node
        raised = f"{type(error).__name__}: {error}"
    else:
        if isinstance(result, Output):
            said = [(_app(node.state, conn), _records(data)) for conn, data in result.app_data]
            said += [(_peer(node.state, conn), _records(data)) for conn, data in result.link_data]
            effects = result.effects
    sessions = {whom: node.state.conns.get(conn, session)} if entry.startswith("app_") else {}
    if not raised and isinstance(result, Output):
        sessions = {_app(node.state, conn): node.state.conns.get(conn, 0) for conn, _ in result.app_data}
    return Step(segment, at_s, entry, whom, told, facts, said, effects, raised, sessions)


def _whom(state: State, entry: str, facts: dict[str, Any]) -> str:
    if "conn" in facts:
        conn = facts.pop("conn")
        return _app(state, conn) if entry.startswith("app_") else _peer(state, conn)
    if "session" in facts:
        app = state.apps.get(facts["session"])
        return f"app {app.name}" if app else "app ?"
    return ""


def _app(state: State, conn: int) -> str:
    app = state.apps.get(state.conns.get(conn, 0))
    return f"app {app.name} #{conn}" if app else f"app #{conn}"


def _peer(state: State, conn: int) -> str:
    link = state.peers.links.get(conn)
    return f"link {link.peer or '?'} #{conn}" if link else f"link #{conn}"


def _records(data: bytes) -> list[Record]:
    try:
        return decode(data).records
    except ProtocolError:
        return []
