"""Where monkey patching happens: first in the agent's process, and nowhere else."""

import ast
from pathlib import Path

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
