"""The guides say what is so: messages, notes, limits, exit statuses and places are those of the code and the units."""

import ast
import configparser
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from mesh.agent.exits import Exit as AgentExit
from mesh.cli.exits import MEANINGS
from mesh.client.socketpath import RUN_PATH
from mesh.config.options import SECTIONS, options_of
from mesh.core import notes
from tests.config.machines import configure

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
TROUBLE = (DOCS / "troubleshoot.md").read_text(encoding="utf-8")
LIMITS = (DOCS / "limits.md").read_text(encoding="utf-8")
CONTAINERS = ROOT / "deploy/containers"

QUOTED = re.compile(r"``(.+?)``|`([^`]+)`")
PLACEHOLDER = re.compile(r"%[\d.]*[sdrf]")
BOUNDS = re.compile(r"_(max|records|bytes|window)$|^rate_")
DISK = "spool_disk"
"""What stands for a limit where the disk is one: no option."""


def section(page: str, heading: str) -> str:
    """Return a section of a page, with those below it."""
    level = heading.split(maxsplit=1)[0]
    start = page.index(f"\n{heading}\n")
    end = re.search(rf"^#{{1,{len(level)}}} ", page[start + len(heading) + 1 :], re.MULTILINE)
    return page[start : start + len(heading) + 1 + end.start()] if end else page[start:]


def first_cells(text: str) -> list[str]:
    """Return the first cell of each row of the tables, without their heads."""
    lines = text.splitlines()
    rows = [line for line, below in zip(lines, [*lines[1:], ""], strict=True) if not below.startswith("|---")]
    return [row.split(" | ")[0].strip("| ") for row in rows if row.startswith("|") and not row.startswith("|---")]


def quoted(text: str) -> list[str]:
    """Return what stands between backticks."""
    return [(double or single).strip() for double, single in QUOTED.findall(text)]


def _parts(node: ast.JoinedStr | ast.Expr) -> Iterator[ast.AST]:
    """Yield what is told with a text that is made of parts, or of a statement that is a text and so a docstring."""
    if isinstance(node, ast.Expr):
        yield from [node.value] if isinstance(node.value, ast.Constant) else []
    else:
        yield from (part for part in ast.walk(node) if part is not node)


def templates(path: Path) -> Iterator[str]:
    """Yield the texts in a module but its docstrings, with ``…`` for what it puts into them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.Expr) for part in _parts(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield PLACEHOLDER.sub("…", node.value)


@pytest.fixture(scope="module")
def said() -> str:
    """All that the code can say, a text a line."""
    return "\n".join(
        " ".join(text.split()) for path in sorted((ROOT / "mesh").rglob("*.py")) for text in templates(path)
    )


MESSAGES = [text for cell in first_cells(section(TROUBLE, "## By message")) for text in quoted(cell)]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_that_is_explained_can_be_said(message: str, said: str) -> None:
    assert re.search(".*".join(re.escape(part) for part in message.split("…")), said), message


def test_a_message_that_nobody_says_is_found(said: str) -> None:
    assert len(MESSAGES) > 60
    assert "no such complaint of ours" not in said


def of_the_agent() -> set[str]:
    """The notes of the agent's shell: constants named as what they hold, where notes are written."""
    found = set()
    for path in (ROOT / "mesh/agent").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "note" in text and path.name != "metrics.py":
            found |= {
                value
                for name, value in re.findall(r'^([A-Z_]+) = "([a-z_]+)"$', text, re.MULTILINE)
                if name.lower() == value
            }
    return found


def test_every_note_is_explained_and_no_other() -> None:
    known = {getattr(notes, name) for name in notes.__all__} | of_the_agent()
    assert len(known) > 60
    assert known == {name for cell in first_cells(section(TROUBLE, "## By note")) for name in quoted(cell)}


def test_every_exit_status_is_explained_and_no_other() -> None:
    statuses = section(TROUBLE, "## By exit status")
    commands, _, agent = statuses.partition("Of `mesh agent`:")
    assert [str(int(status)) for status in MEANINGS] == first_cells(commands)
    ours = {str(int(status)) for status in AgentExit if status is not AgentExit.AGAIN}
    assert {*ours, "130", "143"} == {status for cell in first_cells(agent) for status in cell.split(", ")}


def test_every_limit_is_on_the_page_of_limits_and_no_other() -> None:
    options = {option.name for name in SECTIONS for option in options_of(name)}
    limits = {name for name in options if BOUNDS.search(name)} | {DISK, "call_timeout_max_s"}
    named = {name for cell in first_cells(LIMITS) for name in quoted(cell)}
    assert set() == limits - named - set(quoted(LIMITS))
    assert set() == named - options - {DISK, "limit"}


# What runs the agent in containers


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(ROOT / "deploy/systemd/heartmesh-agent.service", encoding="utf-8")
    return parser["Service"]


def daemonset() -> tuple[dict[str, Any], dict[str, Any]]:
    config, daemons = yaml.safe_load_all((CONTAINERS / "daemonset.yml").read_text(encoding="utf-8"))
    return config, daemons["spec"]["template"]["spec"]


def test_the_containers_configuration_is_one(tmp_path: Path) -> None:
    mounted, _ = daemonset()
    job = (CONTAINERS / "agent.nomad.hcl").read_text(encoding="utf-8")
    written = re.search(r"<<-END\n(.*?)\n\s*END\n", job, re.DOTALL)
    assert written
    in_nomad = re.sub(r"^ +", "", written[1], flags=re.MULTILINE)
    assert mounted["data"]["agent.toml"].strip() == in_nomad.strip()
    config = configure(tmp_path, in_nomad, {"XDG_STATE_HOME": "/var/lib"})
    assert (RUN_PATH, "/var/lib/mesh/default") == (config.agent.socket, config.agent.data_dir)
    assert "consul" == config.matchmaker_kind


def test_containers_get_the_places_and_the_time_of_the_unit() -> None:
    _, pod = daemonset()
    image = (CONTAINERS / "Containerfile").read_text(encoding="utf-8")
    job = (CONTAINERS / "agent.nomad.hcl").read_text(encoding="utf-8")
    (agent,) = pod["containers"]
    seconds = unit()["TimeoutStopSec"]
    assert (int(seconds), f'kill_timeout = "{seconds}s"' in job) == (pod["terminationGracePeriodSeconds"], True)
    mounted = {mount["mountPath"] for mount in agent["volumeMounts"]}
    assert {"/etc/heartmesh", "/run/mesh", "/var/lib/mesh"} == mounted
    assert '"/run/mesh:/run/mesh", "/var/lib/mesh:/var/lib/mesh"' in job
    assert "--config /etc/heartmesh/agent.toml" in unit()["ExecStart"]
    assert '"--config", "/etc/heartmesh/agent.toml"' in image
    assert "XDG_STATE_HOME=/var/lib" in image
    assert all(f"-m {mode}" in image for mode in (unit()["RuntimeDirectoryMode"], unit()["StateDirectoryMode"]))
    identity = agent["securityContext"]["runAsUser"], agent["securityContext"]["runAsGroup"]
    assert (7441, 7441) == identity
    assert "USER 7441:7441" in image
    assert 'user   = "7441:7441"' in job
    assert pod["hostNetwork"]
    assert pod["hostPID"]


def test_the_image_runs_a_python_that_the_project_allows() -> None:
    image = (CONTAINERS / "Containerfile").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    least = re.search(r'requires-python = ">=3\.(\d+)"', project)
    assert least
    versions = {int(minor) for minor in re.findall(r"python:3\.(\d+)-slim", image)}
    assert 1 == len(versions)
    assert min(versions) >= int(least[1])


def test_guides_say_of_no_file_that_the_units_do_not_read() -> None:
    pages = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
    assert [] == [page.name for page in pages if "/etc/mesh/" in page.read_text(encoding="utf-8")]
