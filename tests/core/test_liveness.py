"""Silence becomes suspicion and then death, unless it may have been our own sleep."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import msgpack

from mesh.core.liveness import Condition, Liveness, LivenessOptions, agreed
from mesh.core.records import TIMEOUT_MS_MAX
from tests.core.builders import copied

LAN = LivenessOptions()
"""1 s, suspect after 3 s, dead after 5 s."""

WAN = LivenessOptions(heartbeat_s=5.0, dead_after_s=20.0)


@pytest.mark.parametrize(
    ("silence_s", "expected"),
    [
        (0.0, Condition.ALIVE),
        (2.999, Condition.ALIVE),
        (3.0, Condition.SUSPECT),
        (4.999, Condition.SUSPECT),
        (5.0, Condition.DEAD),
        (1e6, Condition.DEAD),
    ],
)
def test_silence_is_judged_by_its_length(silence_s: float, expected: Condition) -> None:
    assert expected is Liveness(heard_at=100.0, sent_at=100.0).condition(LAN, 100.0 + silence_s)


def test_death_comes_at_its_time_where_suspicion_would_come_later() -> None:
    options = LivenessOptions(heartbeat_s=1.0, suspect_after_missed=10, dead_after_s=5.0)
    peer = Liveness(0.0, 0.0)
    assert [Condition.ALIVE, Condition.DEAD] == [peer.condition(options, now) for now in (4.9, 5.0)]


def test_whoever_is_heard_is_alive_again() -> None:
    peer = Liveness(0.0, 0.0)
    assert Condition.SUSPECT is peer.condition(LAN, 4.0)
    peer.heard(4.5)
    assert Condition.ALIVE is peer.condition(LAN, 7.4)
    assert Condition.SUSPECT is peer.condition(LAN, 7.5)


def test_an_agent_that_slept_accuses_nobody_of_its_own_silence() -> None:
    peer = Liveness(0.0, 0.0)
    peer.lagged(60.0)
    assert Condition.ALIVE is peer.condition(LAN, 62.0)
    assert Condition.DEAD is peer.condition(LAN, 65.0)


def test_several_lags_add_up_and_end_when_the_peer_is_heard() -> None:
    peer = Liveness(0.0, 0.0)
    peer.lagged(2.0)
    peer.lagged(3.0)
    assert 1.0 == peer.silence_s(6.0)
    peer.heard(6.0)
    assert Condition.DEAD is peer.condition(LAN, 11.0), "old lag must not excuse new silence"


def test_a_lag_longer_than_the_silence_leaves_none() -> None:
    peer = Liveness(10.0, 10.0)
    peer.lagged(5.0)
    assert 0.0 == peer.silence_s(12.0)


def test_a_ping_is_due_when_nothing_was_sent_for_a_heartbeat() -> None:
    peer = Liveness(heard_at=0.0, sent_at=10.0)
    assert not peer.ping_due(LAN, 10.999)
    assert peer.ping_due(LAN, 11.0)


def test_two_ends_that_tell_each_other_their_terms_agree() -> None:
    here = agreed(LAN, 5_000, 20_000)
    there = agreed(WAN, 1_000, 5_000)
    assert here == there == WAN


@given(st.integers(0, TIMEOUT_MS_MAX), st.integers(0, TIMEOUT_MS_MAX))
def test_whatever_the_other_end_says_the_terms_are_terms(heartbeat_ms: int, dead_after_ms: int) -> None:
    """They are within the options' own bounds, which a copy of the state checks, and never shorter than ours."""
    terms = agreed(WAN, heartbeat_ms, dead_after_ms)
    assert terms == msgpack.decode(msgpack.encode(terms), type=LivenessOptions)
    assert terms.heartbeat_s >= WAN.heartbeat_s
    assert terms.dead_after_s >= WAN.dead_after_s
    assert Condition.DEAD is Liveness(0.0, 0.0).condition(terms, 600.0), "nobody may live for ever by asking for it"


@given(st.floats(0, 1e6), st.floats(0, 1e3), st.floats(0, 1e3))
def test_a_condition_never_improves_by_waiting(heard_at: float, lag_s: float, wait_s: float) -> None:
    peer = Liveness(heard_at, heard_at)
    peer.lagged(lag_s)
    before = peer.condition(LAN, heard_at + wait_s)
    assert peer.condition(LAN, heard_at + wait_s + 1.0) >= before
    assert peer == copied(peer)
