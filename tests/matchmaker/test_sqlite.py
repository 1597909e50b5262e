"""What the SQLite matchmaker adds to the contract: a file, its permissions, its mishaps, boots and clocks."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from mesh.core.catalogue import Health
from mesh.matchmaker.base import MatchmakerError
from mesh.matchmaker.sqlite import SqliteMatchmaker, SqliteOptions
from tests.matchmaker.worlds import ORDERS, agent, instance, until

CHILD = """
import sys
from mesh.core.catalogue import AgentEntry
from mesh.matchmaker.sqlite import SqliteMatchmaker, SqliteOptions

matchmaker = SqliteMatchmaker("one", SqliteOptions(path=sys.argv[1], ttl_s=2))
matchmaker.register(AgentEntry(sys.argv[2], "127.0.0.1", 7000, 1))
print(len(matchmaker.agents()), flush=True)
sys.stdin.read()
"""


class Files:
    """Makes matchmakers on one file, and closes them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 1000.0
        self.made: list[SqliteMatchmaker] = []

    def matchmaker(
        self, fleet: str = "one", *, boot: str = "", clock: Callable[[], float] | None = None
    ) -> SqliteMatchmaker:
        options = SqliteOptions(path=str(self.path), busy_timeout_s=0.05)
        self.made.append(SqliteMatchmaker(fleet, options, boot=boot, clock=clock))
        return self.made[-1]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    made = Files(tmp_path / "run" / "mesh.sqlite")
    yield made
    for matchmaker in made.made:
        matchmaker.close()


def child(path: Path, node: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), node], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def ended(process: "subprocess.Popen[str]", with_signal: int = 0) -> None:
    if with_signal:
        process.send_signal(with_signal)
    process.communicate(timeout=30)


def test_the_file_is_its_users_own_and_so_is_a_directory_that_was_made(files: Files) -> None:
    files.matchmaker().register(agent())
    assert 0o700 == files.path.parent.stat().st_mode & 0o777
    assert {0o600} == {path.stat().st_mode & 0o777 for path in files.path.parent.iterdir()}
    assert {"mesh.sqlite", "mesh.sqlite-wal", "mesh.sqlite-shm"} == {path.name for path in files.path.parent.iterdir()}


def test_a_directory_that_was_there_keeps_its_mode(files: Files) -> None:
    files.path.parent.mkdir(mode=0o755)
    files.matchmaker().register(agent())
    assert 0o755 == files.path.parent.stat().st_mode & 0o777


def test_an_empty_path_is_refused() -> None:
    with pytest.raises(MatchmakerError, match=r"sqlite\.path is empty"):
        SqliteMatchmaker("one", SqliteOptions())


def test_options_have_bounds_and_descriptions() -> None:
    for bad in ({"ttl_s": 0}, {"ttl_s": 4000}, {"busy_timeout_s": -1}, {"colour": "red"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, SqliteOptions)
    for name, option in msgspec.json.schema(SqliteOptions)["$defs"]["SqliteOptions"]["properties"].items():
        assert "Trade-off" in option["description"], name


def test_another_fleets_file_is_refused(files: Files) -> None:
    files.matchmaker().register(agent())
    with pytest.raises(MatchmakerError, match="is of fleet 'one', not 'two'"):
        files.matchmaker("two").register(agent())


def test_a_file_of_another_format_is_refused(files: Files) -> None:
    files.matchmaker().register(agent())
    with contextlib.closing(sqlite3.connect(files.path)) as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(MatchmakerError, match="is of format 99, not 1"):
        files.matchmaker().agents()


def test_another_programs_database_is_refused_and_left_as_it_is(files: Files) -> None:
    files.path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(files.path)) as database, database:
        database.execute("CREATE TABLE theirs (x)")
    before = files.path.read_bytes()
    with pytest.raises(MatchmakerError, match="not a matchmaker file"):
        files.matchmaker().register(agent())
    assert before == files.path.read_bytes()


def test_a_damaged_file_is_named_with_what_to_do(files: Files) -> None:
    files.path.parent.mkdir()
    files.path.write_bytes(b"what a mess" * 1000)
    with pytest.raises(MatchmakerError, match=r"mesh\.sqlite: .*damaged: remove it"):
        files.matchmaker().agents()


def test_damage_inside_is_named_too(files: Files) -> None:
    matchmaker = files.matchmaker()
    matchmaker.register(agent())
    with contextlib.closing(sqlite3.connect(files.path)) as database, database:
        database.execute("UPDATE entry SET body = x'c1'")
    with pytest.raises(MatchmakerError, match="damaged: remove it"):
        matchmaker.agents()


def test_a_locked_file_is_an_error_that_says_so_and_passes(files: Files) -> None:
    matchmaker = files.matchmaker()
    matchmaker.register(agent())
    with contextlib.closing(sqlite3.connect(files.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(MatchmakerError, match=r"database is locked: another process held it for 0\.05 s"):
            matchmaker.renew(agent(), Health.PASSING, "")
        assert [agent()] == list(matchmaker.agents()), "who only reads need not wait"
        other.execute("ROLLBACK")
    assert matchmaker.renew(agent(), Health.PASSING, "")


def test_a_file_that_cannot_be_written_is_an_error_that_says_so(files: Files) -> None:
    files.path.parent.mkdir()
    files.path.mkdir()
    with pytest.raises(MatchmakerError, match="must be able to write the file and its directory"):
        files.matchmaker().register(agent())


def test_a_read_only_database_is_an_error_that_says_so(files: Files) -> None:
    matchmaker = files.matchmaker()
    matchmaker.register(agent())
    connection = matchmaker._writer.connection
    assert connection is not None
    connection.database.execute("PRAGMA query_only = ON")
    with pytest.raises(MatchmakerError, match=r"readonly database: this user must be able to write"):
        matchmaker.register(agent())


def test_a_directory_that_cannot_be_made_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    matchmaker = SqliteMatchmaker("one", SqliteOptions(path=str(tmp_path / "file" / "mesh.sqlite")))
    with pytest.raises(MatchmakerError, match=r"mesh\.sqlite: .*must be able to write"):
        matchmaker.register(agent())


def test_what_another_boot_left_is_dead_whatever_its_clock_said(files: Files) -> None:
    files.matchmaker(boot="before", clock=lambda: 1e9).register(agent("old"))
    matchmaker = files.matchmaker(boot="after", clock=lambda: 10.0)
    assert [] == list(matchmaker.agents())
    assert not matchmaker.renew(agent("old"), Health.PASSING, "")


def test_the_dead_are_purged(files: Files) -> None:
    now = [10.0]
    matchmaker = files.matchmaker(clock=lambda: now[0])
    for node in ("a", "b"):
        matchmaker.register(agent(node))
    now[0] += 1000
    matchmaker.register(agent("c"))
    with contextlib.closing(sqlite3.connect(files.path)) as database:
        assert [("c",)] == database.execute("SELECT node FROM entry").fetchall()


def test_a_step_of_the_wall_clock_changes_nothing(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    matchmaker = files.matchmaker()
    matchmaker.register(agent())
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert [agent()] == list(matchmaker.agents())
    assert matchmaker.renew(agent(), Health.PASSING, "")


def test_a_removed_file_is_started_anew_and_its_log_is_not_read_into_it(files: Files) -> None:
    matchmaker, other = files.matchmaker(), files.matchmaker()
    for node in ("a", "b"):
        matchmaker.register(agent(node))
    files.path.unlink()
    assert not matchmaker.renew(agent("a"), Health.PASSING, "")
    matchmaker.register(agent("a"))
    assert ["a"] == [found.node for found in other.agents()]


@pytest.mark.io
def test_however_many_look_at_once_one_connection_serves_them_all(files: Files) -> None:
    matchmaker = files.matchmaker()
    matchmaker.register(agent())
    with ThreadPoolExecutor(8) as threads:
        assert 800 == sum(threads.map(lambda _: len(matchmaker.agents()), range(800)))
    names = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    assert 2 == names.count(str(files.path)), "one of those who write, one of those who look"


@pytest.mark.io
def test_a_hundred_watches_share_a_few_descriptors_and_all_wake(files: Files) -> None:
    matchmaker, other = files.matchmaker(), files.matchmaker()
    matchmaker.register(agent())
    seen = matchmaker.watch(ORDERS, 0, 0)
    with ThreadPoolExecutor(100) as threads:
        watching = []
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(100):
            watching.append(threads.submit(matchmaker.watch, ORDERS, seen.index, 60))
            time.sleep(0.005)
        time.sleep(0.5)
        descriptors = len(list(Path("/proc/self/fd").iterdir())) - before
        other.register(instance(agent()))
        assert {1} == {len(future.result(60).instances) for future in watching}
    assert descriptors < 50


@pytest.mark.io
def test_a_watch_follows_a_file_that_was_removed(files: Files) -> None:
    matchmaker, other = files.matchmaker(), files.matchmaker()
    for entry in (agent(), instance(agent())):
        matchmaker.register(entry)
    seen = matchmaker.watch(ORDERS, 0, 0)
    threading.Timer(0.2, files.path.unlink).start()
    assert () == matchmaker.watch(ORDERS, seen.index, 60).instances
    for entry in (agent(), instance(agent())):
        other.register(entry)
    assert seen == matchmaker.watch(ORDERS, 0, 0)


@pytest.mark.system
def test_agents_that_start_at_once_make_one_file(files: Files) -> None:
    children = [child(files.path, f"node{number}") for number in range(8)]
    answers = [process.stdout.readline() for process in children if process.stdout]
    assert "8\n" == max(answers)
    for process in children:
        ended(process)
    assert [files.path.name] == [path.name for path in files.path.parent.iterdir()], "the last to leave tidies up"


@pytest.mark.system
def test_a_killed_agent_leaves_no_ghost_beyond_its_ttl(files: Files) -> None:
    process = child(files.path, "node1")
    assert process.stdout
    assert "1\n" == process.stdout.readline()
    matchmaker = files.matchmaker()
    matchmaker.register(agent("node2"))
    matchmaker.register(instance(agent("node1")))
    ended(process, signal.SIGKILL)
    until(matchmaker, lambda seen: not seen.instances)
    assert ["node2"] == [found.node for found in matchmaker.agents()]
