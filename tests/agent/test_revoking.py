"""The watch of what is revoked, at a place that comes, goes and holds anything."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import gevent
import pytest

from mesh.agent.revoking import Revoking
from mesh.agent.threads import in_place
from mesh.config import WatcherOptions
from mesh.errors import ConfigError
from mesh.matchmaker.base import MatchmakerError
from mesh.security.certificates import Revocations
from tests.agent.link_ends import until

pytestmark = pytest.mark.io

OPTIONS = WatcherOptions(retry_max_s=0.1)


class Told(NamedTuple):
    text: bytes | None
    position: int


class FakePlace:
    """What is posted, and how often that was asked; ``failing``: it is away."""

    def __init__(self) -> None:
        self.told = Told(None, 1)
        self.failing = self.closed = False
        self.asked: list[int] = []

    def post(self, text: bytes) -> None:
        self.told = Told(text, self.told.position + 1)

    def read(self, position: int, wait_s: float) -> Told:
        self.asked.append(position)
        while not self.failing and position == self.told.position:
            gevent.sleep(0.005)
        if self.failing:
            raise MatchmakerError("away")
        return self.told

    def close(self) -> None:
        self.closed = True

    def __str__(self) -> str:
        return "the place"


class Desk:
    """A watch, and what came of it. Texts that begin with ``bad`` are none; the disk may be full."""

    def __init__(self) -> None:
        self.place = FakePlace()
        self.learned: list[bytes] = []
        self.kept: list[bytes] = []
        self.notes: list[tuple[str, dict[str, Any]]] = []
        self.is_full = False
        self.revoking = Revoking(self.place, OPTIONS, self._learn, self._keep, in_place, self._note)
        self.revoking.start()

    def _learn(self, text: bytes) -> Revocations | None:
        if text.startswith(b"bad"):
            raise ValueError(f"is {text.decode()}")
        if text in self.learned:
            return None
        self.learned.append(text)
        return Revocations("f", len(self.learned), ("k",))

    def _keep(self, text: bytes) -> None:
        if self.is_full:
            raise ConfigError(["no room"], "the disk")
        self.kept.append(text)

    def _note(self, name: str, *_: object, **facts: Any) -> None:
        self.notes.append((name, facts))

    def named(self, name: str) -> list[dict[str, Any]]:
        return [facts for noted, facts in self.notes if noted == name]


@pytest.fixture
def desk() -> Iterator[Desk]:
    made = Desk()
    yield made
    made.revoking.stop()
    assert made.place.closed


def test_what_is_posted_is_put_into_effect_kept_and_noted(desk: Desk) -> None:
    until(lambda: bool(desk.place.asked), "it is read")
    desk.place.post(b"one")
    until(lambda: bool(desk.kept), "it is kept")
    desk.place.post(b"one")
    desk.place.post(b"two")
    until(lambda: len(desk.kept) == 2, "the other is kept")
    assert [b"one", b"two"] == desk.learned == desk.kept
    assert [{"number": number, "revoked": 1, "where": "the place"} for number in (1, 2)] == desk.named(
        "revocations_learned"
    )
    assert (0, "") == (desk.place.asked[0], desk.revoking.problem)


def test_what_is_refused_is_noted_once_and_in_the_status_until_something_better_is_posted(desk: Desk) -> None:
    for text in (b"bad", b"bad", b"bad too"):
        desk.place.post(text)
        until(lambda: desk.place.asked[-1:] == [desk.place.told.position], "it was looked at")
    assert ["is bad", "is bad too"] == [facts["why"] for facts in desk.named("revocations_refused")]
    assert ([], "is bad too") == (desk.learned, desk.revoking.problem)
    desk.place.post(b"good")
    until(lambda: bool(desk.kept), "it is kept")
    assert "" == desk.revoking.problem


def test_a_place_that_is_away_is_noted_once_and_read_anew_when_it_is_back(desk: Desk) -> None:
    until(lambda: desk.place.asked == [0, 1], "it waits")
    desk.place.failing = True
    until(lambda: len(desk.place.asked) > 5, "it was tried again")
    assert ([{"why": "away"}], "away") == (desk.named("revocations_away"), desk.revoking.problem)
    assert {0} == set(desk.place.asked[2:])
    desk.place.post(b"one")
    desk.place.failing = False
    until(lambda: bool(desk.kept), "it is kept")
    assert (1, "") == (len(desk.named("revocations_back")), desk.revoking.problem)


def test_what_cannot_be_kept_counts_all_the_same(desk: Desk) -> None:
    desk.is_full = True
    desk.place.post(b"one")
    until(lambda: bool(desk.named("revocations_learned")), "it is noted")
    assert ([b"one"], []) == (desk.learned, desk.kept)
    assert "no room" in desk.named("revocations_learned")[0]["why"]
