"""Hosts that boot: Debian with systemd in namespaces of its own, on one bridge, reached by SSH as any host is.

::

    with Machines(tmp_path, {"node1": "10.77.0.11"}) as machines:
        machines["node1"].run("systemctl is-system-running")
        machines["node1"].kill()
        machines["node1"].boot()

Each has an overlay of its own over one tree (`scripts/hosts-tree`), so what it wrote is there when it boots again.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["ROOT", "Machine", "Machines", "until"]

ROOT = Path(__file__).resolve().parents[2]
BOOT_S = 60.0
COMMAND_S = 120.0
CGROUPS = Path("/sys/fs/cgroup")

# nspawn alone would leave its host running: killed, it tells nobody. As the first of a process namespace it takes all
# along, and so does the end of the test.
DIES_WHOLE = ("setpriv", "--pdeathsig=KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def until(condition: Callable[[], Any], what: str, within_s: float = BOOT_S) -> Any:
    """Wait for a condition and return what made it true; ``what`` names it in the failure."""
    give_up_at = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < give_up_at, f"not within {within_s} s: {what}"
        time.sleep(0.2)


def do(*command: str | Path) -> str:
    """Run a command of this machine; fails the test with what it wrote."""
    done = subprocess.run(
        [str(part) for part in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert 0 == done.returncode, f"{command}: {done.stdout}"
    return done.stdout


class Machine:
    """One host. It is off until `boot`."""

    def __init__(self, machines: "Machines", name: str, address: str) -> None:
        self.machines = machines
        self.name = name
        self.address = address
        self.directory = machines.directory / name
        self.root = self.directory / "root"
        self.process: subprocess.Popen[bytes] | None = None
        for part in ("upper", "work", "root"):
            (self.directory / part).mkdir(parents=True)
        layers = f"lowerdir={machines.tree},upperdir={self.directory}/upper,workdir={self.directory}/work"
        do("mount", "-t", "overlay", "overlay", "-o", layers, self.root)
        self._write_identity()
        # Its own control groups, or the hosts' units of one name would share one.
        names = [path for path in (CGROUPS / "systemd", CGROUPS / "unified") if path.is_dir()] or [CGROUPS]
        self.cgroups = [path / f"{machines.namespace}-{name}" for path in names]

    def _write_identity(self) -> None:
        etc = self.root / "etc"
        (etc / "hostname").write_text(f"{self.name}\n")
        hosts = "".join(f"{address} {name}\n" for name, address in self.machines.addresses.items())
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{hosts}")
        (etc / "machine-id").write_text(self.address.encode().hex().ljust(32, "0")[:32] + "\n")
        (etc / "systemd/network").mkdir(parents=True, exist_ok=True)
        network = f"[Match]\nName=host0\n[Network]\nAddress={self.address}/24\nLinkLocalAddressing=no\n"
        (etc / "systemd/network/10-host0.network").write_text(network)
        wants = etc / "systemd/system/multi-user.target.wants"
        wants.mkdir(parents=True, exist_ok=True)
        (wants / "systemd-networkd.service").symlink_to("/lib/systemd/system/systemd-networkd.service")
        keys = self.root / "root/.ssh"
        keys.mkdir(mode=0o700, exist_ok=True)
        (keys / "authorized_keys").write_text((self.machines.key.with_suffix(".pub")).read_text())

    def boot(self) -> None:
        """Start it and wait until it can be logged in to."""
        self.power_on()
        self.await_login()

    def power_on(self) -> None:
        """Start it, without waiting."""
        for group in self.cgroups:
            group.mkdir(exist_ok=True)
        joined = " && ".join(f"echo 0 >{group}/cgroup.procs" for group in self.cgroups)
        nspawn = (
            "systemd-nspawn --quiet --register=no --keep-unit --boot --network-bridge=br0 --link-journal=no "
            f"--console=pipe --machine={self.name} --directory={self.root}"
        )
        with (self.directory / "console").open("ab") as console:
            self.process = subprocess.Popen(
                [*self.machines.within(), *DIES_WHOLE, "sh", "-c", f"{joined} && exec {nspawn}"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )

    def await_login(self) -> None:
        """Wait until it can be logged in to."""
        until(self.answers, f"{self.name} answers SSH; its console is {self.directory}/console")

    def answers(self) -> bool:
        """Whether a command runs there."""
        assert self.process is None or self.process.poll() is None, (self.directory / "console").read_text()
        return self.ssh("true").returncode == 0

    def kill(self) -> None:
        """Take its power away: nothing in it is told."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None
            until(lambda: not any(self._pids()), f"nothing of {self.name} runs any more")

    def _pids(self) -> list[str]:
        return [
            pid for group in self.cgroups for path in group.rglob("cgroup.procs") for pid in path.read_text().split()
        ]

    def ssh(self, command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command on it as root; returns how it ended."""
        told = [*self.machines.within(), "ssh", *self.machines.ssh_options, f"root@{self.address}", command]
        return subprocess.run(told, text=True, capture_output=True, check=False, timeout=COMMAND_S)

    def run(self, command: str) -> str:
        """Run a command on it as root and return what it wrote; fails the test if the command does."""
        done = self.ssh(command)
        assert 0 == done.returncode, f"{self.name}: {command}: {done.stdout}{done.stderr}"
        return done.stdout

    def write(self, path: str, text: str) -> None:
        """Write a file on it, from outside."""
        (self.root / path.lstrip("/")).write_text(text)

    def remove(self) -> None:
        """End it and what it used of this machine."""
        self.kill()
        do("umount", self.root)
        for group in self.cgroups:
            for inner in sorted(group.glob("**/"), reverse=True):
                inner.rmdir()


class Machines:
    """Hosts by name, all on; ended with the block."""

    def __init__(self, directory: Path, addresses: Mapping[str, str]) -> None:
        self.directory = directory
        self.addresses = dict(addresses)
        self.namespace = f"meshhosts{os.getpid()}"
        self.tree = Path(do(ROOT / "scripts/hosts-tree").splitlines()[-1])
        self.key = directory / "key"
        self.ssh_options = [
            *("-i", str(self.key), "-F", "none", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"),
        ]
        self._all: dict[str, Machine] = {}

    def within(self) -> list[str]:
        """Return what a command begins with that is to run in the hosts' network."""
        return ["nsenter", f"--net=/run/netns/{self.namespace}"]

    def __enter__(self) -> "Machines":
        with contextlib.ExitStack() as undo:
            undo.callback(self._remove)
            do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
            do("ip", "netns", "add", self.namespace)
            for change in (
                "link set lo up",
                "link add br0 type bridge",
                "addr add 10.77.0.1/24 dev br0",
                "link set br0 up",
            ):
                do("ip", "-n", self.namespace, *change.split())
            for name, address in self.addresses.items():
                self._all[name] = Machine(self, name, address)
            for machine in self._all.values():
                machine.power_on()
            for machine in self._all.values():
                machine.await_login()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._remove()

    def _remove(self) -> None:
        for machine in self._all.values():
            machine.remove()
        subprocess.run(["ip", "netns", "delete", self.namespace], check=False, capture_output=True)

    def __getitem__(self, name: str) -> Machine:
        return self._all[name]


def main() -> None:
    """Boot one host and end it; exits with 1 and the reason where this machine cannot."""
    with tempfile.TemporaryDirectory() as directory:
        try:
            with Machines(Path(directory), {"probe": "10.77.0.11"}):
                pass
        except (AssertionError, OSError) as error:
            sys.exit(f"a host that was to try it did not boot: {error}")


if __name__ == "__main__":
    main()
