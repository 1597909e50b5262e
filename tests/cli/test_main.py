"""The group: help, version, and what errors look like."""

import sys

import click
import pytest

from mesh import errors
from mesh.cli import exits
from mesh.cli.main import commands, main
from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient

COMMANDS = (
    *("agent", "bench", "call", "cast", "completion", "config", "dead", "demo", "doctor", "drain", "fanout", "keys"),
    *("links", "ping", "recorder", "reload", "rpc", "run", "serve", "sim", "status", "top", "topics", "topology"),
    *("trace", "why"),
)


def test_the_commands_are_these() -> None:
    assert sorted(COMMANDS) == sorted(commands.commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, run: Run) -> None:
    shown = run(name, "--help")
    assert 0 == shown.status
    assert f"Usage: mesh {name}" in shown.out
    assert (commands.commands[name].help or "").strip()


def test_help_ends_with_the_table_of_exit_statuses(run: Run) -> None:
    shown = run("--help").out
    assert all(line in shown for line in exits.table().splitlines())


def test_every_option_says_what_it_is_for() -> None:
    silent = [
        f"{command.name} {option.name}"
        for command in commands.commands.values()
        for option in command.params
        if isinstance(option, click.Option) and not option.help
    ]
    assert [] == silent


def test_the_version_is_one_line(run: Run) -> None:
    shown = run("--version")
    assert 0 == shown.status
    assert 1 == len(shown.out.splitlines())


@pytest.mark.parametrize("line", [["nosuch"], ["call"], ["call", "t", "--header", "x"], ["status", "--timeout-s", "0"]])
def test_a_wrong_command_line_exits_with_2_and_says_so_on_standard_error(line: list[str], run: Run) -> None:
    ran = run(*line)
    assert 2 == ran.status
    assert "" == ran.out
    assert "Error" in ran.err


def test_an_error_is_one_line_with_what_where_and_what_to_do(run: Run) -> None:
    ran = run("call", "words", "x", client=FakeClient(errors.Unroutable("nobody\nserves 'words'", where="n1")))
    assert 3 == ran.status
    assert "" == ran.out
    (line,) = ran.err.splitlines()
    assert line.startswith("mesh: Unroutable: nobody serves 'words' (at n1); ")
    assert "mesh topics" in line


def test_an_interrupted_command_exits_with_130(run: Run) -> None:
    class Interrupted(FakeClient):
        def call(self, *_: object, **__: object) -> object:  # type: ignore[override]
            raise KeyboardInterrupt

    assert 130 == run("call", "words", "x", client=Interrupted()).status


def test_a_file_that_cannot_be_read_is_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = run("call", "words", "x", client=FakeClient(PermissionError(13, "Permission denied", "/etc/secret")))
    assert 1 == ran.status
    assert ["mesh: [Errno 13] Permission denied: '/etc/secret'"] == ran.err.splitlines()


@pytest.mark.parametrize(("called", "shown"), [("/bin/heartmesh", "heartmesh"), ("/x/__main__.py", "mesh")])
def test_help_names_the_command_as_it_was_called(
    called: str, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [called, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert 0 == ended.value.code
    assert f"Usage: {shown} [OPTIONS]" in capsys.readouterr().out
