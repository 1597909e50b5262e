"""`reload`: what the agent made of it."""

import json

import pytest

from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ({"keys": "0 keys are revoked"}, "keys: 0 keys are revoked\n"),
        ({"keys": "new", "policy": "2 rules"}, "keys: new\npolicy: 2 rules\n"),
    ],
)
def test_what_was_read_is_told(report: dict[str, str], expected: str, run: Run) -> None:
    client = FakeClient(reports={"reload": report})
    assert (0, expected, "") == run("reload", client=client)
    assert report == json.loads(run("reload", "--json", client=client).out)
