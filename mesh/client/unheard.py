"""Tells, at most once a second, of accepted casts and fan-outs that failed when nobody waited for them any more."""

import logging

from mesh.client.api import error_of
from mesh.core.records import Failure

__all__ = ["Unheard"]

PAUSE_S = 1.0

logger = logging.getLogger("mesh")


class Unheard:
    """Counts such failures between two lines of the log."""

    def __init__(self) -> None:
        self._count = 0
        self._quiet_until = 0.0

    def note(self, failure: Failure, now: float) -> None:
        """One more; the line names it, and how many there were since the last line."""
        self._count += 1
        if now >= self._quiet_until:
            error = error_of(failure)
            logger.warning("%d accepted message(s) failed; the last: %s: %s", self._count, type(error).__name__, error)
            self._count = 0
            self._quiet_until = now + PAUSE_S
