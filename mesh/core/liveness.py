"""The failure detector: when is silence suspicious, and when is it death.

Intuition: whoever is heard is alive. Anything that arrives counts, so a busy link needs no heartbeats; an idle one
is pinged each ``heartbeat_s``. A few missed beats make a peer *suspect*: it is passed over while there is another
choice. ``dead_after_s`` of silence make it *dead*: its link is closed and what was outstanding is asked about.

A detector that was itself stopped sees silence everywhere. So the time by which this node's own loop lagged is
not counted as the other's silence (after memberlist's Lifeguard: Dadgar, Phillips, Currey, "Lifeguard: local
health awareness for more accurate failure detection", 2018)::

    silence = now - heard_at - own_lag_since_then
    suspect    silence >= suspect_after_missed * heartbeat_s
    dead       silence >= dead_after_s
"""

import enum
from typing import Annotated

from msgspec import Meta, Struct

__all__ = ["Condition", "Liveness", "LivenessOptions", "agreed"]

HEARTBEAT_S_MAX = 60.0
DEAD_AFTER_S_MAX = 600.0


class LivenessOptions(Struct, frozen=True):
    """The terms of a heartbeat. Two ends of a link use the greater of their two values."""

    heartbeat_s: Annotated[
        float,
        Meta(
            ge=0.05,
            le=HEARTBEAT_S_MAX,
            description="An idle heartbeated link is pinged this often. Shorter notices death sooner and costs a "
            "wake-up of both agents for each link and beat.",
        ),
    ] = 1.0
    suspect_after_missed: Annotated[
        int,
        Meta(
            ge=1,
            le=100,
            description="A peer silent for this many heartbeats is suspect and passed over while there is another "
            "choice. Fewer avoids slow peers sooner and moves load on every hiccup.",
        ),
    ] = 3
    dead_after_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=DEAD_AFTER_S_MAX,
            description="A peer silent this long is dead: its link is closed. Below five heartbeats a loaded machine "
            "is taken for a dead one; above, a lost machine holds its callers longer.",
        ),
    ] = 5.0


class Condition(enum.IntEnum):
    """What the detector makes of a peer."""

    ALIVE = 0
    SUSPECT = 1
    DEAD = 2


class Liveness(Struct):
    """What is known of one peer: times in seconds of the node's clock, ``lag_s`` of this node since ``heard_at``."""

    heard_at: float
    sent_at: float
    lag_s: float = 0.0

    def heard(self, now: float) -> None:
        """Something arrived."""
        self.heard_at = now
        self.lag_s = 0.0

    def lagged(self, lag_s: float) -> None:
        """This node's own loop came late by ``lag_s``: that much of the silence may be its own doing."""
        self.lag_s += lag_s

    def silence_s(self, now: float) -> float:
        """Return the silence that is the peer's own."""
        return max(0.0, now - self.heard_at - self.lag_s)

    def condition(self, options: LivenessOptions, now: float) -> Condition:
        """Return the verdict at ``now``."""
        silence = self.silence_s(now)
        if silence >= options.dead_after_s:
            return Condition.DEAD
        if silence >= options.suspect_after_missed * options.heartbeat_s:
            return Condition.SUSPECT
        return Condition.ALIVE

    def ping_due(self, options: LivenessOptions, now: float) -> bool:
        """Return whether a ping is to be sent: nothing else was, for one heartbeat."""
        return now - self.sent_at >= options.heartbeat_s


def agreed(own: LivenessOptions, heartbeat_ms: int, dead_after_ms: int) -> LivenessOptions:
    """Return the terms of a link: the greater of ours and of what the other end said, in milliseconds.

    What it says counts up to the bounds of the options: nobody can ask never to be found dead.
    """
    return LivenessOptions(
        heartbeat_s=max(own.heartbeat_s, min(heartbeat_ms / 1000, HEARTBEAT_S_MAX)),
        suspect_after_missed=own.suspect_after_missed,
        dead_after_s=max(own.dead_after_s, min(dead_after_ms / 1000, DEAD_AFTER_S_MAX)),
    )
