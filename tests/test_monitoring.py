"""What is in deploy/monitoring is right by Prometheus's own tool, and speaks of metrics that there are."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mesh.agent.metrics import families

MONITORING = Path(__file__).resolve().parents[1] / "deploy" / "monitoring"
STATUS = {
    "node": "a",
    "fleet": "f",
    "incarnation": 1,
    "draining": False,
    "apps": [],
    "outstanding": 0,
    "remembered": 0,
    "policy": {"refused": {}},
    "totals": {
        **dict.fromkeys(("calls", "casts", "fanouts", "served", "casts_failed", "poisoned"), 0),
        "outcomes": {},
        "limits": {},
    },
}
SUFFIXES = {"counter": "_total", "info": "_info"}


def promtool(*command: str) -> None:
    tool = shutil.which("promtool")
    assert tool, "this test needs promtool: apt-get install prometheus"
    done = subprocess.run([tool, *command], cwd=MONITORING, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.system
def test_the_alerts_are_rules_and_fire_when_they_should() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("test", "rules", "alerts_test.yml")


@pytest.mark.system
def test_the_scrape_example_is_a_configuration(tmp_path: Path) -> None:
    text = (MONITORING / "prometheus.yml").read_text()
    # Debian's build has no consul_sd_configs: everything else is checked with a list of no targets in its place.
    text, found = re.subn(r"    consul_sd_configs:\n(      .*\n)+", "    static_configs: []\n", text)
    assert 1 == found
    (tmp_path / "prometheus.yml").write_text(text)
    promtool("check", "config", "--syntax-only", str(tmp_path / "prometheus.yml"))


@pytest.mark.parametrize("name", ["alerts.yml", "dashboard.json"])
def test_every_metric_that_is_named_exists(name: str) -> None:
    made = {family.name + SUFFIXES.get(family.type, "") for family in families(STATUS, [], [], {})}
    named = set(re.findall(r"heartmesh_\w+", (MONITORING / name).read_text()))
    assert set() == named - made
    assert len(named) > 10


def test_every_panel_asks_the_chosen_source_for_the_chosen_agents() -> None:
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    assert len(panels) == len({panel["title"] for panel in panels})
    for panel in panels:
        assert "${datasource}" == panel["datasource"]["uid"]
        assert all("$instance" in target["expr"] for target in panel["targets"])
