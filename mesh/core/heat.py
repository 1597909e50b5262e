"""Which topics are hot: their rate, smoothed, against two thresholds.

The rate is an exponentially weighted average of records per second with a half-life ``h``::

    rate' = rate * 2**(-dt/h) + n * (1 - 2**(-dt/h)) / dt        for n records in dt seconds

A topic becomes hot as soon as its rate reaches ``hot_at_per_s``, and cold again when it has stayed below
``cold_at_per_s`` for ``dwell_s``: opening a link late costs latency, closing it early costs it twice. Counting is
apart from folding, because counting happens for each record and folding once a second.

A hot topic that very many nodes serve keeps links to a few of them, chosen by **rendezvous**: each node that serves it
gets a number, drawn from its name, the caller's and the topic's, and the least numbers win. A node that comes or
goes changes no choice but its own, and callers choose differently, so that nobody is everybody's choice.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from mesh.types import TopicKey

__all__ = ["Heat", "HeatOptions", "Heats", "chosen"]

Pin = Literal["hot", "cold"]


class HeatOptions(Struct, frozen=True):
    """When a topic is hot; a hot topic's links are persistent."""

    hot_at_per_s: Annotated[
        float,
        Meta(
            ge=0.001,
            le=1e6,
            description="A topic with this many records a second is hot: its links stay open and are heartbeated. "
            "Lower keeps more links; higher pays more dials.",
        ),
    ] = 5.0
    cold_at_per_s: Annotated[
        float,
        Meta(
            ge=0.0,
            le=1e6,
            description="A hot topic below this rate for dwell_s is cold again. Keep it well below hot_at_per_s, or "
            "links flap.",
        ),
    ] = 1.0
    dwell_s: Annotated[
        float,
        Meta(ge=0, le=3600, description="How long a hot topic must stay below cold_at_per_s to be cold again."),
    ] = 30.0
    half_life_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=3600,
            description="The half-life of the rate's average. Shorter follows bursts, longer ignores them.",
        ),
    ] = 10.0
    hot_links_max: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="A hot topic keeps links to at most this many of the nodes that serve it, always the same "
            "ones; links to the others stay ephemeral, though messages still go to all in turn. More saves dials, "
            "fewer leaves links_max to other topics.",
        ),
    ] = 64
    pin: Annotated[
        dict[str, Pin],
        Meta(description='Topics whose heat is decided here: { billing = "hot", reports = "cold" }.'),
    ] = field(default_factory=dict)


class Heat(Struct):
    """One topic: its rate in records/s, whether it is hot, and since when it has been below the cold threshold."""

    rate: float = 0.0
    hot: bool = False
    below_since: float | None = None


class Heats(Struct):
    """All topics of this node's own traffic. Topics forget themselves when their rate has decayed to nothing."""

    topics: dict[TopicKey, Heat] = field(default_factory=dict)
    counts: dict[TopicKey, int] = field(default_factory=dict)
    folded_at: float = 0.0

    def count(self, topic: TopicKey) -> None:
        """One record of this topic went out."""
        self.counts[topic] = self.counts.get(topic, 0) + 1

    def fold(self, options: HeatOptions, now: float) -> list[TopicKey]:
        """Take what was counted into the rates; return the topics that changed between hot and cold."""
        dt = now - self.folded_at
        if dt <= 0:
            return []
        self.folded_at = now
        decay = 2.0 ** (-dt / options.half_life_s)
        changed = []
        for topic in self.counts:
            self.topics.setdefault(topic, Heat())
        for topic, heat in list(self.topics.items()):
            arrived = self.counts.get(topic, 0)
            heat.rate = heat.rate * decay + arrived * (1 - decay) / dt
            if _judge(heat, options.pin.get(topic.topic), options, now):
                changed.append(topic)
            if heat.rate < 1e-3 and not heat.hot:
                del self.topics[topic]
        self.counts.clear()
        return changed

    def is_hot(self, topic: TopicKey, options: HeatOptions) -> bool:
        """Return whether the topic is hot now, a pin first."""
        pin = options.pin.get(topic.topic)
        if pin is not None:
            return pin == "hot"
        heat = self.topics.get(topic)
        return heat is not None and heat.hot

    def rate(self, topic: TopicKey) -> float:
        """Return the topic's rate in records/s as of the last fold."""
        heat = self.topics.get(topic)
        return heat.rate if heat else 0.0


def chosen(caller: str, topic: TopicKey, servers: Iterable[str], most: int) -> frozenset[str]:
    """Return the nodes, of those that serve a topic, to which a caller keeps links: all, or ``most`` by rendezvous."""
    nodes = list(dict.fromkeys(servers))
    if len(nodes) > most:
        nodes.sort(key=lambda node: blake2b("\0".join((node, caller, *topic)).encode()).digest())
    return frozenset(nodes[:most])


def _judge(heat: Heat, pin: Pin | None, options: HeatOptions, now: float) -> bool:
    """Settle hot or cold from the rate; return whether it changed."""
    before = heat.hot
    if pin is not None:
        heat.hot, heat.below_since = pin == "hot", None
    elif heat.rate >= options.hot_at_per_s:
        heat.hot, heat.below_since = True, None
    elif heat.rate >= options.cold_at_per_s:
        heat.below_since = None
    elif heat.hot and heat.below_since is None:
        heat.below_since = now
    if heat.below_since is not None and now - heat.below_since >= options.dwell_s:
        heat.hot, heat.below_since = False, None
    return heat.hot != before
