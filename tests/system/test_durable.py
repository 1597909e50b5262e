"""Durable casts through real agents and a real disk: killed, full, damaged, too late."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import mesh
from tests.system.agents import WITHIN_S, Agent, Fleet, until

pytestmark = pytest.mark.system

CASTER = """
import os, sys, mesh
client = mesh.connect(app="caster", socket=sys.argv[1])
for number in range(int(sys.argv[2])):
    client.cast_async("mail", str(number).encode(), durable=True, ttl_s=600).add_done_callback(
        lambda future, number=number: os.write(1, b"%d\\n" % number) if not future.exception() else None
    )
client.flush()
os.write(1, b"flushed\\n")
sys.stdin.read()
"""
"""An app that casts so many, writes the number of each that was accepted, and then hangs on."""


@contextmanager
def client(agent: Agent, app: str = "test") -> Iterator[mesh.Client]:
    with mesh.connect(app=app, socket=agent.socket_path) as connected:
        yield connected


@contextmanager
def caster(agent: Agent, count: int) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-c", CASTER, str(agent.socket_path), str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def accepted_until_dead(process: "subprocess.Popen[str]") -> set[int]:
    assert process.stdout is not None
    return {int(line) for line in process.stdout if line.strip().isdigit()}


def served(agent: Agent, apps: ExitStack, topic: str = "mail") -> "Counter[bytes]":
    """Serve a topic; return what came, counted, as it comes."""
    came: Counter[bytes] = Counter()
    app = apps.enter_context(client(agent, "server"))
    app.serve(topic, lambda message: came.update([message.body]), workers=1)
    return came


def come_back(agent: Agent) -> None:
    """Start an agent that has ended, and wait for its spool."""
    before = len(agent.noted("spool_opened"))
    agent.spawn()
    until(lambda: len(agent.noted("spool_opened")) > before, "its spool is open")


def spool_of(agent: Agent) -> dict[str, object]:
    found: dict[str, object] = agent.query("status")["spool"]
    return found


def mesh_command(agent: Agent, *arguments: str) -> str:
    environment = {**os.environ, "MESH_SOCKET": str(agent.socket_path)}
    command = [sys.executable, "-m", "mesh.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert 0 == done.returncode, done.stderr
    return done.stdout


def test_agent_and_app_killed_together_lose_no_accepted_cast_and_deliver_each_once(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with caster(a, 2_000) as process:
        assert process.stdout is not None
        accepted = {int(process.stdout.readline()) for _ in range(500)}
        a.kill()
        process.kill()
        accepted |= accepted_until_dead(process)
    come_back(a)
    with ExitStack() as apps:
        came = served(b, apps)
        until(lambda: spool_of(a)["records"] == 0, "the spool is empty", 3 * WITHIN_S)
        assert accepted <= {int(body) for body in came}
        assert {1} == set(came.values())


def test_what_was_being_delivered_when_agent_and_app_were_killed_arrives_once_each(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with ExitStack() as apps:
        came = served(b, apps)
        with caster(a, 5_000) as process:
            until(lambda: len(came) > 300, "some have come")
            a.kill()
            process.kill()
            accepted = accepted_until_dead(process)
        come_back(a)
        until(lambda: accepted <= {int(body) for body in came}, "all that was accepted has come", 3 * WITHIN_S)
        until(lambda: spool_of(a)["records"] == 0, "the spool is empty", 3 * WITHIN_S)
        assert {1} == set(came.values())


def test_a_reactor_that_is_replaced_goes_on_and_the_app_sees_its_casts_through(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with ExitStack() as apps:
        came = served(b, apps)
        caller = apps.enter_context(client(a, "caller"))
        futures = [caller.cast_async("mail", b"%d" % n, durable=True, confirm=True) for n in range(1_000)]
        until(lambda: len(came) > 50, "some have come")
        a.kill_reactor()
        for future in futures:
            future.result(WITHIN_S)
        assert {b"%d" % n: 1 for n in range(1_000)} == came


def test_a_large_body_is_kept_and_delivered_after_a_restart(fleet: Fleet) -> None:
    a = fleet.start("a")
    body = os.urandom(3_000_000)
    with client(a) as caller:
        caller.cast("mail", body, durable=True, once=True)
    a.kill()
    come_back(a)
    assert 1 == spool_of(a)["records"]
    with ExitStack() as apps:
        came = served(a, apps)
        until(lambda: came, "it has come")
        assert {body: 1} == came


def test_an_app_that_closes_does_not_wait_for_what_is_on_disk(fleet: Fleet) -> None:
    a = fleet.start("a")
    assert "" == mesh_command(a, "cast", "mail", "one", "--durable", "--ttl-s", "60")
    assert 1 == spool_of(a)["records"]
    assert "1 casts" in mesh_command(a, "status")


def test_what_is_too_late_is_a_dead_letter_that_people_can_look_at_and_send_again(fleet: Fleet) -> None:
    a = fleet.start("a")
    with client(a) as caller:
        for number in range(3):
            caller.cast("mail", b"letter %d" % number, durable=True, ttl_s=0.2, headers={"k": "v"})
        until(lambda: spool_of(a)["dead"] == 3, "all are dead letters")
    a.kill()
    come_back(a)
    listed = json.loads(mesh_command(a, "dead", "list", "--json"))
    numbers = [str(letter["number"]) for letter in listed["dead"]]
    assert (3, {"expired"}) == (len(numbers), {letter["reason"] for letter in listed["dead"]})
    assert "nobody was ready for 'mail'" in mesh_command(a, "dead", "list")
    shown = mesh_command(a, "dead", "show", numbers[0])
    assert "body: letter 0" in shown
    assert "header k: v" in shown
    assert "purged 1\n" == mesh_command(a, "dead", "purge", numbers[0])
    with ExitStack() as apps:
        came = served(a, apps)
        assert '{"retried": 2}\n' == mesh_command(a, "dead", "retry", "--all", "--json")
        until(lambda: len(came) == 2, "they have come")
    assert "no dead letters\n" == mesh_command(a, "dead", "list")


@pytest.mark.parametrize("how", ["no database", "truncated", "removed while it is used"])
def test_a_spool_that_cannot_be_used_is_set_aside_and_the_agent_goes_on(fleet: Fleet, how: str) -> None:
    a = fleet.start("a")
    path = a.data_dir / "spool.sqlite"
    with client(a) as caller:
        caller.cast("mail", os.urandom(100_000), durable=True)
    if how == "removed while it is used":
        path.unlink()
    else:
        a.stop()
        content = path.read_bytes()
        path.write_bytes(b"not a database" * 1_000 if how == "no database" else content[: len(content) // 2])
        a.spawn()
        note = a.expect("spool_set_aside")
        aside = Path(f"{path}.damaged-1")
        assert str(aside) in note["why"]
        assert aside.exists()
    with ExitStack() as apps:
        came = served(a, apps, "other")
        caller = apps.enter_context(client(a, "caller"))

        def taken() -> bool:
            try:
                caller.cast("other", b"x", durable=True)
            except mesh.Overloaded:
                return False
            return True

        until(taken, "durable casts are taken again")
        until(lambda: came, "and delivered")
    assert path.exists()


@contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """Mount a file system of a few megabytes."""
    directory.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory)], check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


def test_a_full_disk_refuses_durable_casts_by_name_and_nothing_else_and_takes_them_again(
    fleet: Fleet, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "8m") as disk:
        a = fleet.start("a", agent={"data_dir": str(disk)})
        with ExitStack() as apps:
            served(a, apps, "plain")
            caller = apps.enter_context(client(a, "caller"))
            casts = [caller.cast_async("mail", os.urandom(200_000), durable=True) for _ in range(60)]
            errors = [error for cast in casts if (error := cast.exception(WITHIN_S))]
            kept = len(casts) - len(errors)
            assert 0 < kept < 60
            assert all(isinstance(error, mesh.Overloaded) and error.limit == "spool_disk" for error in errors)
            assert f"{disk}/spool.sqlite" in str(errors[0])
            assert "make room" in str(errors[0])
            caller.cast("plain", b"x", confirm=True)
            pid = a.reactor_pid
            came = served(a, apps)
            until(lambda: sum(came.values()) == kept, "what was accepted has come")
            until(lambda: spool_of(a)["records"] == 0, "and its end is on disk")
            until(lambda: _taken(caller), "durable casts are taken again")
            assert pid == a.reactor_pid
            assert [] == a.noted("reactor_failed")
        a.kill()


def _taken(caller: mesh.Client) -> bool:
    try:
        caller.cast("mail", os.urandom(200_000), durable=True, confirm=True)
    except mesh.Overloaded:
        return False
    return True
