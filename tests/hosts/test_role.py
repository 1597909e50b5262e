"""The Ansible role on hosts that boot: three agents and a Consul server, the example's own inventory and playbooks.

One story in the order of the file, each test from where the last one left the hosts.
"""

import json
import re
import subprocess
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.hosts.machines import ROOT, Machine, Machines, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(400)]

BIN = ROOT / ".venv/bin"
EXAMPLES = ROOT / "deploy/ansible/examples"
ADDRESSES = {"registry": "10.77.0.10", "node1": "10.77.0.11", "node2": "10.77.0.12", "node3": "10.77.0.13"}
NODES = ("node1", "node2", "node3")
NOW, NEXT, BROKEN = "0.1.0", "0.1.0.post1", "0.1.0.post2"
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)
# The directory of the socket as a container has it: a mount, which keeps a directory that was removed.
CONTAINED = """\
mount --bind /run/mesh /mnt || exit
MESH_SOCKET=/mnt/agent.sock exec "$@"
"""
STATE = (
    "stat -c '%n %Y' /opt/heartmesh/* /opt/heartmesh/*/agent.toml /etc/systemd/system/heartmesh*; "
    "systemctl show -p MainPID heartmesh-agent"
)


class Ran(NamedTuple):
    """How a playbook ended: its exit status, per host what changed and failed, and all that it wrote."""

    status: int
    changed: dict[str, int]
    failed: dict[str, int]
    out: str


class Site:
    """The hosts, and the control node that this machine is to them."""

    def __init__(self, machines: Machines, directory: Path) -> None:
        self.machines = machines
        self.wheelhouse = directory / "wheelhouse"
        self.collections = directory / "collections"
        self.fleet_keys = directory / "keys"
        self.consul = subprocess.check_output([ROOT / "scripts/consul"], text=True).strip()
        self._install_collection(directory)
        self._make_wheels(directory)

    def _install_collection(self, directory: Path) -> None:
        galaxy = str(BIN / "ansible-galaxy")
        built = [galaxy, "collection", "build", str(ROOT / "deploy/ansible"), "--output-path", str(directory)]
        subprocess.run(built, check=True, capture_output=True)
        (archive,) = directory.glob("heartmesh-mesh-*.tar.gz")
        to = ["-p", str(self.collections), "--offline"]
        subprocess.run([galaxy, "collection", "install", str(archive), *to], check=True, capture_output=True)

    def _make_wheels(self, directory: Path) -> None:
        """Make a wheelhouse with this version, one that follows it, and one whose agent does not start."""
        subprocess.run([ROOT / "scripts/wheelhouse", self.wheelhouse], check=True)
        (wheel,) = self.wheelhouse.glob(f"heartmesh-{NOW}-*.whl")
        make_version(wheel, NEXT, {})
        make_version(wheel, BROKEN, {"mesh/agent/__main__.py": b"raise SystemExit('this version is broken')\n"})

    def play(self, playbook: str, *arguments: str, **variables: object) -> Ran:
        """Run one of the example's playbooks."""
        told = {
            "ansible_user": "root",
            "consul_binary": self.consul,
            "mesh_agent_wheelhouse": str(self.wheelhouse),
            "mesh_agent_version": NOW,
            "mesh_agent_fleet_keys": str(self.fleet_keys),
            "mesh_agent_signer": str(BIN / "mesh"),
            **variables,
        }
        environment = {
            "ANSIBLE_COLLECTIONS_PATH": str(self.collections),
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_HOME": str(self.collections / "home"),
            "ANSIBLE_SSH_ARGS": " ".join([*self.machines.ssh_options, "-o ControlMaster=auto -o ControlPersist=60s"]),
            "PATH": f"{BIN}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.collections),
            "LC_ALL": "C.UTF-8",
        }
        command = [
            *self.machines.within(),
            *(str(BIN / "ansible-playbook"), "-i", str(EXAMPLES / "inventory.yml"), str(EXAMPLES / playbook)),
            *("-e", json.dumps(told), *arguments),
        ]
        done = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
        out = done.stdout + done.stderr
        recap = {host: (int(changed), int(failed)) for host, _, changed, _, failed in RECAP.findall(out)}
        print(out[out.rfind("PLAY RECAP") :])
        return Ran(
            done.returncode,
            {host: changed for host, (changed, _) in recap.items()},
            {host: failed for host, (_, failed) in recap.items()},
            out,
        )

    def succeed(self, playbook: str, *arguments: str, **variables: object) -> Ran:
        """Run a playbook that has to work."""
        ran = self.play(playbook, *arguments, **variables)
        assert 0 == ran.status, ran.out
        return ran

    def nodes(self) -> list[Machine]:
        return [self.machines[name] for name in NODES]

    def versions(self) -> list[str]:
        return [node.run("readlink /opt/heartmesh/current").strip().rsplit("/", 1)[1] for node in self.nodes()]

    def state(self) -> list[str]:
        """Return what would be different if anything had been replaced or restarted."""
        return [node.run(STATE) for node in self.nodes()]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Machines(tmp_path_factory.mktemp("hosts"), ADDRESSES) as machines:
        yield Site(machines, tmp_path_factory.mktemp("control"))


def make_version(wheel: Path, version: str, changed: dict[str, bytes]) -> None:
    """Put a wheel beside one: the same under another version, but for the contents of the files that are named."""
    was, becomes = (f"heartmesh-{name}.dist-info/" for name in (NOW, version))
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(wheel.with_name(wheel.name.replace(NOW, version)), "w") as new:
        for name in old.namelist():
            content = changed.get(name, old.read(name))
            if name == f"{was}METADATA":
                content = content.replace(f"\nVersion: {NOW}\n".encode(), f"\nVersion: {version}\n".encode())
            if name == f"{was}RECORD":
                content = content.replace(was.encode(), becomes.encode())
            new.writestr(name.replace(was, becomes), content)


def start_app(machine: Machine, name: str, arguments: str, within: str = "") -> None:
    """Run traffic.py on a host, as a service of a user who may use the agent; ``within`` is a command that runs it."""
    machine.write("/usr/local/bin/traffic.py", (Path(__file__).parent / "traffic.py").read_text())
    python = f"/opt/heartmesh/{NOW}/bin/python"
    machine.run(
        f"systemd-run --quiet --unit={name} --uid=app --property=RuntimeDirectory={name} "
        f"{within} {python} /usr/local/bin/traffic.py {arguments}"
    )


def outcomes(machine: Machine) -> dict[str, int]:
    ran = machine.ssh("cat /run/caller/outcomes.json")
    counts: dict[str, int] = json.loads(ran.stdout) if ran.returncode == 0 else {}
    return counts


class Load:
    """Calls from a host while the block runs; afterwards their outcomes are in ``counts``."""

    def __init__(self, machine: Machine, within: str = "") -> None:
        self.machine = machine
        self.within = within
        self.counts: dict[str, int] = {}

    def __enter__(self) -> "Load":
        start_app(self.machine, "caller", "call /run/caller/outcomes.json", self.within)
        until(lambda: outcomes(self.machine), "calls are answered")
        return self

    def __exit__(self, *_: object) -> None:
        self.counts = outcomes(self.machine)
        self.machine.run("systemctl stop caller")

    @property
    def failures(self) -> dict[str, int]:
        return {outcome: count for outcome, count in self.counts.items() if not outcome.startswith("from ")}

    @property
    def answered_by(self) -> Sequence[str]:
        return sorted(outcome.removeprefix("from ") for outcome in self.counts if outcome.startswith("from "))


def test_a_fleet_is_installed_from_nothing_and_without_a_registry(site: Site) -> None:
    for node in site.nodes():
        node.run("useradd --system app")
    ran = site.succeed("site.yml", mesh_agent_app_users=["app"])
    assert {"registry", *NODES} == set(ran.changed)
    assert [NOW] * 3 == site.versions()


def test_a_second_run_changes_nothing(site: Site) -> None:
    before = site.state()
    ran = site.succeed("site.yml", mesh_agent_app_users=["app"])
    assert {"registry": 0, "node1": 0, "node2": 0, "node3": 0} == ran.changed
    assert before == site.state()


def test_calls_cross_hosts(site: Site) -> None:
    for node in site.nodes():
        start_app(node, "worker", "serve")
    with Load(site.machines["node1"]) as load:
        until(lambda: len(outcomes(load.machine)) == 3, "all three hosts answer")
    assert {} == load.failures
    assert list(NODES) == load.answered_by


def test_check_mode_shows_a_change_and_makes_none(site: Site) -> None:
    before = site.state()
    ran = site.succeed(
        "upgrade.yml", "--check", "--diff", mesh_agent_options={"agent": {"bind": ["0.0.0.0"], "zone": "rack-8"}}
    )
    assert '+zone = "rack-8"' in ran.out
    site.succeed("upgrade.yml", "--check", "--limit", "node1", mesh_agent_version=NEXT)
    assert before == site.state()


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"mesh_agent_options": {"links": {"links_maximum": 5}}}, "links_maximum"),
        ({"mesh_agent_options": {"agent": {"node_id": "x"}}}, "take them out of mesh_agent_options.agent"),
        ({"mesh_agent_version": "latest"}, "mesh_agent_version is latest"),
        ({"mesh_agent_version": "9.9"}, "no wheel of heartmesh 9.9"),
        ({"mesh_agent_preset": "wide"}, "wide"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_variables_are_refused_before_anything_changes(site: Site, variables: dict[str, object], told: str) -> None:
    before = site.state()
    ran = site.play("upgrade.yml", **variables)
    assert 2 == ran.status
    assert told in ran.out
    assert before == site.state()
    assert {0} == set(ran.changed.values())


def test_a_host_whose_power_fails_comes_back_and_is_called_again(site: Site) -> None:
    lost = site.machines["node3"]
    lost.kill()
    with Load(site.machines["node1"]) as load:
        until(lambda: {"from node1", "from node2"} <= outcomes(load.machine).keys(), "the other two answer")
        lost.boot()
        until(lambda: lost.ssh("/opt/heartmesh/current/bin/mesh status").returncode == 0, "its agent is up")
        start_app(lost, "worker", "serve")
        until(lambda: "from node3" in outcomes(load.machine), "it is called again")
    print(f"power failure: {load.counts}")
    # What was with it may have run. Nothing else fails, and nothing is answered wrongly.
    assert [] == [outcome for outcome in load.failures if not outcome.startswith("Indeterminate")]


def test_a_rolling_upgrade_under_load_fails_no_call(site: Site) -> None:
    """On one host an earlier run broke off, and what it left looks installed."""
    left = f"/opt/heartmesh/{NEXT}/bin"
    site.machines["node2"].run(f"mkdir -p {left} && echo 'echo mesh {NEXT}' >{left}/mesh && chmod +x {left}/mesh")
    with Load(site.machines["node1"]) as load:
        site.succeed("upgrade.yml", mesh_agent_version=NEXT)
    assert [NEXT] * 3 == site.versions()
    print(f"upgrade: {load.counts}")
    assert {} == load.failures


def test_an_upgrade_stops_at_the_first_host_that_is_not_well_and_goes_back(site: Site) -> None:
    before = site.state()[1:]
    with Load(site.machines["node2"]) as load:
        ran = site.play("upgrade.yml", mesh_agent_version=BROKEN, mesh_agent_healthy_s=4)
    assert 2 == ran.status
    assert {"node1": 1, "node2": 0, "node3": 0} == ran.failed
    assert f"/opt/heartmesh/{NEXT} runs again" in ran.out
    assert [NEXT] * 3 == site.versions()
    assert [line.splitlines()[-1] for line in before] == [line.splitlines()[-1] for line in site.state()[1:]]
    print(f"broken upgrade: {load.counts}")
    assert {} == load.failures


def test_going_back_under_load_needs_no_wheels_and_fails_no_call(site: Site) -> None:
    with Load(site.machines["node1"]) as load:
        site.succeed("upgrade.yml", mesh_agent_version=NOW, mesh_agent_wheelhouse="/nonexistent")
    assert [NOW] * 3 == site.versions()
    print(f"rollback: {load.counts}")
    assert {} == load.failures


def test_the_unit_leaves_little_exposed(site: Site) -> None:
    """Of ten, by systemd's own measure."""
    told = site.machines["node1"].run("systemd-analyze security --no-pager heartmesh-agent").splitlines()[-1]
    print(told)
    exposure = re.search(r"level for heartmesh-agent.service: ([0-9.]+)", told)
    assert exposure is not None, told
    assert float(exposure[1]) < 2.5


def test_an_agent_that_was_killed_is_started_again_and_one_that_cannot_work_is_not(site: Site) -> None:
    node = site.machines["node2"]
    node.run("systemctl kill --signal=KILL heartmesh-agent")
    until(lambda: node.ssh("systemctl is-active heartmesh-agent").returncode == 0, "systemd starts it again")
    unit = "heartmesh-agent@.service"
    node.write(f"/etc/systemd/system/{unit}", (ROOT / "deploy/systemd" / unit).read_text())
    node.run("echo 'fleat = 1' >/etc/heartmesh/green.toml; systemctl daemon-reload")
    node.ssh("systemctl start heartmesh-agent@green")
    until(lambda: node.ssh("systemctl is-failed heartmesh-agent@green").returncode == 0, "it is given up")
    assert "NRestarts=0" == node.run("systemctl show -p NRestarts heartmesh-agent@green").strip()
    assert "fleat" in node.run("journalctl --unit heartmesh-agent@green --output cat")


def test_two_fleets_share_a_host(site: Site) -> None:
    node = site.machines["node2"]
    node.write("/etc/heartmesh/blue.toml", 'preset = "local"\n[agent]\nfleet = "blue"\nlink_port = 7451\n')
    node.run("systemctl start heartmesh-agent@blue")
    command = "/opt/heartmesh/current/bin/mesh status --json --socket"
    fleets = [
        json.loads(node.run(f"{command} {socket}"))["fleet"]
        for socket in ("/run/mesh/agent.sock", "/run/mesh-blue/agent.sock")
    ]
    assert ["example", "blue"] == fleets
    node.run("systemctl stop heartmesh-agent@blue && rm -r /etc/systemd/system/heartmesh-agent@.service /run/mesh-blue")


def test_an_app_in_a_container_finds_each_of_ten_agents_in_the_directory_that_it_has_mounted(site: Site) -> None:
    """It has users and processes of its own, and no other way to the agent than that mount."""
    node = site.machines["node2"]
    node.write("/usr/local/bin/contained", CONTAINED)
    with Load(node, within="unshare --user --map-root-user --pid --fork --mount sh /usr/local/bin/contained") as load:
        for restart in range(10):
            node.run("systemctl restart heartmesh-agent")
            before = sum(outcomes(node).values())
            until(lambda before=before: sum(outcomes(node).values()) > before + 100, f"calls after restart {restart}")  # type: ignore[misc]
    print(f"ten restarts: {load.counts}")
    assert {} == load.failures


def test_new_keys_under_load_fail_no_call(site: Site) -> None:
    show = "runuser -u heartmesh -- /opt/heartmesh/current/bin/mesh keys show /var/lib/mesh/example/keys --json"
    before = [json.loads(node.run(show))["certificate"] for node in site.nodes()]
    with Load(site.machines["node1"]) as load:
        site.succeed("rotate-keys.yml")
    after = [json.loads(node.run(show))["certificate"] for node in site.nodes()]
    assert [True] * 3 == [old != new for old, new in zip(before, after, strict=True)]
    print(f"new keys: {load.counts}")
    assert {} == load.failures


def test_a_revoked_node_is_shut_out_and_the_others_go_on(site: Site) -> None:
    subprocess.run([BIN / "mesh", "keys", "revoke", site.fleet_keys, "node3"], check=True)
    site.succeed("upgrade.yml", "--limit", "node1,node2")
    with Load(site.machines["node1"]) as load:
        until(lambda: {"from node1", "from node2"} <= outcomes(load.machine).keys(), "the other two answer")
    assert ["node1", "node2"] == load.answered_by
    site.machines["node3"].run("rm -r /var/lib/mesh/example/keys")
    site.succeed("upgrade.yml")
    with Load(site.machines["node1"]) as load:
        until(lambda: len(outcomes(load.machine)) == 3, "with a new key all three answer")
    assert {} == load.failures


def test_removal_leaves_nothing_of_the_role(site: Site) -> None:
    site.succeed("remove.yml", mesh_agent_purge=True)
    for node in site.nodes():
        left = node.ssh("ls -d /opt/heartmesh /etc/heartmesh /run/mesh /var/lib/mesh /etc/systemd/system/heartmesh*")
        assert "" == left.stdout
