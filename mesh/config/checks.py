"""What options must be to each other. Each check names its options, so that one already in trouble is not judged."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mesh.config.addresses import is_loopback, listen_address
from mesh.config.options import CONSUL, Key
from mesh.config.parse import Problems
from mesh.config.places import path_problem
from mesh.core.policy import PolicyOptions, policy_problems
from mesh.types import name_problem, node_id_problem

__all__ = [
    "CHECKS",
    "DESCRIPTORS_PER_APP",
    "DESCRIPTORS_PER_LINK",
    "Check",
    "check",
    "descriptors_needed",
    "fleet_problem",
]

DESCRIPTORS_PER_LINK = 4
"""While it is dialled: connection, socket, and two for the monitor. Afterwards two, and one for an accepted link."""

DESCRIPTORS_PER_APP = 2
"""Its connection, and the handle that tells of its process's end."""


def descriptors_needed(links_max: int, unproven_max: int, apps_max: int, watches_max: int, reserve: int) -> int:
    """Return the open files that an agent may need at once; ``LimitNOFILE`` of its unit is at least this."""
    return DESCRIPTORS_PER_LINK * links_max + unproven_max + DESCRIPTORS_PER_APP * apps_max + watches_max + reserve


class Check(NamedTuple):
    """``holds`` gets the values of ``keys``; ``rule`` says what must be, and why."""

    keys: tuple[Key, ...]
    holds: Callable[..., bool]
    rule: str


_BEAT, _DEAD = ("heartbeat", "heartbeat_s"), ("heartbeat", "dead_after_s")
_SUSPECT = ("heartbeat", "suspect_after_missed")
_CHUNK = ("links", "chunk_bytes")
_REFRESH = ("matchmaker", "refresh_s")

CHECKS = (
    Check(
        (_DEAD, _BEAT),
        lambda dead, beat: dead >= 2 * beat,
        "dead_after_s must be at least twice heartbeat_s, or one late heartbeat closes a link",
    ),
    Check(
        (_DEAD, _SUSPECT, _BEAT),
        lambda dead, missed, beat: dead > missed * beat,
        "dead_after_s must be more than suspect_after_missed times heartbeat_s, or a peer is dead before it is suspect",
    ),
    Check(
        (("agent", "watchdog_s"), _DEAD),
        lambda watchdog, dead: watchdog >= dead,
        "watchdog_s must be at least dead_after_s, or a reactor is killed that its peers still trust",
    ),
    Check(
        (("heat", "cold_at_per_s"), ("heat", "hot_at_per_s")),
        lambda cold, hot: cold < hot,
        "cold_at_per_s must be below hot_at_per_s, or links flap",
    ),
    Check(
        (_CHUNK, ("links", "credit_bytes")),
        lambda chunk, credit: chunk <= credit,
        "chunk_bytes must be at most credit_bytes, or a chunk never has credit",
    ),
    Check(
        (_CHUNK, ("links", "body_bytes_max")),
        lambda chunk, body: chunk <= body,
        "chunk_bytes must be at most body_bytes_max, for no body is larger",
    ),
    Check(
        (("topology", "interval_s"), ("topology", "session_ttl_s")),
        lambda interval, ttl: 2 * interval <= ttl,
        "session_ttl_s must be at least twice interval_s, or what a living agent told goes",
    ),
    Check(
        (("links", "redial_min_s"), ("links", "redial_max_s")),
        lambda least, most: least <= most,
        "redial_min_s must be at most redial_max_s",
    ),
    Check(
        (("agent", "advertise_port"), ("agent", "link_port")),
        lambda advertised, listened: not advertised or bool(listened),
        "advertise_port needs a link_port, for nothing can lead to a port that is drawn at each start",
    ),
)


def check(values: Mapping[Key, Any], descriptors_max: int, problems: Problems) -> None:
    """Check all options against each other and against the machine's limit of open files."""
    kind = values["matchmaker", "kind"]
    ttl = Check(
        (_REFRESH, (f"matchmaker.{kind}", "ttl_s")),
        lambda refresh, ttl: 3 * refresh <= ttl,
        "refresh_s must be at most a third of ttl_s, or a busy machine forgets the living",
    )
    for each in (*CHECKS, ttl):
        if not problems.touch(each.keys) and not each.holds(*(values[key] for key in each.keys)):
            stated = ", ".join(f"[{section}] {name} = {values[section, name]:.12g}" for section, name in each.keys)
            problems.add(f"{stated}: {each.rule}")
    _descriptors(values, descriptors_max, problems)
    _names(values, problems)
    _http(values, problems)
    _policy(values, problems)
    if kind == "consul":
        _consul_address(values, problems)


def _descriptors(values: Mapping[Key, Any], descriptors_max: int, problems: Problems) -> None:
    keys = (
        ("links", "links_max"),
        ("agent", "inbound_unproven_max"),
        ("agent", "app_connections_max"),
        ("directory", "watches_max"),
        ("agent", "descriptors_reserve"),
    )
    if problems.touch(keys):
        return
    needed = descriptors_needed(*(values[key] for key in keys))
    if needed > descriptors_max:
        stated = ", ".join(f"{name} = {values[section, name]}" for section, name in keys)
        problems.add(
            f"[links] links_max and others need {needed} open files ({stated}), and this process may have "
            f"{descriptors_max}: lower them, or raise LimitNOFILE (ulimit -Hn)"
        )


def _names(values: Mapping[Key, Any], problems: Problems) -> None:
    zone = values["agent", "zone"]
    named = [
        (("agent", "fleet"), fleet_problem(values["agent", "fleet"])),
        (("agent", "node_id"), node_id_problem(values["agent", "node_id"])),
        (("agent", "zone"), name_problem("zone", zone) if zone else None),
    ]
    for key in (("heat", "pin"), ("routing", "topics")):
        named += [(key, name_problem("topic", topic)) for topic in values[key]]
    for key, problem in [(key, problem) for key, problem in named if problem and not problems.touch([key])]:
        problems.of(key, f": {problem}")


def _http(values: Mapping[Key, Any], problems: Problems) -> None:
    key, token = ("http", "http_listen"), ("http", "http_token_file")
    listen = values[key]
    if not listen or problems.touch([key, token]):
        return
    try:
        host = listen_address(listen).host
    except ValueError as error:
        problems.of(key, f" = {listen[:64]!r}: {error}")
        return
    if not is_loopback(host) and not values[token]:
        problems.of(key, f" = {listen!r} is open to other machines: set http_token_file, or listen on 127.0.0.1")


def _policy(values: Mapping[Key, Any], problems: Problems) -> None:
    default, rules, tokens = ("policy", "default"), ("policy", "rules"), ("policy", "tokens")
    if not problems.touch([default, rules]):
        for name, problem in policy_problems(PolicyOptions(values[default], values[rules])):
            problems.of(rules, f".{name[:64]}: {problem}")
    if problems.touch([tokens]):
        return
    for name, token in values[tokens].items():
        wrong = path_problem(token.file)
        if wrong:
            problems.of(tokens, f".{name[:64]}.file = {token.file[:64]!r}: {wrong}")


def fleet_problem(fleet: str) -> str | None:
    """Return what is wrong with a fleet's name, which becomes part of paths, or None."""
    if "/" in fleet or fleet in (".", ".."):
        return f"fleet {fleet[:32]!r} must not hold a slash, nor be . or .., for directories are named by it"
    return name_problem("fleet", fleet)


def _consul_address(values: Mapping[Key, Any], problems: Problems) -> None:
    key = (CONSUL, "address")
    if problems.touch([key]):
        return
    try:
        parts = urlsplit(values[key])
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        fine = fine and parts.path in ("", "/") and not parts.query and "@" not in parts.netloc
    except ValueError:
        fine = False
    if not fine:
        problems.of(key, ": must be http://HOST:PORT or https://HOST:PORT; rights come from token_file")
