"""Whoever takes a turn alone is alone, and does not wait for those who come later."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.system.agents import until

ROOT = Path(__file__).resolve().parent.parent

TAKE = """
import os, sys
from pathlib import Path
from tests.turns import turn
with turn(Path(sys.argv[1]), alone=sys.argv[2] == "alone"):
    child = os.fork()
    if child == 0:
        os.execlp("sleep", "sleep", "30")
    print(child, flush=True)
    sys.stdin.readline()
"""

pytestmark = pytest.mark.system

Enter = Callable[[str], "Taker"]


class Taker:
    """A process that wants a turn. In it, it starts a child, which stays when it leaves."""

    def __init__(self, folder: Path, how: str) -> None:
        self.log = folder / f"{id(self)}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", TAKE, folder, how], cwd=ROOT, stdin=subprocess.PIPE, stdout=log
            )

    @property
    def is_in(self) -> bool:
        return self.log.read_text() != "" and self.process.poll() is None

    @property
    def waits(self) -> bool:
        """Whether the kernel has it among those who wait for a lock."""
        rows = [row.split() for row in Path("/proc/locks").read_text().splitlines()]
        return any(row[1] == "->" and row[5] == str(self.process.pid) for row in rows)

    def leaves(self) -> None:
        self.process.communicate(b"\n")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        if child := self.log.read_text():
            subprocess.run(["kill", child.strip()], check=True)


@pytest.fixture
def taker(tmp_path: Path) -> Iterator[Enter]:
    with ExitStack() as stack:

        def start(how: str) -> Taker:
            made = Taker(tmp_path, how)
            stack.callback(made.close)
            return made

        yield start


def test_those_who_do_not_want_to_be_alone_are_in_together(taker: Enter) -> None:
    one, two = taker("together"), taker("together")
    until(lambda: one.is_in and two.is_in, "both are in")


def test_one_who_is_alone_waits_for_those_who_are_in_and_goes_before_those_who_come_later(taker: Enter) -> None:
    first = taker("together")
    until(lambda: first.is_in, "the first is in")
    alone = taker("alone")
    until(lambda: alone.waits, "it waits for the first")
    later = taker("together")
    until(lambda: later.waits, "the later one waits for it")
    assert (False, False) == (alone.is_in, later.is_in)
    first.leaves()
    until(lambda: alone.is_in, "it is in")
    assert later.waits
    alone.leaves()
    until(lambda: later.is_in, "the later one is in")


def test_a_turn_ends_with_its_process_whatever_became_of_it(taker: Enter) -> None:
    alone = taker("alone")
    until(lambda: alone.is_in, "it is in")
    later = taker("alone")
    until(lambda: later.waits, "another waits")
    alone.process.kill()
    until(lambda: later.is_in, "another is in")
