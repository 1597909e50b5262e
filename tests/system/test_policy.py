"""The policy, tokens and limits of apps with real agents, and real apps of other users. Needs root."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mesh
from mesh.core.records import AppHello, Failure, Refuse, RefuseReason
from tests.system.agents import ROOT, WITHIN_S, Agent, Fleet, toml, until

pytestmark = pytest.mark.system

APP = """
import encodings.idna, json, os, sys
import mesh

socket, topic, user, *groups = sys.argv[1:]
os.setgroups([int(group) for group in groups])
os.setgid(int(user))
os.setuid(int(user))
try:
    with mesh.connect(app="other", socket=socket) as client:
        print(json.dumps({"body": client.call(topic, b"hello", timeout_s=10).body.decode()}))
except mesh.MeshError as error:
    print(json.dumps({"error": type(error).__name__, "text": str(error), "rule": getattr(error, "rule", "")}))
"""

DAEMON = 1
"""A user and a group of every Debian."""

GAMES = 60
"""A group of every Debian."""


@pytest.fixture
def open_fleet() -> Iterator[Fleet]:
    """A fleet in a directory that every user may go through."""
    with tempfile.TemporaryDirectory(prefix="mesh-policy-") as directory:
        Path(directory).chmod(0o755)
        with Fleet(Path(directory)) as fleet:
            yield fleet


def ask(agent: Agent, topic: str, *groups: int, token_file: str = "") -> dict[str, str]:
    """Call a topic as user daemon, in these groups, and return what came of it."""
    environment = {**os.environ, **({"MESH_TOKEN_FILE": token_file} if token_file else {})}
    numbers = [str(number) for number in (DAEMON, *groups)]
    command = [sys.executable, "-c", APP, str(agent.socket_path), topic, *numbers]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.stdout, done.stderr
    told: dict[str, str] = json.loads(done.stdout)
    return told


def rewrite(agent: Agent, change: Callable[[str], str]) -> None:
    agent.config_path.write_text(change(agent.config_path.read_text()))


def reload(agent: Agent) -> Any:
    """Have an agent read its policy anew, as `mesh reload` does; return what it says."""
    done = subprocess.run(
        [sys.executable, "-m", "mesh.cli", "reload", "--json", "--socket", str(agent.socket_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(done.stdout)["policy"] if done.returncode == 0 else (done.returncode, done.stderr)


def rules(**made: dict[str, Any]) -> str:
    return toml({f"policy.rules.{name}": rule for name, rule in made.items()})


def test_users_and_groups_are_who_the_kernel_says_and_their_agent_refuses_them(open_fleet: Fleet) -> None:
    a = open_fleet.start("a", agent={"socket_group": "daemon"}, policy={"default": "allow"})
    b = open_fleet.start("b")
    rewrite(
        a,
        lambda text: (
            text
            + rules(
                games={"effect": "only", "verbs": ["call"], "topics": ["play.>"], "groups": ["games"]},
                no_daemon={"effect": "deny", "topics": ["echo"], "users": ["daemon"]},
            )
        ),
    )
    assert "2 rules, default allow; 0 tokens" == reload(a)
    with b.echo("play.chess"), b.echo("echo"), a.app() as root:
        in_games = ask(a, "play.chess", GAMES)
        out_of_games = ask(a, "play.chess")
        denied = ask(a, "echo", GAMES)
        assert b"x" == getattr(root.call("echo", b"x"), "body", None)
    assert {"body": "hello"} == in_games
    assert ("Rejected", "games") == (out_of_games["error"], out_of_games["rule"])
    assert "user 'daemon' at 'a' may not call 'play.chess': policy rule 'games' is against it" in out_of_games["text"]
    assert ("Rejected", "no_daemon") == (denied["error"], denied["rule"])
    assert {"games": 1, "no_daemon": 1} == a.query("status")["policy"]["refused"]
    assert 1 == a.expect("policy_refused", rule="games")["count"]


def test_the_servers_agent_refuses_what_the_callers_let_through(fleet: Fleet) -> None:
    a, c = fleet.start("a"), fleet.start("c")
    b = fleet.start("b", policy__rules__only_c={"effect": "only", "verbs": ["call"], "nodes": ["c"]})
    with b.echo(), mesh.connect(socket=a.socket_path) as at_a, mesh.connect(socket=c.socket_path) as at_c:
        assert b"x" == at_c.call("echo", b"x", wait=True, timeout_s=WITHIN_S).body
        with pytest.raises(mesh.Rejected, match=r"user 'root' at 'a' may not call 'echo'.*\(at b\)") as caught:
            at_a.call("echo", b"x", wait=True, timeout_s=WITHIN_S)
    assert ("only_c", "b", False) == (caught.value.rule, caught.value.where, caught.value.may_have_run)
    assert ({"only_c": 1}, {}) == (b.query("status")["policy"]["refused"], a.query("status")["policy"]["refused"])


@pytest.mark.parametrize("by_signal", [True, False])
def test_a_policy_is_read_anew_while_links_and_calls_go_on_and_a_broken_one_is_refused(
    fleet: Fleet, by_signal: bool
) -> None:
    a, b = fleet.start("a", policy={"default": "allow"}), fleet.start("b", policy={"default": "allow"})
    server = mesh.connect(app="server", socket=b.socket_path)
    with server, b.echo(), a.traffic() as traffic, mesh.connect(socket=a.socket_path) as client:
        server.serve("secret", lambda message: b"told")
        assert b"told" == client.call("secret", wait=True, timeout_s=WITHIN_S).body
        before, pid = a.link_to("b"), a.reactor_pid

        def change(agent: Agent, text: str) -> None:
            agent.skip_notes()
            agent.config_path.write_text(text)
            agent.send(signal.SIGHUP) if by_signal else reload(agent)

        good, good_b = a.config_path.read_text(), b.config_path.read_text()
        change(a, good + rules(no={"effect": "deny", "topics": ["secret"]}))
        a.expect("reloaded")
        with pytest.raises(mesh.Rejected, match="policy rule 'no' is against it"):
            client.call("secret", timeout_s=WITHIN_S)
        change(a, good + '[policy.rules.no]\neffect = "deni"\ntopcis = []\n')
        why = a.expect("reload_refused")["why"]
        assert "did you mean deny?" in why
        assert "did you mean topics?" in why
        with pytest.raises(mesh.Rejected, match="policy rule 'no' is against it"):
            client.call("secret", timeout_s=WITHIN_S)
        change(a, good)
        a.expect("reloaded")
        assert b"told" == client.call("secret", timeout_s=WITHIN_S).body

        change(b, good_b + rules(no={"effect": "deny", "verbs": ["serve"], "topics": ["secret"]}))
        b.expect("service_revoked", topic="secret", rule="no")
        with pytest.raises(mesh.Unroutable):
            until(lambda: client.call("secret", timeout_s=WITHIN_S) is None, "nobody serves it any more")
        change(b, good_b)
        b.expect("service_started", topic="secret")
        assert b"told" == client.call("secret", wait=True, timeout_s=WITHIN_S).body
        traffic.flows()
        after = a.link_to("b")
    assert before is not None
    assert after is not None
    assert before["age_s"] < after["age_s"]
    assert (pid, []) == (a.reactor_pid, traffic.failures)


def test_a_reactor_that_replaces_a_killed_one_keeps_the_rules_though_the_file_is_broken(fleet: Fleet) -> None:
    a = fleet.start("a", policy={"default": "allow"})
    good = a.config_path.read_text() + rules(no={"effect": "deny", "topics": ["echo"]})
    for text in (good, good + "topcis = []\n"):
        a.config_path.write_text(text)
        reload(a)
        a.kill_reactor()
        a.expect("reactor_ready")
        with a.app() as app:
            end = app.call("echo")
        assert isinstance(end, Failure)
        assert "no" == end.rule


def test_an_app_that_may_not_serve_raises_rejected_with_the_rule(fleet: Fleet) -> None:
    a = fleet.start("a", policy__rules__no={"effect": "deny", "verbs": ["serve"], "topics": ["pay.*"]})
    with mesh.connect(socket=a.socket_path) as client:
        with pytest.raises(mesh.Rejected, match="may not serve 'pay.cards'") as caught:
            client.serve("pay.cards", lambda message: b"")
        assert "no" == caught.value.rule
        client.serve("pay", lambda message: b"mine")
        assert b"mine" == client.call("pay", wait=True, timeout_s=WITHIN_S).body


# Tokens


def test_a_token_names_an_app_whom_the_kernel_cannot_name(open_fleet: Fleet) -> None:
    """The agent is in a user namespace of its own, in which no user but root is known."""
    token, guess = open_fleet.directory / "token", open_fleet.directory / "guess"
    for file, text in ((token, "0123456789abcdef0123456789abcdef"), (guess, "x" * 32)):
        file.write_text(text)
        file.chmod(0o640)
    a = open_fleet.start(
        "a",
        prefix=("unshare", "--user", "--map-root-user"),
        policy__tokens__web={"file": str(token), "groups": ["apps"]},
        policy__rules__web={"effect": "only", "topics": ["echo"], "users": ["root", "web"]},
    )
    with a.echo():
        unnamed = ask(a, "echo", 0)
        named = ask(a, "echo", 0, token_file=str(token))
        guessed = ask(a, "echo", 0, token_file=str(guess))
        assert ("Rejected", "web") == (unnamed["error"], unnamed["rule"])
        assert "an app of 'a' may not call 'echo'" in unnamed["text"]
        assert {"body": "hello"} == named
        assert "Rejected" == guessed["error"]
        assert "this agent knows no such token" in guessed["text"]
        a.expect("app_refused")
    assert "0123456789abcdef" not in a.tail(10_000)


OWN = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc")
"""Runs a command as root of a user namespace and as first of a process namespace, both its own, as in a container."""

ENTER = f"""
import ctypes, encodings.idna, os, signal, socket, sys
import mesh

libc = ctypes.CDLL(None, use_errno=True)
os.setgroups([0])
os.setgid({DAEMON})
os.setuid({DAEMON})
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, CLONE_NEWUSER, CLONE_NEWPID = 1, 4, 0x10000000, 0x20000000
libc.prctl(PR_SET_DUMPABLE, 1)  # what changed its user may not write its own maps otherwise
assert libc.unshare(CLONE_NEWUSER | CLONE_NEWPID) == 0, os.strerror(ctypes.get_errno())
for name, text in (("setgroups", "deny"), ("uid_map", "0 {DAEMON} 1"), ("gid_map", "0 {DAEMON} 1")):
    with open(f"/proc/self/{{name}}", "w") as file:
        file.write(text)
if first := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]))
libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
"""
"""Begins a program that is user daemon, whom the socket's group lets in, and then root and first of its own namespaces.

It does so after its imports, for daemon may not be able to read them."""

LISTENER = """
import socket, sys
from mesh.agent.people import peer_of

listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
print("listens", flush=True)
who = peer_of(listener.accept()[0])
print(who.pid, who.uid, flush=True)
"""

CONTAINED = """
print(os.getpid(), os.getuid(), flush=True)
with mesh.connect(app="contained", socket=sys.argv[1]) as client:
    client.serve("made", lambda message: b"here")
    print("serves", flush=True)
    for line in sys.stdin:
        try:
            print(client.call("echo", b"hello", timeout_s=10).body.decode(), flush=True)
        except mesh.Rejected as error:
            print(error.rule, flush=True)
"""


@contextmanager
def contained(text: str, *arguments: object, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program of user daemon in namespaces of its own."""
    command = [sys.executable, "-c", ENTER + text, *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}, text=True, **pipes) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str], ask: bool = False) -> str:
    """Return the next line that a program says, on a line that it is given if it is to be asked."""
    assert process.stdin is not None
    assert process.stdout is not None
    if ask:
        process.stdin.write("\n")
        process.stdin.flush()
    return process.stdout.readline().strip()


def test_between_two_containers_the_kernel_shows_nobody_and_no_process(open_fleet: Fleet) -> None:
    path = open_fleet.directory / "listener"
    command = [*OWN, sys.executable, "-c", LISTENER, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as listener:
        try:
            assert "listens" == told(listener)
            path.chmod(0o660)
            with contained("socket.socket(socket.AF_UNIX).connect(sys.argv[1])", path) as app:
                assert 0 == app.wait(WITHIN_S)
            overflow = Path("/proc/sys/kernel/overflowuid").read_text().strip()
            assert f"0 {overflow}" == told(listener)
        finally:
            listener.kill()


def test_a_token_is_the_credential_between_two_containers_and_the_grace_ends_who_was_killed(open_fleet: Fleet) -> None:
    """Agent and app have users and processes of their own, each sees neither of the other's."""
    token = open_fleet.directory / "token"
    token.write_text("0123456789abcdef0123456789abcdef")
    token.chmod(0o640)
    a = open_fleet.start(
        "a",
        prefix=OWN,
        delivery={"resume_grace_s": 1},
        policy__tokens__web={"file": str(token), "groups": ["apps"]},
        policy__rules__web={"effect": "only", "verbs": ["call"], "topics": ["echo"], "users": ["web"]},
    )

    def seen() -> list[tuple[int, str]]:
        return [(app["pid"], app["user"]) for app in a.query("status")["apps"] if app["name"] == "contained"]

    with a.echo(), mesh.connect(socket=a.socket_path) as client:
        with contained(CONTAINED, a.socket_path) as unnamed:
            assert ["1 0", "serves", "web"] == [told(unnamed), told(unnamed), told(unnamed, ask=True)]
            assert [(0, "")] == seen()
        until(lambda: not seen(), "who was killed is gone when the grace is over")
        with contained(CONTAINED, a.socket_path, MESH_TOKEN_FILE=str(token)) as named:
            assert ["1 0", "serves", "hello"] == [told(named), told(named), told(named, ask=True)]
            assert [(0, "web")] == seen()
            assert b"here" == client.call("made", wait=True, timeout_s=WITHIN_S).body
        until(lambda: not seen(), "who was killed is gone when the grace is over")
        assert {"web": 1} == a.query("status")["policy"]["refused"]


def test_a_token_that_is_changed_ends_who_came_by_the_old_one_and_the_client_follows(
    fleet: Fleet, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.touch(0o600)
    token.write_text("0123456789abcdef")
    a = fleet.start("a", policy__tokens__web={"file": str(token)})
    stale, late = a.app("stale", greet=False), a.app("late", greet=False)
    with a.echo(), mesh.connect(socket=a.socket_path, token_file=token) as client, a.traffic() as traffic, stale, late:
        client.call("echo", timeout_s=WITHIN_S)
        assert "web" in {app["user"] for app in a.query("status")["apps"]}
        stale.send(AppHello(0, 0, 77, 1, "stale", token=b"0123456789abcdef"))
        stale.receive()
        token.write_text("fedcba9876543210")
        assert "2 connections ended whose token is no more" in reload(a)
        assert stale.ended()
        assert b"x" == client.call("echo", b"x", timeout_s=WITHIN_S).body
        late.send(AppHello(0, 0, 78, 1, "late", token=b"0123456789abcdef"))
        refuse = late.receive()
        assert isinstance(refuse, Refuse)
        assert RefuseReason.SECURITY == refuse.reason
        traffic.flows()
        assert [] == traffic.failures


def test_an_agent_does_not_start_with_a_token_that_others_may_read(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef")
    token.chmod(0o644)
    config = tmp_path / "agent.toml"
    config.write_text(
        f'[agent]\ndata_dir = "{tmp_path}/d"\nsocket = "{tmp_path}/s"\n[policy.tokens.web]\nfile = "{token}"'
    )
    done = subprocess.run(
        [sys.executable, "-m", "mesh.agent", "--config", str(config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (78, True) == (done.returncode, "chmod 600" in done.stderr)


# Limits


def test_an_app_that_asks_too_fast_is_told_when_to_come_back(fleet: Fleet) -> None:
    a = fleet.start("a", delivery={"rate_records_per_s": 20, "rate_burst_records": 5})
    with a.echo(), mesh.connect(socket=a.socket_path) as client:
        calls = [client.call_async("echo", b"x", timeout_s=WITHIN_S) for _ in range(40)]
        ends = [call.exception(WITHIN_S) for call in calls]
        refused = [end for end in ends if end is not None]
        assert {mesh.Overloaded} == {type(end) for end in refused}
        assert len(refused) >= 20
        assert all("rate_records_per_s" == getattr(end, "limit", "") for end in refused)
        waits = [getattr(end, "retry_after_s", 0.0) for end in refused]
        assert all(0 < wait <= 0.1 for wait in waits), waits
        until(lambda: client.call_async("echo").exception(WITHIN_S) is None, "there is room again")
    assert len(refused) <= a.query("status")["totals"]["limits"]["rate_records_per_s"]


def test_one_user_cannot_take_all_connections(open_fleet: Fleet) -> None:
    a = open_fleet.start("a", agent={"user_connections_max": 3, "socket_group": "daemon"})
    held = [a.app(f"held{number}") for number in range(3)]
    with pytest.raises(mesh.Overloaded, match="user_connections_max = 3: root has so many") as caught:
        mesh.connect(socket=a.socket_path, connect_timeout_s=0.5)
    assert ("user_connections_max", 1.0) == (caught.value.limit, caught.value.retry_after_s)
    assert "Unroutable" == ask(a, "nobody")["error"]
    held.pop().socket.close()
    with mesh.connect(socket=a.socket_path, connect_timeout_s=WITHIN_S):
        pass
    assert held[0].query("status")["totals"]["limits"]["user_connections_max"] >= 1
    for app in held:
        app.socket.close()
