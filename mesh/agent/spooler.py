"""The spool's side of an agent: jobs done one after the other, in a thread, so that a slow disk delays nobody else."""

from collections.abc import Callable
from typing import Any

import gevent
from gevent.queue import Queue

from mesh.core.ledger import Job, Word
from mesh.spool.base import Spool, do

__all__ = ["Spooler"]

CLOSE_S = 2.0
"""How long the last commit may take when the agent ends."""


class Spooler:
    """Does jobs in the order in which they are given; ``run`` runs what blocks, ``told`` gets the word for each."""

    def __init__(self, spool: Spool, run: Callable[..., Any], told: Callable[[Word], None]) -> None:
        self.spool = spool
        self.run = run
        self.told = told
        self.jobs: Any = Queue()
        self.worker: Any = None

    def give(self, job: Job) -> None:
        """Have a job done."""
        if self.worker is None:
            self.worker = gevent.spawn(self._work)
        self.jobs.put(job)

    def _work(self) -> None:
        while (job := self.jobs.get()) is not None:
            self.told(self.run(do, self.spool, job))
        self.run(self.spool.close)

    def stop(self) -> None:
        """Do what was given, and let go of the file."""
        if self.worker is not None:
            self.jobs.put(None)
            self.worker.join(CLOSE_S)
