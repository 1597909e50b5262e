"""How this process is doing: how late its loop is, its open files, its machine's clock."""

import os
import resource
import time
from collections import deque

__all__ = ["Condition"]

LAGS = 3
"""A lag counts for the agent's health when it lasted for so many beats: one late turn is no news for a whole fleet."""


class Condition:
    """Is told of each beat how late it was; ``incarnation``: this process's, in unix ms if clocks are right."""

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.lags_s = deque([0.0] * LAGS, maxlen=LAGS)

    def beat(self, lag_s: float) -> None:
        """One beat of the loop came late by so much."""
        self.lags_s.append(lag_s)

    def facts(self) -> dict[str, object]:
        """Return what the agent's status says of it."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        try:
            descriptors = len(os.listdir("/proc/self/fd"))
        except OSError:  # to look takes one, and there is none left
            descriptors = limit
        return {
            "pid": os.getpid(),
            "descriptors": descriptors,
            "descriptors_max": limit,
            "loop_lag_ms": round(self.lags_s[-1] * 1000, 1),
            "lasting_lag_ms": round(min(self.lags_s) * 1000, 1),
            "clock_behind_s": max(0.0, round(self.incarnation / 1000 - time.time(), 1)),
        }
