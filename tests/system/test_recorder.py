"""The flight recorder of real agents: what was recorded is replayed to the same state, by another process."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mesh import Expired, Indeterminate, MeshError, Unroutable, connect
from mesh.agent.poison import BREAKS_MAX
from mesh.core.records import Reply
from tests.system.agents import ROOT, Agent, Fleet, until

pytestmark = pytest.mark.system


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """No agents yet; those that are started end with the test."""
    with Fleet(tmp_path) as fleet:
        yield fleet


def mesh(*arguments: str, hash_seed: str = "0") -> tuple[int, list[Any]]:
    """Run the command line; return its exit status, and the JSON that it printed, line by line."""
    done = subprocess.run(
        [sys.executable, "-m", "mesh.cli", *arguments, "--json"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines() if done.returncode in (0, 1)]


def dump(agent: Agent) -> Path:
    status, (answer,) = mesh("recorder", "dump", "--socket", str(agent.socket_path))
    assert 0 == status
    return Path(answer["path"])


def test_a_run_of_two_agents_with_a_kill_in_it_is_replayed_to_the_same_state(fleet: Fleet) -> None:
    recorder = {"recorder_bytes": 4 << 20}
    a, b = fleet.start("a", recorder=recorder), fleet.start("b", recorder=recorder)
    with b.echo(), a.traffic(timeout_s=1.0) as traffic:
        traffic.flows()
        b.kill_reactor()
        b.expect("reactor_ready")
    with b.echo(server="again"), a.traffic() as traffic:
        traffic.flows()
        path = dump(a)
    assert 0o600 == path.stat().st_mode & 0o777
    ends = []
    for seed in ("0", "1", "4711"):
        status, steps = mesh("sim", "--replay", str(path), hash_seed=seed)
        assert (0, True) == (status, all(steps[-1]["states_same"])), steps[-1]
        ends.append(steps[-1])
    assert ends[0] == ends[1] == ends[2]
    assert len(ends[0]["states_same"]) >= 1
    notes = {effect["name"] for step in steps[:-1] for effect in step["effects"] if effect["type"] == "Note"}
    assert {"link_opened", "link_lost"} <= notes


def test_why_tells_from_two_recordings_what_became_of_a_call_whose_server_was_killed(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with connect("shop", socket=b.socket_path) as shop, connect("web", socket=a.socket_path) as client:
        shop.serve("echo", lambda message: message.body)
        well = client.call("echo", b"1", wait=True)
        b.kill_reactor()
        b.expect("reactor_ready")
        after = client.call("echo", b"2", wait=True, idempotent=True)
        with pytest.raises(Unroutable) as raised:
            client.call("nothing")
    paths = [str(dump(agent)) for agent in (a, b)]
    for id in (well.id, after.id):
        status, told = why(str(id), *paths)
        assert (0, ["a", "b"]) == (status, [one["node"] for one in told])
        assert ("its reply", True) == (told[0]["ended"], told[0]["whole"])
        assert told[1]["ran"], "of what had run under the reactor that was killed its app told the next one"
        assert bool(told[1]["handed_to"]) is (id == after.id)
    _, (told, _) = why(str(raised.value.message_id), *paths)
    assert told["ended"].startswith("UNROUTABLE: nobody serves 'nothing'")


SLOW = """
import sys, time, mesh
app = mesh.connect(app="shop", socket=sys.argv[1])
def work(message):
    with open(sys.argv[2], "a") as ran:
        ran.write(f"{message.id}\\n")
    time.sleep(float(message.body))
app.serve("work", work, workers=4)
print("ready", flush=True)
time.sleep(600)
"""
"""An app that writes down the id of each call before it works for so many seconds."""


def test_why_tells_of_calls_under_load_whose_agent_or_app_was_killed_while_they_ran(
    fleet: Fleet, tmp_path: Path
) -> None:
    """Which agent held it, what each decided, whether it ran: as the app's own book has it."""
    book = tmp_path / "ran"
    a, b, c = (fleet.start(node) for node in "abc")
    command = [sys.executable, "-c", SLOW, str(b.socket_path), str(book)]
    with (
        ExitStack() as loads,
        subprocess.Popen(command, stdout=subprocess.PIPE) as shop,
        connect("web", socket=a.socket_path) as client,
    ):
        loads.callback(shop.kill)
        assert shop.stdout is not None
        assert b"ready\n" == shop.stdout.readline()
        loads.enter_context(c.echo())
        traffic = [loads.enter_context(agent.traffic()) for agent in (a, c)]

        def begun() -> int:
            return len(book.read_text().splitlines()) if book.exists() else 0

        before = client.call("work", b"0", wait=True)
        runs, repeats = (client.call_async("work", b"1", timeout_s=20, idempotent=again) for again in (False, True))
        until(lambda: begun() == 3, "both calls run")
        b.kill_reactor()
        b.expect("reactor_ready")
        agent_died, repeated = runs.result(20), repeats.result(20)
        dies = client.call_async("work", b"60", timeout_s=20)
        until(lambda: begun() == 4, "the last call runs")
        shop.kill()
        with pytest.raises(Indeterminate) as lost:
            dies.result(20)
        never = client.call_async("work", b"0", timeout_s=0.5)
        with pytest.raises(Expired) as expired:
            never.result(20)
        for load in traffic:
            load.flows()
        paths = [str(dump(agent)) for agent in (a, b, c)]

    def told(id: object, node: str) -> Any:
        status, stories = why(str(id), *paths)
        assert (0, ["a", "b", "c"], [True] * 3) == (
            status,
            [one["node"] for one in stories],
            [one["whole"] for one in stories],
        )
        assert ([], False) == (stories[2]["passages"], stories[2]["ran"]), "the third agent had no part in it"
        return stories["abc".index(node)]

    def words(story: Any) -> list[str]:
        return [passage["what"] for passage in story["passages"]]

    ran = book.read_text().splitlines()
    assert [str(one.id) for one in (before, agent_died, repeated)] + [str(lost.value.message_id)] == ran

    story = told(before.id, "a")
    assert ("its reply", ["app web", "link b", "link b", "app web"]) == (
        story["ended"],
        [passage["whom"].partition(" #")[0] for passage in story["passages"]],
    )
    assert [] == told(before.id, "b")["passages"], "the reactor that had it is gone, and so is what it recorded"
    assert told(before.id, "b")["from_start"]

    story = told(agent_died.id, "a")
    assert "its reply" == story["ended"]
    asked = words(story).index("what became of it?")
    assert "lost" in [passage["way"] for passage in story["passages"][:asked]]
    assert "RUNNING is the answer" in words(story)[asked:]
    assert 1 == sum(what.startswith("call to") and "link" in whom for whom, what in sent(story))
    there = told(agent_died.id, "b")
    assert (True, "") == (there["ran"], there["handed_to"]), "it ended there, and was not handed out a second time"

    story = told(repeated.id, "a")
    assert "its reply" == story["ended"]
    assert 2 <= sum(what.startswith("call to") and "link" in whom for whom, what in sent(story))
    assert told(repeated.id, "b")["ran"]

    there = told(lost.value.message_id, "b")
    assert (False, "its process is gone") == (there["ran"], words(there)[3])
    assert "nothing came back: it may have run" in there["verdict"]
    assert told(lost.value.message_id, "a")["ended"].startswith("INDETERMINATE: ")

    assert told(expired.value.message_id, "a")["ended"].startswith("EXPIRED: ")
    there = told(expired.value.message_id, "b")
    assert ("", False) == (there["handed_to"], there["ran"]), "it may have come there, and was given back"
    assert str(expired.value.message_id) not in ran


def sent(story: Any) -> list[tuple[str, str]]:
    """Return to whom it went, and as what."""
    return [(passage["whom"], passage["what"]) for passage in story["passages"] if passage["way"] == "to"]


def why(*arguments: str) -> tuple[int, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "mesh.cli", "why", *arguments, "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


DEFECTIVE = """
from gevent import monkey
monkey.patch_all(os=False, signal=False, subprocess=False)
import functools
import sys
from mesh.agent.start import main
from mesh.cli.main import run_command_line
from mesh.core.calling import Calling

sound = Calling.request

@functools.wraps(sound)
def request(self, app, request, now):
    assert request.topic != "bomb", "a broken invariant"
    return sound(self, app, request, now)

Calling.request = request
sys.exit(main(sys.argv[1:]) if sys.argv[1] == "--config" else run_command_line(sys.argv[1:]))
"""


def test_a_broken_invariant_leaves_a_recording_that_breaks_again(fleet: Fleet) -> None:
    a = fleet.start("a", program=("-c", DEFECTIVE))
    with a.echo(), a.app() as app:
        app.request("echo", b"sound")
        app.expect(Reply)
        app.request("bomb", b"")
        path = a.expect("recording_written", reason="crash")["path"]
        a.expect("reactor_ready")
    replay = [sys.executable, "-c", DEFECTIVE, "sim", "--replay", path]
    done = subprocess.run(replay, cwd=ROOT, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    *_, last = done.stdout.splitlines()
    assert last.endswith("it breaks as it was recorded: AssertionError: a broken invariant")
    status, steps = mesh("sim", "--replay", path)
    assert (1, "") == (status, steps[-1]["raised"])
    assert "it does not raise what was recorded" in steps[-1]["verdict"]


def test_an_app_that_breaks_three_reactors_is_shut_out_and_others_are_served_on(fleet: Fleet) -> None:
    """It replays to each new reactor what broke the last one; its next process begins anew."""
    a = fleet.start("a", program=("-c", DEFECTIVE), recorder={"recordings_max": 2})
    with connect("poisoner", socket=a.socket_path) as client, pytest.raises(MeshError):
        client.call("bomb", timeout_s=8.0)
    until(lambda: len(a.noted("reactor_ready")) > BREAKS_MAX, "a reactor that stays")
    with connect("poisoner", socket=a.socket_path) as client:
        client.serve("echo", lambda message: message.body)
        assert b"sound" == client.call("echo", b"sound", wait=True).body
    assert BREAKS_MAX == len(a.noted("reactor_failed"))
    assert a.noted("app_refused", app="poisoner")
    assert 2 == len(list((a.data_dir / "recordings").iterdir()))
