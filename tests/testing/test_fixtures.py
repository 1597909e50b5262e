"""The fixture closes its fleet at the end of a test, and has one fail that only seems to have passed."""

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest
from mesh.testing.fixtures import fleet


def test_passes(fleet):
    fleet.connect("server").serve("words", lambda message: message.body)
    assert b"x" == fleet.connect("web").call("words", b"x").body


def check(message):
    assert message.body == b"y", "the body is not y"


def test_asserts_in_a_handler(fleet):
    fleet.connect("server").serve("words", check)
    fleet.connect("web").cast("words", b"x")


def test_meets_no_fault(fleet):
    fleet.fault("the reply is late", "words")


def test_fails(fleet):
    fleet.fault("the reply is late", "words")
    assert fleet is None


def test_skips(fleet):
    fleet.fault("the reply is late", "words")
    pytest.skip("not today")
"""


@pytest.mark.system
def test_a_test_fails_at_its_end_for_what_it_did_not_see_and_only_if_it_has_passed(tmp_path: Path) -> None:
    (tmp_path / "test_app.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rA", f"--rootdir={tmp_path}", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    seen = [line.partition("::")[2] for line in done.stdout.splitlines() if line.startswith(("ERROR ", "FAILED "))]
    assert ["test_asserts_in_a_handler", "test_fails", "test_meets_no_fault"] == sorted(
        name.partition(" ")[0] for name in seen
    )
    assert "AssertionError: the body is not y" in done.stdout
    assert "raised by a handler of 'words', for a cast of 'web'" in done.stdout
    assert "1 failed, 3 passed, 1 skipped, 2 errors" in done.stdout
