"""The two installs, each from the built wheel in an empty environment: the client alone, and with the agent."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
HINT = "pip install 'heartmesh[agent]'"
NOT_FOR_CLIENTS = ("asyncio", "click", "consul", "cryptography", "gevent", "requests", "rich", "structlog", "zmq")


def run(*command: str | Path, status: int = 0) -> str:
    """Run a command outside the checkout and with nothing of it on the path; returns all that it wrote."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    pins = str(ROOT / "constraints.txt")
    done = subprocess.run(
        [str(part) for part in command],
        env=environment | {"PIP_BUILD_CONSTRAINT": pins, "PIP_CONSTRAINT": pins, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        cwd="/",
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert status == done.returncode, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, because setuptools puts what lies in an old build folder into the wheel too."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in [*ROOT.glob("*.toml"), *ROOT.glob("*.md"), ROOT / "LICENSE"]:
        shutil.copy(path, source)
    for folder in ("consul", "mesh", "tests"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", target, source)
    (built,) = target.glob("*.whl")
    return built


def install(folder: Path, wheel: Path, extra: str = "") -> Path:
    """Make an environment with the wheel in it; returns its ``bin``."""
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    python = folder / "bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-input", f"{wheel}{extra}")
    return folder / "bin"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    return install(tmp_path_factory.mktemp("base"), wheel)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    return install(tmp_path_factory.mktemp("agent"), wheel, "[agent]")


def test_the_wheel_holds_the_package_and_its_types_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {"mesh", f"heartmesh-{PROJECT['version']}.dist-info"} == tops
    assert {"mesh/py.typed", "mesh/core/records.py", "mesh/cli/launch.py"} <= set(names)


def test_every_module_of_the_checkout_is_in_the_wheel(wheel: Path) -> None:
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mesh").rglob("*.py")}
    assert here == {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}


def test_the_base_install_brings_msgspec_alone(base: Path) -> None:
    listed = json.loads(run(sys.executable, "-m", "pip", "--python", base / "python", "list", "--format=json"))
    assert ["heartmesh", "msgspec"] == sorted(entry["name"] for entry in listed)


def test_importing_mesh_loads_neither_the_agents_libraries_nor_asyncio(base: Path) -> None:
    code = f"import mesh, sys; print(sorted(set({NOT_FOR_CLIENTS}) & set(sys.modules)))"
    assert "[]" == run(base / "python", "-I", "-c", code).strip()


def test_the_base_install_is_enough_to_test_an_app(base: Path) -> None:
    code = (
        "from mesh.testing import Fleet; fleet = Fleet(); "
        "fleet.connect('server').serve('words', lambda message: message.body); "
        "print(fleet.connect('web').call('words', b'x').body)"
    )
    assert "b'x'" == run(base / "python", "-I", "-c", code).strip()


@pytest.mark.parametrize("command", ["mesh", "heartmesh"])
def test_the_commands_of_the_base_install_say_what_to_install(base: Path, command: str) -> None:
    assert HINT in run(base / command, "--version", status=1)


@pytest.mark.parametrize("command", ["mesh", "heartmesh"])
def test_the_commands_of_the_agents_install_tell_their_version(agent: Path, command: str) -> None:
    assert PROJECT["version"] in run(agent / command, "--version")


def test_the_agents_install_imports_mesh_without_loading_its_own_libraries(agent: Path) -> None:
    code = f"import mesh, sys; print(sorted(set({NOT_FOR_CLIENTS}) & set(sys.modules)))"
    assert "[]" == run(agent / "python", "-I", "-c", code).strip()
