"""What an agent leaves on its machine when it dies: durable casts, and what it knew of topics."""

from mesh.core.catalogue import Snapshot
from mesh.spool.memory import MemorySpool
from mesh.types import TopicKey

__all__ = ["Disk"]


class Disk:
    """One machine's disk. ``directory``: what its agents were told of topics last; ``lost_at``: when it last lost all,
    by the world's time."""

    def __init__(self, spool: MemorySpool) -> None:
        self.spool = spool
        self.directory: dict[TopicKey, Snapshot] = {}
        self.lost_at = 0.0

    def remember(self, snapshot: Snapshot) -> None:
        """Keep what an agent was told; that nobody serves a topic is not worth a line."""
        if snapshot.instances:
            self.directory[snapshot.topic] = snapshot
        else:
            self.directory.pop(snapshot.topic, None)

    def lose(self, now: float) -> None:
        """Lose everything: the disk is another one."""
        self.spool.lose_all()
        self.directory.clear()
        self.lost_at = now
