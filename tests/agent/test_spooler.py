"""Jobs of the spool: in order, in a thread, one at a time."""

import gevent
import pytest

from mesh.agent.spooler import Spooler
from mesh.agent.threads import in_thread
from mesh.core.ledger import Commit, Committed, Done, Fetch, Fetched, Open, Opened, Word
from mesh.spool.base import DeadOptions
from mesh.spool.memory import MemorySpool
from mesh.types import TopicKey

pytestmark = pytest.mark.io


def test_each_job_is_answered_in_order_and_the_file_is_let_go_of_at_the_end() -> None:
    spool, words = MemorySpool(DeadOptions(), lambda: 1.0), list[Word]()
    spooler = Spooler(spool, in_thread, words.append)
    for job in (Open(), Commit([Done(7, 1)]), Fetch(TopicKey("", "orders"), 0, 1, 1)):
        spooler.give(job)
    assert [] == words
    spooler.stop()
    assert [Opened, Committed, Fetched] == [type(word) for word in words]
    assert not spool.is_open


def test_a_spool_that_was_never_used_is_stopped_at_once() -> None:
    Spooler(MemorySpool(DeadOptions(), lambda: 1.0), in_thread, lambda word: None).stop()


def test_a_slow_disk_does_not_stop_the_loop() -> None:
    import threading

    turned, words = threading.Event(), list[Word]()
    spool = MemorySpool(DeadOptions(), lambda: 1.0)
    opened = spool.open

    def slow() -> Opened:
        assert turned.wait(30)
        return opened()

    spool.open = slow  # type: ignore[method-assign]
    spooler = Spooler(spool, in_thread, words.append)
    spooler.give(Open())
    gevent.spawn_later(0.01, turned.set)
    with gevent.Timeout(30):
        while not words:
            gevent.sleep(0.005)
    assert isinstance(words[0], Opened)
