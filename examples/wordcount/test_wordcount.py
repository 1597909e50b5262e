"""The app's tests: no agent, no socket, no thread, no sleep."""

import pytest

import mesh
from examples.wordcount.wordcount import ask, count
from mesh.testing import Fleet

TEXT = b"to be or not to be"


@pytest.fixture
def client(fleet: Fleet) -> mesh.Client:
    fleet.connect("counter").serve("words", count)
    return fleet.connect("web")


def test_words_are_counted(fleet: Fleet, client: mesh.Client) -> None:
    assert "6 words" == ask(client, TEXT)
    (sent,) = fleet.sent
    assert ("web", "words", TEXT, 1) == (sent.app, sent.topic, sent.body, sent.runs)


def test_the_count_comes_though_the_agent_dies_in_mid_call(fleet: Fleet, client: mesh.Client) -> None:
    fleet.fault("the agent dies in mid-call", "words")
    assert "6 words" == ask(client, TEXT)


def test_an_agent_that_stays_away_leaves_it_open_whether_they_were_counted(fleet: Fleet, client: mesh.Client) -> None:
    fleet.fault("the agent dies in mid-call", "words", for_s=60)
    assert "counted, perhaps" == ask(client, TEXT)


def test_it_is_said_when_nobody_counts(fleet: Fleet, client: mesh.Client) -> None:
    fleet.fault("nobody serves", "words")
    assert "nobody counts here" == ask(client, TEXT)


def test_a_late_count_is_waited_for_until_the_calls_time_is_over(fleet: Fleet, client: mesh.Client) -> None:
    fleet.fault("the reply is late", "words", for_s=5)
    assert "6 words" == ask(client, TEXT)
    fleet.fault("the reply is late", "words", for_s=15)
    assert "counted, perhaps" == ask(client, TEXT)


def test_a_count_that_may_run_twice_does_when_its_counter_dies(fleet: Fleet, client: mesh.Client) -> None:
    fleet.connect("counter").serve("words", count)
    fleet.fault("the server dies in mid-call", "words")
    assert "6 words" == ask(client, TEXT, again=True)
    assert 2 == fleet.sent[-1].runs


@pytest.mark.parametrize("seed", range(50))
def test_whatever_goes_wrong_something_is_said(seed: int) -> None:
    with Fleet(seed=seed) as fleet:
        fleet.connect("counter").serve("words", count)
        client = fleet.connect("web")
        fleet.draw("words")
        assert ask(client, TEXT) in ("6 words", "counted, perhaps", "nobody counts here")
