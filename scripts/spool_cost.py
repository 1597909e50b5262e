"""What a commit of the spool costs beside a bare flush of one page: ``python -m scripts.spool_cost [DIRECTORY]``."""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mesh.core.ledger import Put
from mesh.spool.base import DeadOptions
from mesh.spool.sqlite import SqliteSpool
from mesh.types import TopicKey

RECORD = b"x" * 150
ROUNDS = 300
BATCHES = (1, 10, 100, 1_000)


def median_us(step: Callable[[], object], rounds: int) -> float:
    """Return the median time of a step."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        step()
        times.append(time.perf_counter() - begun)
    return sorted(times)[rounds // 2] * 1e6


def main(directory: Path) -> None:
    """Print the cost of a bare flush, and of commits of several sizes."""
    descriptor = os.open(directory / "page", os.O_RDWR | os.O_CREAT)
    offsets = iter(range(0, ROUNDS * 4_096, 4_096))

    def flush() -> None:
        os.pwrite(descriptor, b"x" * 4_096, next(offsets))
        os.fdatasync(descriptor)

    bare_us = median_us(flush, ROUNDS)
    os.close(descriptor)
    print(f"a page and fdatasync: {bare_us:.0f} µs")
    spool = SqliteSpool(directory / "spool.sqlite", DeadOptions())
    spool.open()
    seqs = iter(range(1 << 30))
    for batch in BATCHES:
        took_us = median_us(
            lambda batch=batch: spool.commit(  # type: ignore[misc]
                [Put(1, next(seqs), TopicKey("", "mail"), "", 60.0, len(RECORD), RECORD) for _ in range(batch)]
            ),
            max(20, ROUNDS // batch),
        )
        per_s = batch / took_us * 1e6
        print(f"a commit of {batch}: {took_us:.0f} µs, {took_us / bare_us:.2f} flushes, {per_s:.0f} casts/s")
    spool.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else ".") as made:
        main(Path(made))
