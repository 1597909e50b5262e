"""The systemd units say what the agent's options and exit statuses say."""

from collections import defaultdict
from pathlib import Path

import pytest

from mesh.agent.exits import Exit
from mesh.config import load

UNITS = Path(__file__).resolve().parent.parent / "deploy/systemd"
NAMES = ("heartmesh-agent.service", "heartmesh-agent@.service")

pytestmark = pytest.mark.io  # the machine's interfaces are asked for


def settings(name: str) -> dict[str, list[str]]:
    found = defaultdict(list)
    for line in (UNITS / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            option, _, value = line.partition("=")
            found[option].append(value)
    return dict(found)


@pytest.mark.parametrize("name", NAMES)
def test_the_limit_of_open_files_is_what_the_default_options_need(name: str, tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(f'preset = "lan"\n[agent]\nsocket = "{tmp_path}/s"\nadvertise = "192.0.2.1"\n')
    assert [str(load(file).descriptors_needed)] == settings(name)["LimitNOFILE"]


@pytest.mark.parametrize("name", NAMES)
def test_a_drain_has_time_and_what_cannot_work_is_not_started_again(name: str, tmp_path: Path) -> None:
    found = settings(name)
    file = tmp_path / "agent.toml"
    file.write_text(f'[agent]\nsocket = "{tmp_path}/s"\n')
    assert load(file).node_options.link.drain_s < float(found["TimeoutStopSec"][0])
    assert [str(int(Exit.CONFIGURATION))] == found["RestartPreventExitStatus"]


def test_the_unit_of_a_named_fleet_differs_only_in_names() -> None:
    one, named = (settings(name) for name in NAMES)
    different = {option for option in one if one[option] != named[option]}
    assert {"Description", "Environment", "ExecStart", "RuntimeDirectory"} == different
    assert one.keys() == named.keys()


@pytest.mark.parametrize("name", NAMES)
def test_the_agent_is_not_kept_from_seeing_its_apps_processes(name: str) -> None:
    assert not {"PrivateUsers", "ProtectProc", "PrivatePIDs"} & settings(name).keys()
