"""What agents tell each other of themselves, for whoever looks at the whole fleet: the form, and what is kept of it.

Nobody is asked while nobody looks. What is kept then is bounded and forgotten a while after the last look.
"""

from typing import Annotated

from msgspec import Meta, Struct, field

from mesh.core.catalogue import AgentEntry

__all__ = [
    "VIEW_BYTES_MAX",
    "AppView",
    "CallView",
    "Heard",
    "LinkView",
    "NodeView",
    "ServiceView",
    "TopicView",
    "ViewOptions",
    "Views",
]

VIEW_BYTES_MAX = 1 << 16
"""What one agent tells of itself, as JSON; rows are left out until it fits."""

Name = Annotated[str, Meta(max_length=255)]
Word = Annotated[str, Meta(max_length=32)]
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class ViewOptions(Struct, frozen=True):
    """How agents look at the whole fleet, for the page, `mesh top` and `mesh topology`."""

    view_s: Annotated[
        float,
        Meta(
            ge=0.2,
            le=600,
            description="How often the others are asked while somebody looks. Less often costs them less, and shows a "
            "change later.",
        ),
    ] = 2.0
    view_nodes_max: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="Agents of which something is kept while somebody looks, up to 64 KiB each; the rest is only "
            "counted. More shows a larger fleet whole, and takes that memory.",
        ),
    ] = 500
    view_dials_max: Annotated[
        int,
        Meta(
            ge=0,
            le=1000,
            description="Agents without a link that are dialled at once to be looked at, as long as half of links_max "
            "is free; 0: only those are asked that have a link. More shows a large fleet sooner.",
        ),
    ] = 8


class LinkView(Struct, frozen=True):
    """A link as one of its ends sees it; counts since it opened."""

    peer: Name
    persistent: bool
    condition: Word
    rtt_ms: float | None
    in_flight: Count
    records_in: Count
    records_out: Count
    bytes_in: Count
    bytes_out: Count


class TopicView(Struct, frozen=True):
    """A topic that is called from this node: requests per second, smoothed."""

    namespace: Name
    topic: Name
    hot: bool
    rate: float


class ServiceView(Struct, frozen=True):
    """A topic that an app serves."""

    topic: Name
    server: Name


class CallView(Struct, frozen=True):
    """A topic that an app calls, casts or fans out to, and how long ago it last did."""

    topic: Name
    ago_s: float


class AppView(Struct, frozen=True):
    """An app of this node."""

    name: Name
    namespace: Name
    attached: bool
    outstanding: Count
    serves: list[ServiceView]
    calls: list[CallView]


class NodeView(Struct, frozen=True):
    """What an agent tells of itself. ``clock_s``: since it started, at the moment it says this; ``left_out``: rows
    that had no room; ``matchmaker``: whether that answers, None if it has not yet."""

    node: Name
    incarnation: Count
    state: Word
    clock_s: float
    lag_ms: float
    matchmaker: bool | None
    links: list[LinkView]
    topics: list[TopicView]
    apps: list[AppView]
    left_out: Count = 0


class Heard(Struct):
    """What a node told of itself, as JSON, and when."""

    view: bytes
    at: float


class Views(Struct):
    """What is kept while somebody looks. ``looked_at``: when last, None: nobody does; ``asked``: the question that
    each peer has not answered; ``unlisted``: agents beyond view_nodes_max; ``said``: what this node told others
    last, and ``told``: how often each peer was."""

    looked_at: float | None = None
    asked_at: float = 0.0
    found_at: float | None = None
    question: int = 0
    asked: dict[str, int] = field(default_factory=dict)
    heard: dict[str, Heard] = field(default_factory=dict)
    listed: dict[str, AgentEntry] = field(default_factory=dict)
    unlisted: int = 0
    said: bytes = b""
    said_at: float = 0.0
    told: dict[str, int] = field(default_factory=dict)

    def forget(self) -> None:
        """Nobody looks any more."""
        self.looked_at = self.found_at = None
        self.unlisted = 0
        for kept in (self.asked, self.heard, self.listed):
            kept.clear()
