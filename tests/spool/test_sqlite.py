"""The spool on disk: reboots, and files that cannot be used."""

import os
import sqlite3
import stat
from pathlib import Path

import pytest

from mesh.core.ledger import Committed, Expire
from mesh.spool.base import CLOCK_NOTE_S, SpoolError, SpoolLost
from mesh.spool.sqlite import SqliteSpool
from tests.spool.worlds import Machine, fetch, put

pytestmark = pytest.mark.io  # files


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def kept(machine: Machine, count: int = 100) -> None:
    """Leave a file with rows of records larger than a page."""
    spool = machine.sqlite()
    spool.open()
    spool.commit([put(seq, record=os.urandom(6_000)) for seq in range(count)])
    spool.close()


def left_s(spool: SqliteSpool) -> float:
    return fetch(spool)[0].left_s


# Time


def test_time_goes_on_over_a_reboot(machine: Machine) -> None:
    spool = machine.sqlite()
    spool.open()
    machine.sleep(20.0)
    spool.commit([put(1, ttl_s=60.0)])
    spool.close()
    machine.reboot(down_s=15.0)
    again = machine.sqlite()
    again.open()
    assert 45.0 == pytest.approx(left_s(again))
    machine.sleep(5.0)
    assert 40.0 == pytest.approx(left_s(again))


def test_a_step_of_the_clock_while_the_machine_runs_changes_nothing(machine: Machine) -> None:
    spool = machine.sqlite()
    spool.open()
    spool.commit([put(1, ttl_s=600.0)])
    machine.wall += 86_400.0
    machine.sleep(CLOCK_NOTE_S)
    spool.commit([Expire()])
    machine.wall -= 5 * 86_400.0
    machine.sleep(CLOCK_NOTE_S)
    spool.commit([Expire()])
    assert 480.0 == pytest.approx(left_s(spool))
    spool.close()
    machine.reboot(down_s=30.0)
    again = machine.sqlite()
    again.open()
    assert 450.0 == pytest.approx(left_s(again))


@pytest.mark.parametrize(("step_s", "expected"), [(40.0, 510.0), (-10.0, 560.0), (-86_400.0, 580.0)])
def test_a_step_while_it_is_down_counts_as_time_but_never_gives_any(
    machine: Machine, step_s: float, expected: float
) -> None:
    spool = machine.sqlite()
    spool.open()
    spool.commit([put(1, ttl_s=600.0)])
    machine.sleep(CLOCK_NOTE_S / 3)
    spool.commit([put(2)])
    spool.close()
    machine.reboot(down_s=30.0, clock_step_s=step_s)
    again = machine.sqlite()
    again.open()
    assert expected == pytest.approx(left_s(again))


def test_a_machine_that_was_down_too_long_delivers_nothing_late(machine: Machine) -> None:
    spool = machine.sqlite()
    spool.open()
    spool.commit([put(1, ttl_s=60.0)])
    spool.close()
    machine.reboot(down_s=90.0)
    again = machine.sqlite()
    again.open()
    assert [1] == [expired.seq for expired in again.commit([Expire()]).expired]


# Files that cannot be used


def broken(machine: Machine, how: str) -> None:
    path = machine.path
    if how == "no database":
        path.write_bytes(b"no database at all, but long enough to be taken for one" * 100)
    elif how == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "overwritten":
        with path.open("r+b") as file:
            file.seek(8_192)
            file.write(os.urandom(64_000))
    elif how == "another program's":
        path.unlink()
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE things (name)")
        database.close()
    else:
        with sqlite3.connect(path) as database:
            database.execute("PRAGMA user_version = 99")
        database.close()


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("no database", "file is not a database"),
        ("truncated", ""),
        ("overwritten", ""),
        ("another program's", "another program's database"),
        ("another format", "of format 99, and this agent writes 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_set_aside_whole(machine: Machine, how: str, why: str) -> None:
    kept(machine)
    broken(machine, how)
    content = machine.path.read_bytes()
    spool = machine.sqlite()
    opened = spool.open()
    aside = machine.path.with_name("spool.sqlite.damaged-1")
    assert why in opened.aside
    assert str(aside) in opened.aside
    assert content == aside.read_bytes()
    assert (0, 0) == (opened.totals.records, opened.last)
    assert 1 == spool.commit([put(1)]).totals.records


def test_files_set_aside_do_not_replace_each_other_until_they_are_many(machine: Machine) -> None:
    for _ in range(12):
        machine.path.write_bytes(b"no database" * 100)
        spool = machine.sqlite()
        spool.open()
        spool.close()
    names = sorted(
        path.name for path in machine.path.parent.glob("*.damaged*") if path.suffix[-4:] not in ("-wal", "-shm")
    )
    assert ["spool.sqlite.damaged", *(f"spool.sqlite.damaged-{number}" for number in range(1, 10))] == names


def test_a_file_that_is_empty_is_a_new_one(machine: Machine) -> None:
    machine.path.touch()
    assert "" == machine.sqlite().open().aside


def test_nobody_else_may_read_it(machine: Machine) -> None:
    spool = machine.sqlite()
    spool.open()
    spool.commit([put(1)])
    modes = [stat.S_IMODE(path.stat().st_mode) for path in machine.path.parent.iterdir()]
    assert {0o600} == set(modes)


def test_a_file_that_is_damaged_while_it_is_used_is_lost_and_then_set_aside(machine: Machine) -> None:
    kept(machine, 1_000)  # more than SQLite keeps in memory
    spool = machine.sqlite()
    spool.open()
    broken(machine, "overwritten")
    with pytest.raises(SpoolLost, match="damaged"):
        fetch(spool, size=1 << 30)
    assert "damaged-1" in spool.open().aside
    assert 1 == spool.commit([put(1)]).totals.records


def test_a_file_that_was_removed_is_lost_and_then_begun_anew(machine: Machine) -> None:
    spool = machine.sqlite()
    spool.open()
    spool.commit([put(1)])
    machine.path.unlink()
    with pytest.raises(SpoolLost, match="removed or replaced"):
        spool.commit([put(2)])
    opened = spool.open()
    assert ("", 0) == (opened.aside, opened.totals.records)


def test_a_directory_that_is_not_there_is_an_error_that_names_it(machine: Machine) -> None:
    spool = SqliteSpool(machine.path / "missing" / "spool.sqlite", machine.sqlite()._options)
    with pytest.raises(SpoolError, match=r"missing/spool.sqlite.*must be able to write"):
        spool.open()


def test_a_file_that_another_process_uses_is_an_error_and_stays(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept(machine)
    monkeypatch.setattr("mesh.spool.sqlite.IN_USE_WAIT_S", 0.05)
    other = sqlite3.connect(machine.path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(SpoolError, match="another process"):
        machine.sqlite().open()
    other.close()
    assert 100 == machine.sqlite().open().totals.records


def test_a_commit_that_fails_leaves_everything_as_it_was(machine: Machine) -> None:
    spool = machine.sqlite()
    spool.open()
    before = spool.commit([put(1)]).totals
    database = spool._connected()
    database.execute(f"PRAGMA max_page_count = {database.execute('PRAGMA page_count').fetchone()[0] + 4}")
    with pytest.raises(SpoolError, match="full.*make room"):
        spool.commit([put(2), put(3, record=b"x" * 100_000)])
    assert before == spool.totals()
    assert [1] == [row.seq for row in fetch(spool)]
    database.execute("PRAGMA max_page_count = 1000000")
    assert isinstance(spool.commit([put(2), put(3, record=b"x" * 100_000)]), Committed)
    assert [1, 2, 3] == [row.seq for row in fetch(spool)]
