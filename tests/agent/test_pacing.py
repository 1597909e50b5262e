"""When the next reactor starts, and what counts as silence."""

from mesh.agent.pacing import Restarts, Silence

OLD_S, YOUNG_S = 10.0, 0.0


def test_only_short_lives_in_a_row_delay_the_next_and_no_longer_than_the_cap() -> None:
    restarts = Restarts(young_s=10.0, first_s=0.1, max_s=0.5)
    assert [0.0, 0.1, 0.2, 0.4, 0.5, 0.5] == [restarts.delay_s(YOUNG_S) for _ in range(6)]
    assert [0.0, 0.0, 0.1] == [restarts.delay_s(served_s) for served_s in (OLD_S, YOUNG_S, YOUNG_S)]


def test_a_wait_is_shorter_by_what_was_served() -> None:
    restarts = Restarts(young_s=10.0, first_s=0.5, max_s=2.0)
    assert [0.0, 0.25, 0.75, 1.75, 1.75] == [restarts.delay_s(0.25) for _ in range(5)]
    assert [0.0, 1.75] == [restarts.delay_s(served_s) for served_s in (3.0, 0.25)]


def test_a_delay_stays_at_the_cap_for_ever() -> None:
    restarts = Restarts(young_s=10.0, first_s=0.1, max_s=5.0)
    assert [5.0] * 2_000 == [restarts.delay_s(YOUNG_S) for _ in range(2_010)][10:]


def test_who_asks_is_restarted_at_once_but_not_for_asking_again() -> None:
    restarts = Restarts(young_s=10.0, first_s=0.1, max_s=5.0)
    assert [0.0, 0.1] == [restarts.delay_s(YOUNG_S) for _ in range(2)]
    assert [0.0, 0.2, 0.4] == [restarts.delay_s(YOUNG_S, asked=True) for _ in range(3)]
    assert [0.8, 0.0] == [restarts.delay_s(YOUNG_S, asked=asked) for asked in (False, True)]


def test_silence_adds_up_until_something_is_heard() -> None:
    silence = Silence(turn_s=1.0)
    heard = []
    for elapsed_s, sound in ((1.0, False), (0.5, False), (0.25, True), (0.75, False)):
        silence.turn(elapsed_s, sound)
        heard.append(silence.silent_s)
    assert [1.0, 1.5, 0.0, 0.75] == heard


def test_a_turn_that_took_too_long_is_our_own_lag_and_not_the_reactors_silence() -> None:
    silence = Silence(turn_s=1.0)
    silence.turn(3_600.0, heard=False)
    assert 1.0 == silence.silent_s
