"""`completion`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Run


@pytest.mark.system
@pytest.mark.parametrize(
    ("shell", "marker"), [("bash", "complete -o"), ("zsh", "#compdef mesh"), ("fish", "complete ")]
)
def test_each_shell_gets_its_script(shell: str, marker: str, run: Run) -> None:
    ran = run("completion", shell)
    assert 0 == ran.status
    assert marker in ran.out
    assert "_MESH_COMPLETE" in ran.out


@pytest.mark.system
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_script_is_one_that_its_shell_understands(shell: str, run: Run, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(run("completion", shell).out)
    if shutil.which(shell):  # CI has all three
        checked = subprocess.run([shell, "-n", script], capture_output=True, text=True, check=False)
        assert (0, "") == (checked.returncode, checked.stderr)


@pytest.mark.system
@pytest.mark.parametrize(
    ("shell", "told"),
    [
        ("bash", {"COMP_WORDS": "mesh sta", "COMP_CWORD": "1"}),
        ("zsh", {"COMP_WORDS": "mesh sta", "COMP_CWORD": "1"}),
        ("fish", {"COMP_WORDS": "mesh", "COMP_CWORD": "sta"}),
    ],
)
def test_a_command_is_completed_as_each_shell_asks(shell: str, told: dict[str, str]) -> None:
    command = Path(sys.executable).with_name("mesh")
    environment = {**os.environ, **told, "_MESH_COMPLETE": f"{shell}_complete"}
    done = subprocess.run([command], env=environment, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    assert "status" in done.stdout
    assert "topics" not in done.stdout


@pytest.mark.system
def test_fish_itself_completes_a_command(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "mesh.fish"
    script.write_text(run("completion", "fish").out)
    if shutil.which("fish"):  # CI has it
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        command = ["fish", "--no-config", "-c", f'source {script}; complete -C "mesh sta"']
        environment = {**os.environ, "PATH": path, "HOME": str(tmp_path)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert ["status"] == [line.split("\t")[0] for line in done.stdout.splitlines()]


def test_an_unknown_shell_is_a_usage_error(run: Run) -> None:
    assert 2 == run("completion", "cmd.exe").status
