"""Options that several commands share."""

import io
import sys

import click
import pytest

from mesh.cli import options
from mesh.cli.messages import call
from mesh.cli.options import headers_of, read_body
from mesh.client.api import Reply
from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient


class Input(io.TextIOWrapper):
    """Standard input that is a pipe, or a terminal."""

    def __init__(self, body: bytes, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(body))
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def test_headers_are_split_at_the_first_equals_sign() -> None:
    assert {"a": "1", "b": "x=y", "c": ""} == headers_of(("a=1", "b=x=y", "c="))


@pytest.mark.parametrize("text", ["a", "=1", ""])
def test_what_is_no_header_is_a_usage_error(text: str) -> None:
    with pytest.raises(click.UsageError, match="KEY=VALUE"):
        headers_of((text,))


def test_a_body_is_the_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Input(b"unread"))
    assert "größer".encode() == read_body("größer")
    assert b"" == read_body("")


@pytest.mark.parametrize("argument", [None, "-"])
def test_a_body_is_read_from_a_pipe(argument: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Input(b"\x00\xff from a pipe\n"))
    assert b"\x00\xff from a pipe\n" == read_body(argument)


def test_a_terminal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Input(b"typed", terminal=True))
    assert b"" == read_body(None)
    assert b"typed" == read_body("-")


def test_more_than_any_body_may_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "BODY_BYTES_MAX", 4)
    monkeypatch.setattr(sys, "stdin", Input(b"12345"))
    with pytest.raises(click.UsageError, match="more than 4 bytes"):
        read_body(None)


def test_socket_namespace_and_timeout_reach_the_client(run: Run) -> None:
    client = FakeClient(Reply(b""))
    run("call", "t", "", "--socket", "/s", "--namespace", "blue", "--timeout-s", "0.5", client=client)
    expected = {"app": "mesh-cli", "namespace": "blue", "socket": "/s", "connect_timeout_s": 0.5}
    assert expected == client.connected


def test_a_long_timeout_does_not_make_connecting_longer(run: Run) -> None:
    client = FakeClient(Reply(b""))
    run("call", "t", "", "--timeout-s", "600", client=client)
    assert client.connected["connect_timeout_s"] <= 5.0


def test_topics_are_completed_with_those_the_agent_knows(run: Run) -> None:
    client = FakeClient(reports={"topics": [{"topic": "words"}, {"topic": "work"}, {"topic": "other"}]})
    run("--version", client=client)  # has the fake in place
    (topic,) = [parameter for parameter in call.params if parameter.name == "topic"]
    context = click.Context(call)
    assert ["words", "work"] == [item.value for item in topic.shell_complete(context, "wo")]
