"""How tests of the commands call them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from mesh.cli.main import run_command_line
from tests.cli.fakes import FakeClient

ROOT = Path(__file__).resolve().parents[2]

Run = Callable[..., "Ran"]


class Ran(NamedTuple):
    """What a command did."""

    status: int
    out: str
    err: str


@pytest.fixture(scope="module", autouse=True)
def programs_import_this_checkout() -> Iterator[None]:
    """Whatever is installed, or not, what the commands start is what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        yield


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process, by a fake client if one is given."""

    def run(*arguments: str, client: FakeClient | None = None) -> Ran:
        monkeypatch.setattr("mesh.client.sync.connect", client or FakeClient())
        capsys.readouterr()
        status = run_command_line(arguments)
        return Ran(status, *capsys.readouterr())

    return run
