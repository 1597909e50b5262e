"""What happened to links, as values: what `peers` tells the rest of the node."""

from msgspec import Struct

from mesh.core.records import Refuse

__all__ = ["Change", "Closed", "Opened", "Refused"]


class Opened(Struct, frozen=True):
    """The link to this peer is open on this connection."""

    node: str
    conn: int


class Closed(Struct, frozen=True):
    """A connection is over. ``was_open``: it was the peer's link, and what was outstanding on it is lost unless
    ``orderly``; ``was_dial``: it was our dial to it; ``idle``: in order, and its peer may be dialled again."""

    node: str
    conn: int
    reason: str
    was_open: bool = False
    was_dial: bool = False
    orderly: bool = False
    idle: bool = False


class Refused(Struct, frozen=True):
    """A connection is over because one end refused it. ``by_us``: we did."""

    node: str
    conn: int
    refuse: Refuse
    by_us: bool
    was_dial: bool = False


Change = Opened | Closed | Refused
