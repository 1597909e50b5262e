"""`keys`: from a fleet's first key to a revoked node's, by the commands alone."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

pytestmark = pytest.mark.io  # the machine's interfaces are asked for, to load a configuration


def test_a_node_is_enrolled_rotated_and_revoked_by_the_commands_that_each_one_names(tmp_path: Path, run: Run) -> None:
    fleet, node, out = str(tmp_path / "fleet"), tmp_path / "n1", tmp_path / "out"
    out.mkdir()
    assert "signing key of fleet prod" in run("keys", "init-fleet", fleet, "--fleet", "prod").out
    told = run("keys", "generate", str(node), "--node", "n1").out
    assert f"mesh keys sign FLEET_DIRECTORY {node}/node.request" in told
    request = str(node / "node.request")
    assert "none: have node.request signed" in run("keys", "show", str(node)).out
    assert "request: node n1, key " in run("keys", "show", request).out
    signed = run("keys", "sign", fleet, request, "--node", "n1", "--role", "r", "--out", str(out))
    assert f"{out}/node.certificate: node n1 of fleet prod, valid until " in signed.out
    assert {"node.certificate", "fleet.public", "revoked"} == {path.name for path in out.iterdir()}
    run("keys", "sign", fleet, request)
    shown = json.loads(run("keys", "show", str(node), "--json").out)
    assert [True] == [key.endswith(" (in use)") for key in shown["key"]]
    assert "node n1" in run("keys", "rotate", str(node)).out
    run("keys", "sign", fleet, request)
    assert [False, True] == [
        "(in use)" in key for key in json.loads(run("keys", "show", str(node), "--json").out)["key"]
    ]
    revoked = run("keys", "revoke", fleet, "n1").out.splitlines()
    assert (3, "number 1, 2 keys") == (len(revoked), revoked[-1].partition(": ")[2])
    assert 2 == len(json.loads(run("keys", "show", fleet, "--json").out)["revoked"])


def test_without_a_directory_the_agents_own_configuration_says_where(tmp_path: Path, run: Run) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(f'[agent]\nnode_id = "n7"\ndata_dir = "{tmp_path}/data"\nsocket = "{tmp_path}/s"\n')
    made = run("keys", "generate", "--config", str(config))
    assert (0, f"{tmp_path}/data/keys/node.request: the key of node n7; have it signed:") == (
        made.status,
        made.out.splitlines()[0],
    )
    again = run("keys", "generate", "--config", str(config))
    assert 1 == again.status
    assert "`mesh keys rotate` makes the next pair" in again.err


def test_a_request_of_another_node_than_was_meant_is_not_signed(tmp_path: Path, run: Run) -> None:
    run("keys", "init-fleet", str(tmp_path / "fleet"))
    run("keys", "generate", str(tmp_path / "n1"), "--node", "n1")
    ran = run("keys", "sign", str(tmp_path / "fleet"), str(tmp_path / "n1" / "node.request"), "--node", "n2")
    assert 2 == ran.status
    assert "is of node 'n1', not of 'n2'" in ran.err


def test_what_is_not_there_or_open_to_others_is_said(tmp_path: Path, run: Run) -> None:
    ran = run("keys", "show", str(tmp_path / "none"))
    assert 1 == ran.status
    assert "mesh keys generate" in ran.err
    run("keys", "generate", str(tmp_path / "n1"), "--node", "n1")
    (tmp_path / "n1").chmod(0o755)
    assert "chmod 700" in run("keys", "rotate", str(tmp_path / "n1")).err
