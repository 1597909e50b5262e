"""The supervisor with real forks: what outlives a reactor, what ends it, and what is told of it."""

import fcntl
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from mesh.agent.exits import Exit
from tests.agent.supervised import WITHIN_S, Agent, ask, wait_until_gone

pytestmark = pytest.mark.io


def test_an_app_that_connects_while_there_is_no_reactor_is_served_by_the_next_one(tmp_path: Path) -> None:
    with Agent(tmp_path) as agent:
        first = agent.ready()
        assert (first["pid"], first["incarnation"]) == ask(agent.connect())
        agent.stop()
        os.kill(first["pid"], signal.SIGKILL)
        wait_until_gone(first["pid"])
        waiting = agent.connect()
        agent.send(signal.SIGCONT)
        second = agent.ready()
        assert (second["pid"], second["incarnation"]) == ask(waiting)
        assert second["pid"] != first["pid"]
        assert second["incarnation"] > first["incarnation"]


def test_a_peer_that_connects_while_there_is_no_reactor_is_accepted_by_the_next_one(tmp_path: Path) -> None:
    with Agent(tmp_path, link_hosts=["127.0.0.1", "::1"]) as agent:
        (address, address6) = agent.expect("supervisor_listening")["links"]
        first = agent.ready()
        agent.stop()
        os.kill(first["pid"], signal.SIGKILL)
        wait_until_gone(first["pid"])
        waiting = [socket.create_connection(tuple(to), timeout=WITHIN_S) for to in (address, address6)]
        agent.send(signal.SIGCONT)
        second = agent.ready()
        assert [second["pid"]] * 2 == [ask(connection)[0] for connection in waiting]
        assert address[1] == address6[1]


def test_reactors_that_die_young_are_restarted_later_each_time_up_to_the_cap(tmp_path: Path) -> None:
    with Agent(tmp_path, "die", backoff_first_s=0.05, backoff_max_s=0.15) as agent:
        waits = [agent.expect("reactor_started")["after_ms"] for _ in range(6)]
    assert [True] * 4 == [wait >= least for wait, least in zip(waits[2:], (50, 100, 150, 150), strict=True)]


def test_a_reactor_that_raises_is_replaced_and_its_traceback_kept(tmp_path: Path) -> None:
    with Agent(tmp_path, "fail") as agent:
        assert f"status {Exit.FAILED:d}" == agent.expect("reactor_ended")["how"]
        agent.expect("reactor_started")
        assert "RuntimeError: a bug in the reactor" in agent.errors.read_text()


def test_a_reactor_that_cannot_work_as_configured_is_not_restarted(tmp_path: Path) -> None:
    with Agent(tmp_path, "refused") as agent:
        assert Exit.CONFIGURATION == agent.wait()
        assert 1 == agent.names().count("reactor_started")
        assert not agent.socket_path.exists()


@pytest.mark.parametrize("reactor", ["hang", "mute"])
def test_a_reactor_without_pulse_is_killed_and_replaced(tmp_path: Path, reactor: str) -> None:
    with Agent(tmp_path, reactor, watchdog_s=0.2, start_s=0.2) as agent:
        hung = agent.expect("reactor_hung")
        ended = agent.expect("reactor_ended")
        assert (hung["pid"], "SIGKILL") == (ended["pid"], ended["how"])
        assert hung["silent_s"] >= 0.2
        assert hung["pid"] != agent.expect("reactor_started")["pid"]


def test_a_hung_reactor_is_killed_while_it_should_drain(tmp_path: Path) -> None:
    with Agent(tmp_path, "hang", watchdog_s=0.5) as agent:
        agent.ready()
        agent.send(signal.SIGTERM)
        assert Exit.FAILED == agent.wait()
        assert 1 == agent.names().count("reactor_started")


def test_a_stopped_reactor_is_killed_by_the_watchdog(tmp_path: Path) -> None:
    with Agent(tmp_path, watchdog_s=0.5) as agent:
        first = agent.ready()
        os.kill(first["pid"], signal.SIGSTOP)
        assert first["pid"] == agent.expect("reactor_hung")["pid"]
        assert first["pid"] != agent.ready()["pid"]


@pytest.mark.parametrize("both", [True, False])
def test_a_supervisor_that_was_stopped_accuses_nobody(tmp_path: Path, both: bool) -> None:
    watchdog_s = 1.0
    with Agent(tmp_path, watchdog_s=watchdog_s) as agent:
        reactor = agent.ready()["pid"]
        for _ in range(2):
            if both:
                os.kill(reactor, signal.SIGSTOP)
            agent.stop()
            time.sleep(1.5 * watchdog_s)
            agent.send(signal.SIGCONT)
            if both:
                os.kill(reactor, signal.SIGCONT)
            assert reactor == ask(agent.connect())[0]
        agent.send(signal.SIGTERM)
        assert Exit.OK == agent.wait()
        assert "reactor_hung" not in agent.names()


def test_an_orphaned_reactor_dies_and_another_agent_takes_over_at_once(tmp_path: Path) -> None:
    with Agent(tmp_path, "hang") as agent:
        reactor = agent.ready()
        agent.send(signal.SIGKILL)
        wait_until_gone(reactor["pid"])
        assert -signal.SIGKILL == agent.wait()
    with Agent(tmp_path) as agent:
        assert str(agent.socket_path) == agent.expect("stale_socket_replaced")["path"]
        assert agent.ready()["incarnation"] > reactor["incarnation"]
        ask(agent.connect())


def test_a_second_agent_on_the_data_directory_or_the_socket_is_refused_by_name(tmp_path: Path) -> None:
    with Agent(tmp_path) as agent:
        reactor = agent.ready()
        same_data = Agent(tmp_path, socket_path=str(tmp_path / "other.sock")), agent.data_dir
        same_socket = Agent(tmp_path, data_dir=str(tmp_path / "other")), agent.socket_path
        for starting, shared in (same_data, same_socket):
            with starting as second:
                problem = second.expect("supervisor_refused")["why"]
                assert Exit.UNAVAILABLE == second.wait()
                assert f"another agent (pid {agent.pid}) uses " in problem
                assert str(shared) in problem
        assert reactor["pid"] == ask(agent.connect())[0]


def test_a_new_reactor_waits_for_the_lock_of_the_old_one_and_pulses_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "reactor.lock").open("w") as old:
        fcntl.flock(old, fcntl.LOCK_EX)
        with Agent(tmp_path, start_s=0.3) as agent:
            reactor = agent.expect("reactor_started")["pid"]
            time.sleep(1.0)
            fcntl.flock(old, fcntl.LOCK_UN)
            assert reactor == agent.expect_any("reactor_ready", "reactor_ended")["pid"]


def test_a_reactor_waits_no_longer_for_the_lock_than_it_may(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / "reactor.lock").open("w") as old:
        fcntl.flock(old, fcntl.LOCK_EX)
        with Agent(tmp_path, reactor_lock_s=0.05) as agent:
            assert "reactor.lock" in agent.expect("supervisor_refused")["why"]
            assert f"status {Exit.UNAVAILABLE:d}" == agent.expect("reactor_ended")["how"]
            fcntl.flock(old, fcntl.LOCK_UN)
            agent.ready()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_first_signal_drains_and_leaves_no_socket(tmp_path: Path, number: signal.Signals) -> None:
    with Agent(tmp_path) as agent:
        agent.ready()
        agent.send(number)
        assert Exit.OK == agent.wait()
        assert ["supervisor_stopping", "drained", "reactor_ended", "supervisor_stopped"] == agent.names()[-4:]
        assert not agent.socket_path.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_all_at_once(tmp_path: Path, number: signal.Signals) -> None:
    with Agent(tmp_path, "hang", same_signal_s=0.0) as agent:
        reactor = agent.ready()["pid"]
        agent.send(signal.SIGTERM)
        agent.expect("supervisor_stopping")
        agent.send(number)
        assert 128 + number == agent.wait()
        wait_until_gone(reactor)
        assert not agent.socket_path.exists()


def test_a_second_signal_in_the_same_moment_means_the_same(tmp_path: Path) -> None:
    with Agent(tmp_path, same_signal_s=WITHIN_S) as agent:
        agent.ready()
        for _ in range(3):
            agent.send(signal.SIGTERM)
        assert Exit.OK == agent.wait()
        assert 1 == agent.names().count("supervisor_stopping")


def test_a_signal_between_two_reactors_ends_the_supervisor(tmp_path: Path) -> None:
    with Agent(tmp_path, "die", backoff_first_s=WITHIN_S, backoff_max_s=WITHIN_S) as agent:
        for _ in range(2):
            agent.expect("reactor_ended")
        agent.send(signal.SIGTERM)
        assert Exit.OK == agent.wait()


def test_a_hangup_goes_to_the_reactor_and_ends_nothing(tmp_path: Path) -> None:
    with Agent(tmp_path) as agent:
        reactor = agent.ready()["pid"]
        agent.send(signal.SIGHUP)
        agent.expect("hup")
        assert reactor == ask(agent.connect())[0]


def test_incarnations_rise_when_the_clock_goes_back(tmp_path: Path) -> None:
    with Agent(tmp_path, clock=[5_000, 10, 7_000, 6_000]) as agent:
        drawn = []
        for _ in range(4):
            reactor = agent.ready()
            drawn.append(reactor["incarnation"])
            os.kill(reactor["pid"], signal.SIGKILL)
    assert [5_000, 5_001, 7_000, 7_001] == drawn


def test_a_start_that_fails_for_the_disk_is_tried_again(tmp_path: Path) -> None:
    in_the_way = tmp_path / "data" / "incarnation.new"
    in_the_way.mkdir(parents=True)
    with Agent(tmp_path) as agent:
        assert str(in_the_way) in agent.expect("reactor_not_started")["why"]
        in_the_way.rmdir()
        agent.ready()


def test_a_reactor_that_was_refused_for_its_incarnation_comes_back_with_a_greater_one(tmp_path: Path) -> None:
    with Agent(tmp_path, "again", backoff_first_s=WITHIN_S, backoff_max_s=WITHIN_S) as agent:
        assert f"status {Exit.AGAIN:d}" == agent.expect("reactor_ended")["how"]
        assert (1 << 50) + 1 == agent.ready()["incarnation"]


def test_a_reactor_is_born_without_a_hub_or_thread_of_its_parent(tmp_path: Path) -> None:
    # Turns longer than the test waits: a death is seen by its signal or not at all.
    with Agent(tmp_path, "look", watchdog_s=16 * WITHIN_S, start_s=16 * WITHIN_S) as agent:
        born = []
        for _ in range(2):
            born.append(agent.expect("look"))
            assert agent.expect("pool")["same"]
            os.kill(agent.ready()["pid"], signal.SIGKILL)
    # Open are the three standard ones, two listeners, the pulse, the lock, and the listing itself.
    assert [{"event": "look", "hub": False, "threads": 1, "descriptors": 8}] * 2 == born
