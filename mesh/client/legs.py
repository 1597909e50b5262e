"""A traced call in legs, from its stamps (`core.stamps`): what each place, and each way between two, took of it."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from msgspec import Struct

from mesh.core.stamps import Stamp

__all__ = ["Leg", "legs_of"]

_HELD = ("until it was written", "until it could be sent on", "until a worker was free", "until it began")
"""What a request waits for at each place of its way."""


class Leg(Struct, frozen=True):
    """A part of a traced call. ``where``: the place, or two with the way between them; ``took_s``: seconds, of a way
    there and back. The legs of a call are all of its time."""

    where: str
    what: str
    took_s: float


def legs_of(stamps: Sequence[Stamp] | None) -> tuple[Leg, ...]:
    """Return the legs of a call whose reply has come back, in their order; none if it was not traced."""
    return tuple(_legs(stamps)) if stamps else ()


def _legs(stamps: Sequence[Stamp]) -> Iterator[Leg]:
    for (here, beyond), held in zip(pairwise(stamps), _HELD, strict=False):
        place, came, left, back = here
        yield Leg(place, held, _seconds(left - came))
        next_place, next_came, _, next_back = beyond
        yield Leg(f"{place} ↔ {next_place}", "there and back", _seconds((back - left) - (next_back - next_came)))
    place, came, left, back = stamps[-1]
    yield Leg(place, _HELD[-1], _seconds(left - came))
    yield Leg(place, "until it had answered", _seconds(back - left))


def _seconds(micros: int) -> float:
    """Return a difference of stamps, which each are rounded and may be anybody's, in seconds."""
    return max(0, micros) / 1e6
