"""`completion`."""

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


def test_an_unknown_shell_is_a_usage_error(run: Run) -> None:
    assert 2 == run("completion", "cmd.exe").status
