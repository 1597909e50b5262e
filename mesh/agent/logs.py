"""Notes to people: structlog, JSON or console, each name limited in rate.

A note whose name comes more often than ``PER_WINDOW`` in ``WINDOW_S`` is counted instead; the count goes with the next
one that is written, so a flood costs lines neither on disk nor in time.
"""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from mesh.agent.notes import THEN

__all__ = ["configure", "limit_rate", "make_note"]

PER_WINDOW = 20
WINDOW_S = 10.0


def configure(level: int, form: str) -> None:
    """Set the process's logging up, on standard error. ``form``: json, console, or auto (console on a terminal)."""
    console = form == "console" or (form == "auto" and sys.stderr.isatty())
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            limit_rate(time.monotonic),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def limit_rate(clock: Callable[[], float]) -> Callable[..., MutableMapping[str, Any]]:
    """Return a structlog processor that drops what comes too often and tells how much that was."""
    windows: dict[str, list[float]] = {}

    def processor(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        now, name = clock(), str(event.get("event"))
        window = windows.setdefault(name, [now, 0, 0])
        if now - window[0] >= WINDOW_S:
            suppressed = int(window[2])
            window[:] = [now, 0, 0]
            if suppressed:
                event["suppressed"] = suppressed
        if window[1] >= PER_WINDOW:
            window[2] += 1
            raise structlog.DropEvent
        window[1] += 1
        return event

    return processor


def make_note(**bound: Any) -> Callable[..., None]:
    """Return ``note(name, level=INFO, **facts)``, with some facts in every line; it never raises. A warning or an error
    ends with what the agent does about it (`notes.THEN`).

    Where nobody reads standard error any more, the agent goes on without telling.
    """
    logger = structlog.get_logger().bind(**bound)

    def note(name: str, level: int = logging.INFO, **facts: Any) -> None:
        if level >= logging.WARNING and name in THEN:
            facts.setdefault("then", THEN[name])
        with contextlib.suppress(OSError, ValueError):
            logger.log(level, name, **facts)

    return note
