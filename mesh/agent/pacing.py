"""The supervisor's two judgements, as values: when to start the next reactor, and how long this one was silent."""

__all__ = ["Restarts", "Silence"]

_DOUBLINGS_MAX = 32


class Restarts:
    """How long to wait before the next reactor.

    Not at all after one that served for ``young_s``, or the first that served less. Then ``first_s`` less what it
    served, doubled for each short life that follows, up to ``max_s``: lives and pauses together are spaced. A reactor
    that asks to be started again is, at once; one that does nothing else is not.
    """

    def __init__(self, young_s: float, first_s: float, max_s: float) -> None:
        self._young_s = young_s
        self._first_s = first_s
        self._max_s = max_s
        self._short_lives = 0
        self._asked = False

    def delay_s(self, served_s: float, asked: bool = False) -> float:
        """Return the wait after a reactor that served so long, and ended because it ``asked`` to."""
        free = asked and not self._asked
        self._asked = asked
        if free:
            return 0.0
        self._short_lives = 0 if served_s >= self._young_s else self._short_lives + 1
        if self._short_lives < 2:
            return 0.0
        doublings = min(self._short_lives - 2, _DOUBLINGS_MAX)
        return max(0.0, min(self._max_s, self._first_s * 2.0**doublings) - served_s)


class Silence:
    """How long the reactor said nothing while the supervisor was there to hear it.

    A turn of the supervisor's loop waits at most ``turn_s`` and counts for no more, however long it took: what is
    beyond is the supervisor's own lag, and whatever stopped it may have stopped the reactor too.
    """

    def __init__(self, turn_s: float) -> None:
        self.turn_s = turn_s
        self.silent_s = 0.0

    def turn(self, elapsed_s: float, heard: bool) -> None:
        """Count one turn of the loop, at whose end something was ``heard`` or not."""
        self.silent_s = 0.0 if heard else self.silent_s + min(elapsed_s, self.turn_s)
