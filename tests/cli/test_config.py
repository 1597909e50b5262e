"""`config check`, `config show`, `config reference`."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

pytestmark = pytest.mark.io  # the machine's interfaces are asked for


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "good.toml"
    path.write_text(
        f'preset = "local"\n[agent]\nnode_id = "n1"\nsocket = "{tmp_path}/s"\n[heat]\npin = {{ a = "hot" }}\n'
    )
    return path


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    path = tmp_path / "bad.toml"
    path.write_text('[agent]\nfleat = "x"\n[heat]\nhot_at_per_s = "warm"\n')
    return path


def test_a_good_file_is_ok(good: Path, run: Run) -> None:
    assert (0, f"{good}: ok\n", "") == run("config", "check", str(good))
    assert {"file": str(good), "ok": True, "problems": [], "descriptors_needed": 3316} == json.loads(
        run("config", "check", str(good), "--json").out
    )


def test_a_bad_file_is_told_all_of_its_problems(bad: Path, run: Run) -> None:
    ran = run("config", "check", str(bad))
    assert 1 == ran.status
    assert "fleat" in ran.err
    assert "hot_at_per_s" in ran.err
    told = json.loads(run("config", "check", str(bad), "--json").out)
    assert (False, 2) == (told["ok"], len(told["problems"]))


def test_a_missing_file_is_one_problem(tmp_path: Path, run: Run) -> None:
    ran = run("config", "check", str(tmp_path / "none.toml"))
    assert 1 == ran.status
    assert "cannot be read" in ran.err


def test_show_tells_where_each_value_came_from(good: Path, run: Run) -> None:
    rows = json.loads(run("config", "show", "--config", str(good), "--json").out)
    origins = {(row["section"], row["option"]): (row["value"], row["origin"]) for row in rows}
    assert ("n1", f"file: {good}") == origins["agent", "node_id"]
    assert (0.2, "preset local") == origins["heartbeat", "heartbeat_s"]
    assert (256, "default") == origins["links", "links_max"]


def test_show_prints_values_as_they_are_written_in_a_file(good: Path, run: Run) -> None:
    shown = run("config", "show", "--config", str(good))
    assert 0 == shown.status
    assert "[heat]" in shown.out
    assert '{ a = "hot" }' in shown.out
    assert '["127.0.0.1"]' in shown.out


def test_reference_prints_every_section(run: Run) -> None:
    page = run("config", "reference").out
    assert all(f"## [{section}]" in page for section in ("agent", "links", "heat", "matchmaker.consul"))


def test_a_policy_is_shown_as_it_was_written(good: Path, run: Run) -> None:
    good.write_text(good.read_text() + '[policy.rules.web]\neffect = "only"\nusers = ["www-*"]\n')
    assert '{ web = { effect = "only", users = ["www-*"] } }' in " ".join(
        run("config", "show", "--config", str(good)).out.split()
    )
    rows = json.loads(run("config", "show", "--config", str(good), "--json").out)
    (shown,) = [row["value"] for row in rows if row["option"] == "rules"]
    assert ("only", ["www-*"], []) == (shown["web"]["effect"], shown["web"]["users"], shown["web"]["nodes"])
