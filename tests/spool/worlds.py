"""A spool of each kind, with a clock to turn and a machine to reboot."""

from collections.abc import Callable
from pathlib import Path

from mesh.core.ledger import Committed, Dead, Entry, Fetch, Kept, Put
from mesh.spool.base import DeadOptions, Spool
from mesh.spool.memory import MemorySpool
from mesh.spool.sqlite import SqliteSpool
from mesh.types import TopicKey

__all__ = ["KINDS", "ORDERS", "Machine", "bury", "fetch", "put"]

ORDERS = TopicKey("", "orders")


class Machine:
    """What a spool stands on: ``since_boot`` and ``wall`` are its clocks, ``boot`` the name of this boot."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "spool.sqlite"
        self.since_boot = 100.0
        self.wall = 1_800_000_000.0
        self.boot = "first"

    def sleep(self, seconds: float) -> None:
        self.since_boot += seconds
        self.wall += seconds

    def reboot(self, down_s: float, *, clock_step_s: float = 0.0) -> None:
        """Go down, come back as another boot; the wall clock is stepped meanwhile."""
        self.boot += "'"
        self.since_boot = 10.0
        self.wall += down_s + clock_step_s

    def sqlite(self, options: DeadOptions | None = None) -> SqliteSpool:
        return SqliteSpool(
            self.path,
            options or DeadOptions(),
            clock=lambda: self.since_boot,
            wall=lambda: self.wall,
            boot=self.boot,
        )

    def memory(self, options: DeadOptions | None = None) -> MemorySpool:
        return MemorySpool(options or DeadOptions(), lambda: self.since_boot)


KINDS: dict[str, Callable[[Machine, DeadOptions | None], Spool]] = {
    "memory": Machine.memory,
    "sqlite": Machine.sqlite,
}


def put(seq: int, *, session: int = 7, topic: TopicKey = ORDERS, ttl_s: float = 60.0, record: bytes = b"x") -> Put:
    return Put(session, seq, topic, "", ttl_s, len(record), record)


def fetch(
    spool: Spool, *, topic: TopicKey = ORDERS, after: int = 0, records: int = 100, size: int = 1 << 20
) -> list[Kept]:
    return spool.fetch(Fetch(topic, after, records, size)).rows


def bury(spool: Spool, *seqs: int, session: int = 7) -> Committed:
    """Put casts and have them die."""
    entries: list[Entry] = [put(seq, session=session, record=b"%d" % seq) for seq in seqs]
    return spool.commit([*entries, *(Dead(session, seq, "expired", f"{seq} was late") for seq in seqs)])
