"""`doctor`: what could be wrong between this machine and a working agent, and what to do about each.

Every check is a function of what was found, so that each can be tried without a machine that has the trouble.
"""

import json
import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

from mesh.cli.exits import Exit
from mesh.cli.options import config_option, connected, json_option, socket_option, timeout_option
from mesh.errors import ConfigError, MeshError

if TYPE_CHECKING:
    from mesh.config import Config

__all__ = [
    "Finding",
    "check_agent",
    "check_clock",
    "check_descriptors",
    "check_dial_back",
    "check_matchmaker",
    "check_port",
    "check_socket",
    "doctor",
]

Status = Mapping[str, Any]

EPOCH_LEAST_S = 1_700_000_000
"""A wall clock before this (November 2023) was never set."""

AHEAD_MAX_S = 60.0
DIAL_S = 2.0
DIAL_BACK_S = 10.0
"""How long a peer has to dial this agent and to say what came of it."""

ZMTP_SIGNATURE = b"\xff"
"""The first byte that any ZeroMQ port says."""


NO_OTHER = "the matchmaker knows of no other agent"
"""What an agent says that has nobody to dial it back."""


class Finding(NamedTuple):
    """One line: what was looked at, how it is, what is known of it, and what to do if it is not well."""

    level: Literal["ok", "warn", "fail"]
    what: str
    text: str
    advice: str = ""


@click.command(short_help="Check this machine and its agent.")
@config_option
@timeout_option(2.0, "How long to wait for the agent.")
@json_option
@socket_option
def doctor(path: Path | None, timeout_s: float, as_json: bool, socket: str | None) -> int:
    """Check socket, permissions, agent, clock, open files, matchmaker and ports; exit with 1 if anything fails.

    Another agent is asked to dial this one back, over a link that is opened for that if there is none.
    """
    findings = []
    for finding in _examine(path, socket, timeout_s):
        findings.append(finding)
        if not as_json:
            _print(finding)
    if as_json:
        click.echo(json.dumps([finding._asdict() for finding in findings], indent=2))
    return Exit.FAILED if any(finding.level == "fail" for finding in findings) else Exit.OK


def _print(finding: Finding) -> None:
    colour = {"ok": "green", "warn": "yellow", "fail": "red"}[finding.level]
    plain = "NO_COLOR" in os.environ
    level = f"{finding.level:4}"
    click.echo(f"{level if plain else click.style(level, fg=colour)}  {finding.what}: {finding.text}")
    if finding.advice:
        click.echo(f"      → {finding.advice}")


def _examine(path: Path | None, socket: str | None, timeout_s: float) -> Iterator[Finding]:
    from mesh.client.socketpath import candidates

    config, finding = _read_config(path)
    yield finding
    places = candidates(socket or (str(config.socket_path) if config and path else None))
    yield check_socket([Path(place) for place in places], os.geteuid())
    status: Status | None = None
    try:
        with connected(socket or (places[0] if len(places) == 1 else None), timeout_s=timeout_s) as client:
            began = time.perf_counter()
            status = client.query("status", timeout_s=timeout_s)
            yield check_agent(status, (time.perf_counter() - began) * 1000, config)
    except MeshError as error:
        yield Finding("fail", "agent", str(error), "if it should be running, its log says why it is not")
    yield check_clock(time.time(), _steps_s(), status)
    yield from check_descriptors(status, config)
    yield check_matchmaker(status) if status and "matchmaker" in status else _try_matchmaker(config)
    if status:
        yield check_port(status["endpoint"], _dial(status["endpoint"]))
        yield _ask_peer(socket)


# Configuration and socket


def _read_config(path: Path | None) -> "tuple[Config | None, Finding]":
    from mesh.config import load

    try:
        config = load(path)
    except ConfigError as error:
        advice = "mend the file; `mesh config reference` lists all options"
        return None, Finding("fail", "configuration", f"{error.source}: {'; '.join(error.problems)}", advice)
    origin = path or os.environ.get("MESH_CONFIG") or "no file"
    return config, Finding("ok", "configuration", f"{origin}, preset {config.preset}, node {config.node_id}")


def check_socket(places: Sequence[Path], user: int) -> Finding:
    """Judge the first place that is there, as this user sees it."""
    found = next((place for place in places if os.path.lexists(place)), None)
    if found is None:
        hidden = [str(place.parent) for place in places if not os.access(place.parent, os.X_OK)]
        where = " or ".join(str(place) for place in places)
        if hidden and any(os.path.exists(parent) for parent in hidden):
            advice = f"user {user} may not enter {' or '.join(hidden)}: join the group in the agent's socket_group"
            return Finding("fail", "socket", f"nothing to be seen at {where}", advice)
        return Finding("fail", "socket", f"nothing at {where}", "start the agent, or set MESH_SOCKET to its socket")
    mode = found.stat().st_mode
    if not stat.S_ISSOCK(mode):
        return Finding("fail", "socket", f"{found} is not a socket", "remove it, or name another with MESH_SOCKET")
    if not os.access(found, os.W_OK):
        owner = found.stat()
        text = f"{found} is of user {owner.st_uid} and group {owner.st_gid}, mode {stat.S_IMODE(mode):o}"
        return Finding("fail", "socket", text, f"user {user} may not write it: join that group, or set socket_group")
    return Finding("ok", "socket", f"{found}, this user may connect")


def check_agent(status: Status, elapsed_ms: float, config: "Config | None") -> Finding:
    """Judge the agent that answered, which need not run with the configuration that was looked at."""
    text = f"{status['node']} of fleet {status['fleet']} answered in {elapsed_ms:.1f} ms"
    if config and (config.node_id, config.fleet) != (status["node"], status["fleet"]):
        text += ", and runs with another configuration than the one above (--config FILE looks at its own)"
    if status["draining"]:
        advice = "`mesh drain --resume` has it take work again, unless it is about to end"
        return Finding("warn", "agent", f"{text}, and drains", advice)
    health = status.get("health", {"status": "passing"})
    if health["status"] != "passing":
        level: Literal["warn", "fail"] = "fail" if health["status"] == "critical" else "warn"
        return Finding(level, "agent", f"{text}: {health['why']}", "compare `mesh status` and `mesh links`")
    return Finding("ok", "agent", text)


# Clock


def _steps_s() -> tuple[float, float]:
    """Return how far the wall clock and the monotonic one went in the same short time."""
    wall, monotonic = time.time(), time.monotonic()
    time.sleep(0.1)
    return time.time() - wall, time.monotonic() - monotonic


def check_clock(wall_s: float, steps_s: tuple[float, float], status: Status | None) -> Finding:
    """Judge the wall clock: it names incarnations, and is nowhere compared with another machine's."""
    advice = "set the clock and keep it set (chrony, systemd-timesyncd)"
    wall_step_s, monotonic_step_s = steps_s
    if wall_s < EPOCH_LEAST_S:
        return Finding("fail", "clock", "the wall clock was never set", advice)
    ahead_s = status["incarnation"] / 1000 - wall_s if status else 0.0
    if ahead_s > AHEAD_MAX_S:
        text = f"the agent was started {ahead_s:.0f} s from now: the wall clock was set back since"
        return Finding("warn", "clock", text, f"{advice}; a node that loses its data_dir now is taken for an old one")
    if abs(wall_step_s - monotonic_step_s) > 0.5 * max(monotonic_step_s, 0.02):
        return Finding("warn", "clock", f"the wall clock jumped by {wall_step_s - monotonic_step_s:+.2f} s", advice)
    return Finding("ok", "clock", "set, and in step with the monotonic one")


# Open files


def check_descriptors(status: Status | None, config: "Config | None") -> Iterator[Finding]:
    """Judge the agent's limit of open files, by what it has and by what its options may need."""
    if not status or "descriptors_max" not in status:
        return
    used, most = status["descriptors"], status["descriptors_max"]
    needed = config.descriptors_needed if config and config.node_id == status["node"] else 0
    text = f"{used} open, {most} allowed" + (f", {needed} may be needed" if needed else "")
    if needed > most or used > 0.9 * most:
        yield Finding("fail", "open files", text, "raise LimitNOFILE of the agent's unit, or lower links_max")
    elif used > 0.7 * most:
        yield Finding("warn", "open files", text, "raise LimitNOFILE of the agent's unit before it fills up")
    else:
        yield Finding("ok", "open files", text)


# Matchmaker


def check_matchmaker(status: Status) -> Finding:
    """Judge the matchmaker as the agent sees it."""
    facts = status["matchmaker"]
    if facts["reachable"] is None:
        return Finding("warn", "matchmaker", f"{facts['kind']} has not answered yet", "look again in a moment")
    if not facts["reachable"]:
        text = f"{facts['kind']} is away for {facts['away_s']:.0f} s: {facts['problem']}"
        advice = "traffic to known peers flows on; bring it back, the agent registers again by itself"
        return Finding("fail", "matchmaker", text, advice)
    text = f"{facts['kind']} answers, {facts['registered']} of {facts['to_register']} entries are registered"
    if facts["registered"] < facts["to_register"]:
        return Finding("warn", "matchmaker", text, "look again in a moment; if it stays so, look at the agent's log")
    return Finding("ok", "matchmaker", text)


def _try_matchmaker(config: "Config | None") -> Finding:
    """Ask the configured matchmaker ourselves, where there is no agent to do it."""
    from mesh.matchmaker.base import MatchmakerError

    if config is None:
        return Finding("warn", "matchmaker", "not looked at, for the configuration cannot be used")
    kind = config.matchmaker_kind
    if kind == "sqlite" and not Path(config.sqlite.path).exists():
        return Finding("ok", "matchmaker", f"sqlite: {config.sqlite.path} is made by the first agent")
    try:
        matchmaker = config.make_matchmaker()
        try:
            count = len(matchmaker.agents())
        finally:
            matchmaker.close()
    except (MatchmakerError, OSError) as error:
        return Finding("fail", "matchmaker", f"{kind}: {error}", "see [matchmaker] in the configuration")
    return Finding("ok", "matchmaker", f"{kind} answers, it knows {count} agents")


# Ports


def _dial(endpoint: str) -> str:
    """Connect to where peers are told to; return what is wrong, or an empty string."""
    import socket

    host, _, port = endpoint.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), DIAL_S) as connection:
            connection.settimeout(DIAL_S)
            said = connection.recv(1)
    except OSError as error:
        return error.strerror or str(error)
    return "" if said == ZMTP_SIGNATURE else "something answers, but it does not speak ZeroMQ"


def check_port(endpoint: str, problem: str) -> Finding:
    """Judge the advertised address, dialled from this machine itself."""
    if problem:
        advice = "see bind, advertise, advertise_port and link_port; where NAT is in between, try it from a peer"
        return Finding("fail", "port", f"{endpoint}, which peers are told to dial: {problem}", advice)
    if endpoint.startswith(("127.", "[::1]")):
        return Finding("ok", "port", f"{endpoint} is answered; only agents of this machine reach it")
    return Finding("ok", "port", f"{endpoint} is answered, as dialled from here")


def _ask_peer(socket: str | None) -> Finding:
    """Have a peer dial the agent; if none is linked with it, the agent links itself to one first."""
    try:
        with connected(socket, timeout_s=DIAL_S) as client:
            return check_dial_back(client.query("dial_back", timeout_s=DIAL_BACK_S))
    except MeshError as error:
        if NO_OTHER in str(error):
            return Finding("ok", "dial back", f"not tried: {NO_OTHER}")
        return Finding("warn", "dial back", f"no peer could be asked: {error}", "see `mesh links` and the agent's log")


def check_dial_back(answer: Mapping[str, Any]) -> Finding:
    """Judge what a peer says of dialling this agent."""
    peer, address, text = answer["peer"], answer["address"], answer["text"]
    if answer["reached"]:
        return Finding("ok", "dial back", f"{peer} reaches this agent at {address}")
    port = address.rpartition(":")[2]
    if "you meant" in text or "fleet" in text:
        advice = "another agent answers there: mend advertise, or where NAT leads that address and advertise_port"
    else:
        advice = f"let TCP port {port} in at this machine's firewall and those on the way; behind NAT set advertise and"
        advice += " advertise_port to what leads here"
    return Finding("fail", "dial back", f"{peer} does not reach this agent at {address}: {text}", advice)
