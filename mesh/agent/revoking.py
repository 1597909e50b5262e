"""The revocations that the operator posts while agents run: watched, put into effect, kept for the next reactor.

What is refused leaves the list of before in effect, and so does a Consul that is away. Neither is the agent's failing:
it goes on with what it knows, and its status says so.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

import gevent
import tenacity

from mesh.agent.patience import patiently
from mesh.config import WatcherOptions
from mesh.errors import ConfigError
from mesh.matchmaker.base import MatchmakerError
from mesh.security.certificates import Revocations

__all__ = ["REVOCATIONS_REFUSED", "Place", "Revoking"]

REVOCATIONS_AWAY = "revocations_away"
REVOCATIONS_BACK = "revocations_back"
REVOCATIONS_LEARNED = "revocations_learned"
REVOCATIONS_REFUSED = "revocations_refused"

PAUSE_S = 0.2
"""Between two answers, so that who may write the key can have an agent verify signatures no more often."""


class Told(Protocol):
    """What is posted, if anything is, and where to ask on from."""

    @property
    def text(self) -> bytes | None: ...
    @property
    def position(self) -> int: ...


class Place(Protocol):
    """Where the list is posted; `mesh.matchmaker.consul_revocations` says what each verb does."""

    def read(self, position: int, wait_s: float) -> Told: ...
    def close(self) -> None: ...


class Revoking:
    """Watches one place.

    ``learn`` puts a text into effect and returns the list that counts then, None if nothing is new in it, or raises
    ValueError that says what is wrong with it. ``keep``, which ``run`` runs, writes it down, or raises ConfigError.
    """

    def __init__(
        self,
        place: Place,
        options: WatcherOptions,
        learn: Callable[[bytes], Revocations | None],
        keep: Callable[[bytes], None],
        run: Callable[..., Any],
        note: Callable[..., None],
    ) -> None:
        self.place = place
        self.options = options
        self.learn = learn
        self.keep = keep
        self.run = run
        self.note = note
        self.away = ""
        self.away_since = 0.0
        self.refused = ""
        self.greenlet: gevent.Greenlet | None = None

    @property
    def problem(self) -> str:
        """Why what is posted does not count, or is not seen; empty: it counts, or nothing is posted."""
        return self.away or self.refused

    def start(self) -> None:
        """Begin."""
        self.greenlet = gevent.spawn(self._watch)

    def stop(self) -> None:
        """End."""
        if self.greenlet is not None:
            self.greenlet.kill(block=False)
        self.place.close()

    def _watch(self) -> None:
        position = 0
        while True:
            told = self._patiently(position)
            position = told.position
            if told.text is not None:
                self._look(told.text)
            gevent.sleep(PAUSE_S)

    def _patiently(self, position: int) -> Told:
        """Ask until there is an answer, after a failure for what is there now."""
        for attempt in patiently(self.options.retry_max_s, self._failed, MatchmakerError):
            with attempt:
                first = attempt.retry_state.attempt_number == 1
                told = self.place.read(position if first else 0, self.options.watch_wait_s)
        if self.away:
            self.away = ""
            self.note(REVOCATIONS_BACK, away_s=round(time.monotonic() - self.away_since, 1))
        return told

    def _failed(self, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if not self.away:
            self.away_since = time.monotonic()
            self.note(REVOCATIONS_AWAY, logging.WARNING, why=str(error)[:500])
        self.away = str(error)[:500]

    def _look(self, text: bytes) -> None:
        """Put what is posted into effect, then write it down; say what is wrong with it once."""
        try:
            learned = self.learn(text)
        except ValueError as error:
            if str(error) != self.refused:
                self.note(REVOCATIONS_REFUSED, logging.WARNING, where=str(self.place), why=str(error))
            self.refused = str(error)
            return
        self.refused = ""
        if learned is None:
            return
        facts = {"number": learned.number, "revoked": len(learned.keys), "where": str(self.place)}
        try:
            self.run(self.keep, text)
        except ConfigError as error:
            self.note(REVOCATIONS_LEARNED, logging.WARNING, **facts, why=str(error))
        else:
            self.note(REVOCATIONS_LEARNED, **facts)
