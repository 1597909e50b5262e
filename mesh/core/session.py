"""One local app, as its agent keeps it: what it serves, its limits, its unfinished work, what it is told.

A session outlives its connection by ``resume_grace_s``. While it lasts, every outcome that the app has not settled by
its floor is kept, so that an app that lost its socket and replays what it had outstanding is answered, not run again.
"""

from msgspec import Struct, field

from mesh.core.bucket import Bucket
from mesh.core.chunks import Chunker
from mesh.core.inbox import Id, Service
from mesh.core.policy import Subject
from mesh.core.records import Failure, Receipt, Record, Reply, Serve, Targets

__all__ = ["UNCHARGED", "App", "Credentials", "Named", "Outcome", "Pending"]

UNCHARGED = -1
"""What a request is charged with whose session has ended, until the same session is back and repeats it."""

Outcome = Reply | Failure | Receipt | None
"""How a request ended; None for a cast that a handler ended."""


class Credentials(Struct, frozen=True):
    """What the kernel says of the process at the other end of an app's connection; pid 0 and uid -1: nothing.

    ``user`` and ``groups``: what this machine calls them; no user: nobody whom it could name.
    """

    uid: int = -1
    pid: int = 0
    user: str = ""
    groups: tuple[str, ...] = ()

    @property
    def whose(self) -> str:
        """Whose connections these are counted with."""
        return self.user or f"uid {self.uid}"


class Named(Struct, frozen=True):
    """What the shell made of the token in an app's HELLO: whom it names, or the ``problem`` with it."""

    user: str = ""
    groups: tuple[str, ...] = ()
    problem: str = ""


class Pending(Struct):
    """A connection of an app that has not said hello; with a ``problem`` it will not be let in."""

    credentials: Credentials
    since: float
    problem: str = ""


class App(Struct):
    """The state of one session. ``conn``: its connection, None while it is away; ``out``: told at the next flush;
    ``reached``: the serving apps that its requests went to, by node and session, and the incarnations of their agents;
    ``telling``: those of them that its socket may not have taken word of, and the batch that brings it, and with an
    empty node those of its requests of which a process died since;
    ``reached_before``: those to which an earlier agent sent them; ``targets_before``: where it sent fan-outs, and of
    which requests processes died, by seq; ``adopted``: what this app says that it runs, and an earlier agent had handed
    to it; ``calls``: the topics that it calls, and when it last did; ``who``: whom the policy takes it for;
    ``revoked``: what it served until the policy was against it; ``bucket``: how fast it asks."""

    session: int
    connection: int
    name: str
    namespace: str
    conn: int | None
    uid: int = -1
    pid: int = 0
    detached_at: float | None = None
    dead: bool = False
    protocol: int = 0
    out: list[Record] = field(default_factory=list)
    counter_in: int = 0
    counter_out: int = 0
    chunker: Chunker = field(default_factory=Chunker)
    heard_at: float = 0.0
    services: dict[str, Service] = field(default_factory=dict)
    records: int = 0
    bytes: int = 0
    floor: int = 0
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    outcomes_bytes: int = 0
    is_floor_asked: bool = False
    accepted: list[int] = field(default_factory=list)
    settled: list[int] = field(default_factory=list)
    reached: dict[tuple[str, int], int] = field(default_factory=dict)
    telling: dict[tuple[str, int], int] = field(default_factory=dict)
    reached_before: dict[tuple[str, int], int] = field(default_factory=dict)
    targets_before: dict[int, Targets] = field(default_factory=dict)
    calls: dict[str, float] = field(default_factory=dict)
    leaving: bool = False
    leaving_since: float = 0.0
    parted: bool = False
    adopted: dict[Id, None] = field(default_factory=dict)
    who: Subject = Subject("")
    revoked: dict[str, Serve] = field(default_factory=dict)
    bucket: Bucket = field(default_factory=Bucket)

    def raise_floor(self, floor: int) -> None:
        """The app has settled every seq below ``floor``: its outcomes need not be kept."""
        if floor <= self.floor:
            return
        few = floor - self.floor < len(self.outcomes)
        for seq in range(self.floor, floor) if few else [seq for seq in self.outcomes if seq < floor]:
            self.forget(seq)
        self.floor = floor

    def keep(self, seq: int, outcome: Outcome) -> None:
        """Keep an outcome until the app has settled it."""
        if seq >= self.floor:
            self.outcomes[seq] = outcome
            if type(outcome) is Reply:
                self.outcomes_bytes += len(outcome.body)

    def forget(self, seq: int) -> None:
        """The app has settled this seq."""
        outcome = self.outcomes.pop(seq, None)
        if type(outcome) is Reply:
            self.outcomes_bytes -= len(outcome.body)

    def admitted(self, charged: int) -> None:
        """One more record of this app is outstanding."""
        self.records += 1
        self.bytes += charged

    def ended(self, charged: int) -> None:
        """One of its outstanding records ended; one of before its session was given up is not among those counted."""
        if charged != UNCHARGED:
            self.records -= 1
            self.bytes -= charged
