"""Plays many seeds, in several processes, and sums up what they came to."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context

from msgspec import Struct, field

from mesh.sim.plan import draw
from mesh.sim.run import Result, play

__all__ = ["Sum", "sweep"]

CHUNK = 8
"""Seeds that a process is given at once."""


class Sum(Struct):
    """What many runs came to. ``failed``: the runs in which something was found."""

    seeds: int = 0
    messages: int = 0
    deliveries: int = 0
    virtual_s: float = 0.0
    cpu_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    failed: list[Result] = field(default_factory=list)

    @property
    def deliveries_per_s(self) -> float:
        """Records that nodes and sessions were given in a second of one core."""
        return self.deliveries / self.cpu_s if self.cpu_s else 0.0

    def add(self, result: Result) -> None:
        """Count a run."""
        self.seeds += 1
        self.messages += result.messages
        self.deliveries += result.deliveries
        self.virtual_s += result.virtual_s
        self.cpu_s += result.cpu_s
        self.faults.update(result.faults)
        self.outcomes.update(result.outcomes)
        if result.findings:
            self.failed.append(result)


def _play_all(seeds: list[int], only: tuple[str, ...]) -> list[Result]:
    return [play(draw(seed, only)) for seed in seeds]


def sweep(
    seeds: Iterable[int],
    only: tuple[str, ...] = (),
    *,
    processes: int = 1,
    goes_on: Callable[[Sum], bool] = lambda so_far: True,
) -> Sum:
    """Play seeds until there are no more, or ``goes_on``, which is asked after each few, says no."""
    total = Sum()
    numbers = iter(seeds)
    chunks = iter(lambda: list(islice(numbers, CHUNK)), [])
    if processes <= 1:
        for seed in (seed for chunk in chunks for seed in chunk):
            total.add(play(draw(seed, only)))
            if not goes_on(total):
                break
        return total
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = _submit(pool, chunks, only, 2 * processes)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in [future for future in running if future in done]:
                running.remove(future)
                for result in future.result():
                    total.add(result)
            if goes_on(total):
                running += _submit(pool, chunks, only, 2 * processes - len(running))
    return total


def _submit(
    pool: ProcessPoolExecutor, chunks: Iterator[list[int]], only: tuple[str, ...], count: int
) -> list[Future[list[Result]]]:
    return [pool.submit(_play_all, chunk, only) for chunk in islice(chunks, count)]
