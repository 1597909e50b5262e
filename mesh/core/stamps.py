"""Where the time of a traced call goes: the stamps that its request gathers on the way out and its reply carries back.

A stamp is ``(place, came_us, left_us, back_us)``: when the request came to a place and when it went on, and when the
reply came back there, in microseconds of that place's own clock; 0: not yet. The asking app begins the list, and each
place that the request comes through adds its own. On the way back each place marks the last stamp that is not marked
yet, which is its own, for who comes last on the way out is first on the way back. So no agent needs memory for it, and
one that was restarted marks the stamp of the one before it.

A stamp is read only beside others of the same place; no clocks are compared. A place held the request for
``left - came``. What lies beyond it took ``back - left``, and the next place's share of that is ``back - came`` of its
own stamp; what remains is the way between the two, there and back.
"""

from collections.abc import Sequence

__all__ = ["ASKING_APP", "ITS_AGENT", "SERVING_AGENT", "SERVING_APP", "Stamp", "arrive", "depart", "receive"]

Stamp = tuple[str, int, int, int]

ASKING_APP, ITS_AGENT, SERVING_AGENT, SERVING_APP = range(4)
"""The places of a request's way, each the index of its stamp."""


def arrive(stamps: Sequence[Stamp], nth: int, place: str, now: float) -> list[Stamp]:
    """Return the stamps of a request that has come to the ``nth`` place of its way."""
    return [*stamps[:nth], (place, _micros(now), 0, 0)]


def depart(stamps: Sequence[Stamp], nth: int, now: float) -> list[Stamp]:
    """Return the stamps of a request that goes on from its ``nth`` place; those of a lost attempt are dropped."""
    return [*stamps[:nth], *((place, came, _micros(now), 0) for place, came, _, _ in stamps[nth : nth + 1])]


def receive(stamps: list[Stamp], now: float) -> None:
    """A reply has come back to the last place that has not seen it yet."""
    for index in reversed(range(len(stamps))):
        place, came, left, back = stamps[index]
        if not back:
            stamps[index] = (place, came, left, _micros(now))
            return


def _micros(now: float) -> int:
    """Return a time in whole microseconds, and never 0, which says that it has not come."""
    return max(1, round(now * 1e6))
