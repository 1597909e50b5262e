"""`scripts/consul`: which Consul it chooses, and how it builds one, with a Go and Consuls that only pretend."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

SCRIPT = Path(__file__).resolve().parent.parent.parent / "scripts" / "consul"
TOOLS = ("sh", "sed", "dirname", "mkdir", "flock", "rm", "mv", "cp", "sleep", "chmod", "cat")
CONSUL = "#!/bin/sh\necho 'Consul v%s'\n"

# Builds what `-o` names, slowly, and writes down that it did.
GO = """#!/bin/sh
echo "$PWD $CGO_ENABLED $GONOSUMDB" >> "$GO_LOG"
while [ "$1" != -o ]; do shift; done
sleep 0.3
cp "$PRETENDED" "$2"
"""


class Machine:
    """A PATH and a home of their own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.path = home / "bin"
        self.path.mkdir()
        self.log = home / "go.log"
        self.kept = home / ".cache" / "heartmesh" / "consul-1.16.3"
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, tool
            (self.path / tool).symlink_to(found)

    def has(self, name: str, text: str) -> Path:
        program = self.path / name
        program.write_text(text)
        program.chmod(0o755)
        return program

    def run(self, **environment: str) -> "subprocess.CompletedProcess[str]":
        environment = {"PATH": str(self.path), "HOME": str(self.home), "GO_LOG": str(self.log)} | environment
        return subprocess.run([SCRIPT], env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("version", ["1.14.0", "1.16.3+ent", "1.22.1", "2.0.0"])
def test_a_consul_on_path_that_is_new_enough_is_used(machine: Machine, version: str) -> None:
    consul = machine.has("consul", CONSUL % version)
    assert (0, f"{consul}\n", "") == (machine.run().returncode, machine.run().stdout, machine.run().stderr)


@pytest.mark.parametrize("version", ["1.13.9", "1.9.0", "0.9.9"])
def test_without_go_and_a_consul_that_is_new_enough_it_says_what_is_missing(machine: Machine, version: str) -> None:
    machine.has("consul", CONSUL % version)
    ran = machine.run()
    assert (1, "") == (ran.returncode, ran.stdout)
    assert f"is version {version}, older than 1.14: not used" in ran.stderr
    assert "neither Consul 1.14 or newer nor Go is on PATH: install one of them" in ran.stderr


def test_a_consul_that_does_not_say_its_version_is_not_used(machine: Machine) -> None:
    machine.has("consul", "#!/bin/sh\nexit 1\n")
    assert "is version unknown" in machine.run().stderr


def test_two_that_build_at_once_build_once(machine: Machine) -> None:
    machine.has("go", GO)
    pretended = machine.has("pretended", CONSUL % "1.16.3")
    with ThreadPoolExecutor(2) as threads:
        both = list(threads.map(lambda _: machine.run(PRETENDED=str(pretended)), range(2)))
    assert [(0, f"{machine.kept}\n")] * 2 == [(ran.returncode, ran.stdout) for ran in both]
    assert [f"{SCRIPT.parent.parent}/consul/build 0 github.com/hashicorp/*"] == machine.log.read_text().splitlines()
    assert any("another build is under way" in ran.stderr for ran in both)
    again = machine.run()
    assert (f"{machine.kept}\n", "") == (again.stdout, again.stderr)
    assert {"consul-1.16.3", "consul-1.16.3.lock"} == {path.name for path in machine.kept.parent.iterdir()}


def test_the_cache_directory_can_be_another(machine: Machine, tmp_path: Path) -> None:
    machine.has("go", GO)
    pretended = machine.has("pretended", CONSUL % "1.16.3")
    ran = machine.run(PRETENDED=str(pretended), XDG_CACHE_HOME=str(tmp_path / "else where"))
    assert f"{tmp_path}/else where/heartmesh/consul-1.16.3\n" == ran.stdout
    assert os.access(ran.stdout.rstrip("\n"), os.X_OK)


@pytest.mark.parametrize(
    ("go", "message"),
    [
        ("#!/bin/sh\necho 'no such module' >&2\nexit 1\n", "no such module\nscripts/consul: the build failed"),
        (GO, "what was built is not Consul 1.16.3"),
    ],
)
def test_a_build_that_fails_leaves_nothing_behind(machine: Machine, go: str, message: str) -> None:
    machine.has("go", go)
    ran = machine.run(PRETENDED=str(machine.has("pretended", CONSUL % "1.0.0")))
    assert (1, "") == (ran.returncode, ran.stdout)
    assert message in ran.stderr
    assert ["consul-1.16.3.lock"] == [path.name for path in machine.kept.parent.iterdir()]
