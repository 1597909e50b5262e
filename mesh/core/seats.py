"""How many connections each user has, so that nobody takes the places of all.

A connection counts for whomever the kernel names when it is accepted, and from its HELLO on for whom its token names.
"""

from typing import Annotated

from msgspec import Meta, Struct, field

__all__ = ["SeatOptions", "Seats"]


class SeatOptions(Struct, frozen=True):
    """How many connections of apps one user may have."""

    user_connections_max: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Connections that the apps of one user may have at once; one more is refused, and tries again. "
            "Below app_connections_max it leaves places to other users. Apps whom neither the kernel nor a token "
            "names are one user.",
        ),
    ] = 500


class Seats(Struct):
    """``taken``: whose each connection is; ``counts``: how many each user has."""

    taken: dict[int, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def take(self, conn: int, whose: str, options: SeatOptions) -> bool:
        """Give a connection to a user, if there is a place; one that was another user's is theirs no more."""
        if self.taken.get(conn) == whose:
            return True
        self.leave(conn)
        count = self.counts.get(whose, 0)
        if count >= options.user_connections_max:
            return False
        self.taken[conn], self.counts[whose] = whose, count + 1
        return True

    def leave(self, conn: int) -> None:
        """A connection is over."""
        whose = self.taken.pop(conn, None)
        if whose is None:
            return
        self.counts[whose] -= 1
        if not self.counts[whose]:
            del self.counts[whose]
