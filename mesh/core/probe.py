"""Connections that only ask who is there, and what is made of the answer. They carry nothing and are no links.

Two things are asked so. **Whether this agent can be reached**: a peer is asked to dial it back. And **whether the node
id is ours alone**: who else is entered under it in the catalogue is asked before this agent is entered, and now and
then afterwards. An entry may be what a crash has left, so only its agent's answer counts.

If another agent does live by our node id, one of the two has to go, always the same one whoever asks: a newcomer that
is not entered yet goes; of two that both are, because neither could ask the other at its start, the one that started
later. Who stays enters itself again, in case the other one's entry had replaced it. An elder that does not answer is
left alone until its entry runs out, or two agents that cannot reach each other would replace each other for ever.
"""

import enum

from msgspec import Struct, field

from mesh.core.catalogue import AgentEntry
from mesh.core.link import Link
from mesh.types import Endpoint

__all__ = ["Namesakes", "Probe", "Probes", "Question", "Ruling"]


class Probe(Struct):
    """One connection under way. ``asker``: the peer who asked to be dialled back; ``entry``: or whom we ask."""

    link: Link
    endpoint: Endpoint
    asker: str = ""
    entry: AgentEntry | None = None


class Question(Struct):
    """An app's query that waits for what a peer will say."""

    session: int
    seq: int
    ends_at: float


class Ruling(enum.IntEnum):
    """What is to be done about those who are entered under our node id."""

    ENTER = 0
    WAIT = 1
    YIELD = 2


class Namesakes(Struct):
    """Who else is entered under our node id: how many still have to answer, and what their answers came to."""

    entered: bool = False
    unanswered: int = 0
    ruling: Ruling = Ruling.ENTER

    def answered(self, entry: AgentEntry, incarnation: int, *, alive: bool) -> Ruling:
        """Take one answer, or silence; return what follows from it. ``incarnation`` is our own."""
        self.unanswered -= 1
        is_elder = entry.incarnation < incarnation
        ruling = Ruling.ENTER
        if alive and (is_elder or not self.entered):
            ruling = Ruling.YIELD
        elif is_elder and self.entered:
            ruling = Ruling.WAIT
        self.ruling = max(self.ruling, ruling)
        return ruling


class Probes(Struct):
    """All probes of one node. ``to_dial``: who asked to be dialled back, in turn, not before ``rests_until``."""

    under_way: dict[int, Probe] = field(default_factory=dict)
    to_dial: dict[str, None] = field(default_factory=dict)
    rests_until: float = 0.0
    questions: dict[str, list[Question]] = field(default_factory=dict)
    namesakes: Namesakes = field(default_factory=Namesakes)
