"""Where monkey patching happens: first in the agent's process, and nowhere else; and what the supervisor is told."""

import ast
from pathlib import Path

import pytest

from mesh.agent.start import supervisor_options
from mesh.config import load

MESH = Path(__file__).resolve().parents[2] / "mesh"


def test_the_agents_process_patches_before_it_imports_anything_else() -> None:
    statements = ast.parse((MESH / "agent" / "__main__.py").read_text()).body[1:3]
    expected = ["from gevent import monkey", "monkey.patch_all(os=False, signal=False, subprocess=False)"]
    assert expected == [ast.unparse(statement) for statement in statements]


def test_nothing_else_in_the_project_patches() -> None:
    patching = [
        path.relative_to(MESH).as_posix()
        for path in sorted(MESH.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).rpartition(".")[2].startswith(("patch_", "monkey_patch"))
    ]
    assert ["agent/__main__.py"] == patching


@pytest.mark.parametrize(("grace_s", "backoff_s"), [(5.0, 2.0), (1.0, 0.4), (60.0, 2.0)])
def test_reactors_that_fail_pause_no_longer_than_apps_and_peers_wait(
    tmp_path: Path, grace_s: float, backoff_s: float
) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f'preset = "local"\n[agent]\ndata_dir = "{tmp_path}"\n[delivery]\nresume_grace_s = {grace_s}\n')
    assert backoff_s == supervisor_options(load(file)).backoff_max_s
