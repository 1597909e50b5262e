"""The guides can be followed: what they say to write and to type is written and typed, and does what they say."""

import os
import re
import sys
from pathlib import Path

import pytest

from tests.system.guide import BLOCK, commands, files, follow

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def environment(home: Path) -> dict[str, str]:
    """A user's with nothing configured, and the commands of this installation on PATH."""
    (home / "run").mkdir(mode=0o700)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MESH_", "PYTHON", "XDG_"))}
    return kept | {
        "HOME": str(home),
        "NO_COLOR": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "XDG_STATE_HOME": str(home / ".local/state"),
    }


def test_the_first_service_goes_as_it_is_written(tmp_path: Path) -> None:
    page = (DOCS / "first-service.md").read_text(encoding="utf-8")
    place = tmp_path / "here"
    place.mkdir()
    assert len(files(page)) > 5
    assert len(list(commands(page))) > 10
    assert [] == follow(page, place, environment(tmp_path))


def test_the_first_page_shows_the_code_of_the_guide() -> None:
    known = files((DOCS / "first-service.md").read_text(encoding="utf-8"))
    shown = [body for kind, body in BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8")) if kind == "python"]
    assert [re.sub(r"\A# .*\n", "", known[name]) for name in ("greeter.py", "web.py")] == shown


def test_what_goes_otherwise_than_a_guide_says_is_found(tmp_path: Path) -> None:
    here = "$ cat <<END\n> a\n>\n> b\n> END\na\n\nb\n"
    page = f"```console\n{here}$ echo one; echo two\n…\n$ echo 17 x\n1… x\n$ false\n```\n"
    assert [] == follow(page, tmp_path, os.environ)
    assert 1 == len(follow("```console\n$ echo one\ntwo\n```\n", tmp_path, os.environ))
