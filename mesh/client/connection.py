"""The connection under a session: its phase, its counters, when to redial, and whether the agent is still there.

::

    AWAY ──connected──► GREETING ──welcome──► OPEN ──the agent's goodbye──► DRAINING
     ▲                      │                  │                               │
     └──────────────── disconnected: redialled after a jittered pause ─────────┘        any ──close──► CLOSED

A silent agent is pinged while anything is outstanding, and given up when it stays silent for `SILENT_BEATS`
heartbeats, to which the time is added in which this process itself did not run.
"""

import enum

from msgspec import Struct, field

from mesh.core.chunks import Chunker
from mesh.core.records import AppWelcome, Ping

__all__ = [
    "AWAY",
    "BACKOFF_MAX_S",
    "BACKOFF_MIN_S",
    "CLOSED",
    "DRAINING",
    "GREETING",
    "HELLO_TIMEOUT_S",
    "OPEN",
    "SILENT_BEATS",
    "TRANSITIONS",
    "Connection",
    "Phase",
]

HELLO_TIMEOUT_S = 5.0
"""How long an agent that accepted a connection may take to answer the hello: one that is replaced takes a while."""

SILENT_BEATS = 5
"""Heartbeats without a sign of life, while something is outstanding, after which the agent is given up."""

BACKOFF_MIN_S = 0.005
BACKOFF_MAX_S = 1.0
"""The first and the longest pause before a redial; each is drawn from its upper half."""

BACKOFF_GROWTH = 1.25
"""Each pause is so many times the last, so a quarter of the time without an agent: one that is back is found soon."""

BEAT_MIN_S = 0.05
"""The shortest heartbeat that is believed."""

_MASK = (1 << 64) - 1


class Phase(enum.IntEnum):
    """Where the connection is. AWAY and DRAINING keep requests for the next one; DRAINING answers what is in hand."""

    AWAY = 0
    GREETING = 1
    OPEN = 2
    DRAINING = 3
    CLOSED = 4


AWAY, GREETING, OPEN, DRAINING, CLOSED = Phase
"""By names of their own, as in `mesh.core.vocabulary`, for they are asked for with every message."""

TRANSITIONS: dict[Phase, tuple[Phase, ...]] = {
    Phase.AWAY: (Phase.GREETING, Phase.CLOSED),
    Phase.GREETING: (Phase.OPEN, Phase.DRAINING, Phase.AWAY, Phase.CLOSED),
    Phase.OPEN: (Phase.DRAINING, Phase.AWAY, Phase.CLOSED),
    Phase.DRAINING: (Phase.AWAY, Phase.CLOSED),
    Phase.CLOSED: (),
}


class Connection(Struct):
    """The connection that is, or the last one. ``number`` rises with each; ``seed`` is for the jitter."""

    seed: int
    phase: Phase = Phase.AWAY
    number: int = 0
    counter_in: int = 0
    counter_out: int = 0
    chunker: Chunker = field(default_factory=Chunker)
    announced_at: dict[int, float] = field(default_factory=dict)
    why_away: str = "not tried yet"
    redial_at: float = 0.0
    failures: int = 0
    retry_after_s: float = 0.0
    hello_due: float = 0.0
    beat_s: float = 1.0
    heard_at: float = 0.0
    looked_at: float = 0.0
    pinged_at: float | None = None
    pings: int = 0

    def _go(self, phase: Phase) -> None:
        assert phase in TRANSITIONS[self.phase], f"{self.phase!r} to {phase!r}"
        self.phase = phase

    @property
    def is_up(self) -> bool:
        """Whether there is an agent that hears us."""
        return self.phase is OPEN or self.phase is DRAINING

    def connected(self, now: float) -> None:
        """A socket was opened."""
        self._go(Phase.GREETING)
        self.number += 1
        self.counter_in = self.counter_out = 0
        self.hello_due = now + HELLO_TIMEOUT_S
        self.expect(now)

    def welcomed(self, welcome: AppWelcome) -> None:
        """The agent answered the hello."""
        self._go(Phase.DRAINING if welcome.draining else Phase.OPEN)
        self.failures = 0
        self.why_away = ""
        self.beat_s = max(BEAT_MIN_S, welcome.heartbeat_ms / 1000)
        self.chunker = Chunker(welcome.chunk_bytes, welcome.chunks_in_flight, welcome.body_bytes_max)
        self.announced_at.clear()

    def draining(self) -> None:
        """The agent said goodbye."""
        self._go(Phase.DRAINING)

    def disconnected(self, reason: str, now: float) -> None:
        """The socket is gone, or could not be opened."""
        if self.phase is not Phase.AWAY:
            self._go(Phase.AWAY)
        self.why_away = reason
        pause_s = min(BACKOFF_MAX_S, BACKOFF_MIN_S * BACKOFF_GROWTH ** min(self.failures, 64))
        self.failures += 1
        self.redial_at = now + max(self.retry_after_s, pause_s * (0.5 + self._draw() / 2))
        self.retry_after_s = 0.0

    def _draw(self) -> float:
        """Return the next number in [0, 1): Knuth's linear congruential generator, its upper bits."""
        self.seed = (self.seed * 6364136223846793005 + 1442695040888963407) & _MASK
        return (self.seed >> 32) / 2**32

    def close(self) -> None:
        """No connection any more."""
        if self.phase is not Phase.CLOSED:
            self._go(Phase.CLOSED)

    # Signs of life

    def expect(self, now: float) -> None:
        """From now on the agent owes us something."""
        self.heard_at = self.looked_at = now
        self.pinged_at = None

    def heard(self, now: float) -> None:
        """The agent said something."""
        self.heard_at = now
        self.pinged_at = None

    def deadline(self, outstanding: bool) -> float | None:
        """Return when to look again, or None."""
        if self.phase is Phase.GREETING:
            return self.hello_due
        if outstanding and self.is_up:
            return max(self.heard_at, self.looked_at) + self.beat_s
        return None

    def listen(self, outstanding: bool, now: float) -> Ping | str | None:
        """Look whether the agent is there; return a ping to send, or why it is given up."""
        if self.phase is Phase.GREETING and now >= self.hello_due:
            return f"no answer to the hello within {HELLO_TIMEOUT_S:g} s"
        if not self.is_up or not outstanding:
            self.pinged_at = None
            return None
        lag_s = max(0.0, now - self.looked_at - self.beat_s)
        self.looked_at = now
        if self.pinged_at is None:
            if now - self.heard_at < self.beat_s:
                return None
            self.pinged_at = now
            self.pings += 1
            return Ping(self.pings)
        self.pinged_at += lag_s
        if now - self.pinged_at >= (SILENT_BEATS - 1) * self.beat_s:
            return f"the agent was silent for {now - self.heard_at:.1f} s"
        return None
