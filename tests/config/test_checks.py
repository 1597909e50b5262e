"""What options must be to each other."""

from collections.abc import Mapping
from typing import Any

import pytest

from mesh.config.checks import CHECKS, check, descriptors_needed
from mesh.config.options import SECTIONS, Key, Token, default_of, options_of
from mesh.config.parse import Problems
from mesh.core.policy import Rule

PLENTY = 1 << 20


def problems(changed: Mapping[Key, Any], descriptors_max: int = PLENTY) -> list[str]:
    values = {
        (section, option.name): default_of(option, (section, option.name))
        for section in SECTIONS
        for option in options_of(section)
    }
    found = Problems()
    check({**values, ("agent", "node_id"): "n", ("agent", "watchdog_s"): 10.0, **changed}, descriptors_max, found)
    return found.texts


def test_the_defaults_fit_each_other() -> None:
    assert [] == problems({})


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {("heartbeat", "heartbeat_s"): 3.0},
            ["dead_after_s must be at least twice", "dead_after_s must be more than"],
        ),
        ({("heartbeat", "suspect_after_missed"): 5}, ["dead_after_s must be more than suspect_after_missed times"]),
        ({("agent", "watchdog_s"): 4.0}, ["watchdog_s must be at least dead_after_s"]),
        ({("heat", "cold_at_per_s"): 5.0}, ["cold_at_per_s must be below hot_at_per_s"]),
        (
            {("links", "chunk_bytes"): 1 << 20, ("links", "credit_bytes"): 1 << 19},
            ["chunk_bytes must be at most credit"],
        ),
        ({("links", "body_bytes_max"): 1024}, ["chunk_bytes must be at most body_bytes_max"]),
        ({("links", "redial_min_s"): 6.0}, ["redial_min_s must be at most redial_max_s"]),
        (
            {("agent", "advertise_port"): 9000, ("agent", "link_port"): 0},
            ["advertise_port needs a link_port"],
        ),
        ({("matchmaker", "refresh_s"): 5.5}, ["refresh_s must be at most a third of ttl_s"]),
        ({("matchmaker.sqlite", "ttl_s"): 9.0}, ["refresh_s must be at most a third of ttl_s"]),
        ({("heat", "pin"): {"a b": "hot"}}, ["topic 'a b' may hold only"]),
        ({("routing", "topics"): {"": "round_robin"}}, ["a topic must not be empty"]),
        ({("agent", "zone"): "rack 7"}, ["zone 'rack 7' may hold only"]),
        ({("agent", "fleet"): ""}, ["a fleet must not be empty"]),
        ({("agent", "fleet"): ".."}, ["must not hold a slash"]),
        (
            {("policy", "rules"): {"a": Rule("only"), "b": Rule("allow", topics=("x>y",))}},
            [
                "rules.a: effect = 'only' needs users",
                "rules.b: effect = 'allow' changes nothing",
                "rules.b: topics: in",
            ],
        ),
        ({("policy", "tokens"): {"web": Token("token")}}, ["tokens.web.file = 'token': must be an absolute path"]),
    ],
)
def test_what_does_not_fit_is_said_with_its_reason(changed: Mapping[Key, Any], expected: list[str]) -> None:
    found = problems(changed)
    assert len(expected) == len(found)
    assert [True] * len(found) == [part in problem for part, problem in zip(expected, found, strict=True)]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:8500",
        "ftp://consul",
        "http://",
        "http://consul:port",
        "http://ada:pw@consul",
        "http://consul/v1",
        "[",
    ],
)
def test_consuls_address_is_judged_only_where_consul_is_used(address: str) -> None:
    changed = {("matchmaker.consul", "address"): address}
    assert [] == problems(changed)
    (problem,) = problems({**changed, ("matchmaker", "kind"): "consul"})
    assert problem.startswith("[matchmaker.consul] address: must be http://HOST:PORT or https://HOST:PORT")


@pytest.mark.parametrize("address", ["http://127.0.0.1:8500", "https://consul.example", "http://[::1]:8500/"])
def test_these_are_addresses_of_consul(address: str) -> None:
    assert [] == problems({("matchmaker", "kind"): "consul", ("matchmaker.consul", "address"): address})


def test_open_files_are_counted_at_their_worst() -> None:
    assert 4 * 10 + 3 + 2 * 20 + 5 + 100 == descriptors_needed(10, 3, 20, 5, 100)


def test_an_agent_that_could_run_out_of_descriptors_is_refused() -> None:
    needed = 4 * 256 + 64 + 2 * 1000 + 100 + 128
    assert [] == problems({}, needed)
    (problem,) = problems({}, needed - 1)
    assert f"need {needed} open files (links_max = 256, " in problem
    assert f"this process may have {needed - 1}: lower them, or raise LimitNOFILE" in problem


def test_checks_name_options_that_exist() -> None:
    known = {(section, option.name) for section in SECTIONS for option in options_of(section)}
    assert [] == [key for each in CHECKS for key in each.keys if key not in known]
