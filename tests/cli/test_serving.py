"""`serve`: what becomes of a message that a command handles."""

import json
import sys
import time

import pytest

from mesh.cli.serving import STDERR_TAIL_CHARS, CommandFailed, run_command
from mesh.client.api import Message
from mesh.types import MessageId
from tests.cli.conftest import Run

pytestmark = pytest.mark.system


def message(body: bytes = b"", *, timeout_s: float = 60.0, headers: dict[str, str] | None = None) -> Message:
    id = MessageId("n1", 255, 3)
    return Message(body, headers or {}, "words", "", "call", id, time.monotonic() + timeout_s)


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", code)


def test_the_body_goes_in_and_standard_output_comes_back() -> None:
    assert b"\x00ABC\xff" == run_command(("tr", "a-z", "A-Z"), message(b"\x00abc\xff"))


def test_a_body_that_the_command_does_not_read_does_no_harm() -> None:
    assert b"done\n" == run_command(("echo", "done"), message(b"x" * 1_000_000))


def test_the_command_is_told_of_the_message() -> None:
    code = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('MESH_')}))"
    told = json.loads(run_command(python(code), message(headers={"a": "b"})))
    assert ("words", "call", "n1/ff/3") == (told["MESH_TOPIC"], told["MESH_KIND"], told["MESH_MESSAGE_ID"])
    assert {"a": "b"} == json.loads(told["MESH_HEADERS"])
    assert 0 < float(told["MESH_REMAINING_S"]) <= 60


def test_a_command_that_fails_is_an_error_with_the_end_of_what_it_said() -> None:
    code = "import sys; sys.stderr.write('x' * 100_000 + 'the end'); sys.exit(3)"
    with pytest.raises(CommandFailed, match=r"exited with 3: x+the end$") as failed:
        run_command(python(code), message())
    assert len(str(failed.value)) < STDERR_TAIL_CHARS + 200


def test_a_command_that_cannot_start_is_an_error() -> None:
    with pytest.raises(CommandFailed, match="could not be started"):
        run_command(("/nowhere/command",), message())


def test_a_command_that_outlives_its_caller_is_killed_with_its_children() -> None:
    with pytest.raises(CommandFailed, match="waits no longer"):
        run_command(("sh", "-c", "sleep 60 | sleep 60"), message(timeout_s=0.3))


def test_a_command_that_is_not_there_is_a_usage_error_before_anything_is_served(run: Run) -> None:
    ran = run("serve", "words", "--", "no-such-command-anywhere")
    assert 2 == ran.status
    assert "no-such-command-anywhere" in ran.err
