"""Fan-out: every instance gets it, by one record for each node however many instances it has."""

from msgspec import Struct, field

from mesh.core.directory import Group
from mesh.core.records import Receipt, Request

__all__ = ["Fan", "by_node"]


class Fan(Struct):
    """A fan-out in progress: instances asked for by node, and the counts of those that have answered."""

    request: Request
    deadline: float
    charged: int
    pending: dict[str, int] = field(default_factory=dict)
    asked: int = 0
    finished: int = 0
    failed: int = 0
    unknown: int = 0

    def answered(self, node: str, finished: int, failed: int) -> None:
        """A node has told what became of its instances; what it does not account for is unknown. Once only."""
        asked = self.pending.pop(node, None)
        if asked is None:
            return
        finished = min(finished, asked)
        failed = min(failed, asked - finished)
        self.finished += finished
        self.failed += failed
        self.unknown += asked - finished - failed

    def receipt(self) -> Receipt:
        """Return the counts as of now; whoever has not answered is unknown."""
        unknown = self.unknown + sum(self.pending.values())
        r = self.request
        return Receipt(r.node, r.session, r.seq, self.asked, self.finished, self.failed, unknown)


def by_node(group: Group) -> dict[str, int]:
    """Return how many instances of a group each node has, in key order."""
    nodes: dict[str, int] = {}
    for key in group.keys:
        nodes[key.node] = nodes.get(key.node, 0) + 1
    return nodes
