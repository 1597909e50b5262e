"""What the demo's app sends."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import click
import pytest

from mesh import errors
from mesh.cli import demo_work
from mesh.cli.demo_work import Job, in_turns, read_texts
from mesh.client.api import Reply


class Sender:
    """A client whose futures end at once, as told."""

    def __init__(self, *outcomes: object) -> None:
        self.outcomes = list(outcomes)
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def _begin(self, topic: str, options: dict[str, Any]) -> Future[Any]:
        self.sent.append((topic, options))
        future: Future[Any] = Future()
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        return future

    def call_async(self, topic: str, body: bytes, **options: Any) -> Future[Any]:
        return self._begin(topic, options)

    def cast_async(self, topic: str, body: bytes, **options: Any) -> Future[Any]:
        return self._begin(topic, options)


def test_a_text_is_a_call_that_runs_once() -> None:
    sender = Sender(Reply(b"3"))
    job = Job(sender, b"to be or")  # type: ignore[arg-type]
    job.send()
    assert Reply(b"3") == job.finish()
    assert [("words", {"timeout_s": demo_work.TIMEOUT_S})] == sender.sent


def test_a_piece_is_sent_again_by_the_same_name() -> None:
    sender = Sender(errors.Indeterminate("lost"), None)
    job = Job(sender, b"to be", "7")  # type: ignore[arg-type]
    job.send()
    assert None is job.finish()
    assert 2 == job.attempts
    assert [{"piece": "7"}] * 2 == [options["headers"] for _, options in sender.sent]


def test_what_fails_every_time_is_raised() -> None:
    sender = Sender(*[errors.Expired("late")] * demo_work.ATTEMPTS)
    job = Job(sender, b"x")  # type: ignore[arg-type]
    job.send()
    with pytest.raises(errors.Expired):
        job.finish()
    assert demo_work.ATTEMPTS == job.attempts


def test_two_kinds_are_mixed_evenly() -> None:
    few, many = [Job(None, b"", f"f{n}") for n in range(2)], [Job(None, b"", f"m{n}") for n in range(4)]  # type: ignore[arg-type]
    assert ["f0", "m0", "m1", "f1", "m2", "m3"] == [job.piece for job in in_turns(few, many)]


def test_files_are_read_within_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert [b"12345"] == read_texts([tmp_path / "a"])
    monkeypatch.setattr(demo_work, "TEXT_BYTES_MAX", 4)
    with pytest.raises(click.UsageError, match="more than 4"):
        read_texts([tmp_path / "a"])
    monkeypatch.setattr(demo_work, "FILES_MAX", 1)
    with pytest.raises(click.UsageError, match="2 files"):
        read_texts([tmp_path / "a"] * 2)
