"""Tables made of reports."""

from typing import Any

import pytest
from rich.console import Console, RenderableType

from mesh.cli.tables import links_table, seconds, size, status_view, topics_table, why_of
from tests.cli.fakes import LINK, STATUS

TOPIC: dict[str, Any] = {
    "topic": "words",
    "namespace": "",
    "hot": True,
    "pin": None,
    "rate": 12.34,
    "known": True,
    "waiting": 2,
    "instances": [
        {"node": "n1", "server": "w1", "endpoint": "h:1", "health": "passing", "local": True, "hidden": False},
        {"node": "n2", "server": "w2", "endpoint": "h:2", "health": "warning", "local": False, "hidden": True},
    ],
    "absent": ["n3/w3"],
}


def lines(renderable: RenderableType) -> list[str]:
    """What a wide terminal without colours shows, its columns apart by one space."""
    console = Console(width=300, no_color=True, force_terminal=False)
    with console.capture() as captured:
        console.print(renderable)
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def test_a_link_is_a_line_with_everything() -> None:
    _, line = lines(links_table([LINK]))
    assert "n2 persistent words hot 12.3/s 0.31 ms 0.1 s ago 1 min 15 s 10 11 2.0 KiB 100 B" == line


def test_no_links_are_said_so() -> None:
    assert ["no links: this agent talks to no other now"] == lines(links_table([]))


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"phase": "draining"}, "n2 persistent draining"),
        ({"condition": "suspect"}, "n2 persistent suspect"),
        ({"kind": "ephemeral"}, "n2 ephemeral"),
        ({"rtt_ms": None}, "- 0.1 s ago"),
        ({"peer": "[red]n2"}, "[red]n2 persistent"),
    ],
)
def test_what_is_odd_about_a_link_is_shown(changes: dict[str, Any], shown: str) -> None:
    assert shown in lines(links_table([LINK | changes]))[1]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, "words hot 12.3/s"),
        ({"topics": [{"topic": "w", "hot": False, "pin": "cold", "rate": 0.0}]}, "w pinned cold"),
        ({"topics": [], "leases": 2, "kept_by": []}, "2 in flight"),
        ({"topics": [], "kept_by": ["them"]}, "hot for the peer"),
        ({"topics": [], "kept_by": []}, "idle"),
    ],
)
def test_a_link_has_a_reason(changes: dict[str, Any], why: str) -> None:
    assert why == why_of(LINK | changes)


def test_a_topic_has_a_line_for_each_instance() -> None:
    expected = [
        "TOPIC HEAT RATE WAITING SERVED BY AT HEALTH",
        "words hot 12.3/s 2 n1/w1 this agent ok",
        "n2/w2 h:2 warning, left out",
        "n3/w3 absent",
    ]
    assert expected == lines(topics_table([TOPIC]))


def test_a_topic_that_nobody_serves_says_whether_that_is_certain() -> None:
    alone = TOPIC | {"instances": [], "absent": [], "pin": "hot", "namespace": "blue"}
    assert "blue|words hot (pinned hot) 12.3/s 2 nobody" == lines(topics_table([alone]))[1]
    assert "being looked up" in lines(topics_table([alone | {"known": False}]))[1]
    assert lines(topics_table([]))[0].startswith("no topics")


def test_a_status_is_a_page() -> None:
    shown = lines(status_view(STATUS))
    assert "node n1 of fleet default, incarnation 1800000000000" == shown[0]
    assert "state serving" == shown[1]
    assert "matchmaker sqlite, reachable, 2 of 2 registered, 1 topics watched" in shown
    assert "web 7 attached 1 (64 B) words@w[1]" == shown[-1]


def test_a_status_says_what_is_wrong() -> None:
    away = STATUS["matchmaker"] | {"reachable": False, "away_s": 90.0, "problem": "refused [x]"}
    shown = lines(status_view(STATUS | {"draining": True, "matchmaker": away, "apps": []}))
    assert "state draining" in shown
    assert "matchmaker sqlite, away for 1 min 30 s: refused [x]; 2 of 2 registered, 1 topics watched" in shown
    assert "no apps" == shown[-1]
    assert "health passing: 3 links" in shown
    assert "topology 2 edges told, all of the fleet drawn by this agent" in shown
    untold = {"edges": 2, "keeper": False, "problem": "no [right]"}
    ill = {"status": "critical", "why": "its loop lags"}
    shown = lines(status_view(STATUS | {"topology": untold, "health": ill}))
    assert "health critical: its loop lags" in shown
    assert "topology not told: no [right]" in shown
    unknown = STATUS["matchmaker"] | {"reachable": None, "registered": 0}
    shown = lines(status_view(STATUS | {"matchmaker": unknown}))
    assert "matchmaker sqlite, has not answered yet, 0 of 2 registered, 1 topics watched" in shown


def test_a_status_without_the_shells_facts_is_shown_too() -> None:
    assert "n1" in lines(status_view({name: value for name, value in STATUS.items() if name != "pid"}))[0]


@pytest.mark.parametrize(
    ("count", "text"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (75, "1 min 15 s"), (7320, "2 h 2 min"), (180000, "2 d 2 h")]
)
def test_durations_have_two_units(count: float, text: str) -> None:
    assert text == seconds(count)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3072.0 GiB")]
)
def test_sizes_have_a_unit_that_keeps_them_short(count: int, text: str) -> None:
    assert text == size(count)


def test_a_status_says_what_its_policy_refused() -> None:
    assert "policy" not in " ".join(lines(status_view(STATUS)))
    policy = {"default": "deny", "rules": 3, "refused": {f"r{n}": n for n in range(7)}}
    assert (
        "policy 3 rules, default deny; r6 refused 6, r5 refused 5, r4 refused 4, r3 refused 3, r2 refused 2, 2 more"
        in (lines(status_view(STATUS | {"policy": policy})))
    )
    quiet = {"default": "deny", "rules": 0, "refused": {}}
    assert "policy 0 rules, default deny; nothing was refused" in lines(status_view(STATUS | {"policy": quiet}))


def test_a_status_says_by_which_key_links_are_secured_and_who_was_refused() -> None:
    assert "security links are neither encrypted nor proven: curve is off" in lines(status_view(STATUS))
    keys = {"curve": True, "key": "k[b]", "valid_until": "2027-01-01 00:00:00Z", "revoked": 2, "revocations": 1}
    refused = {"at": 1.0, "peer": "m", "address": "192.0.2.1:7", "why": "'m' showed no certificate"}
    shown = lines(status_view(STATUS | {"security": keys, "refused": [refused]}))
    assert "security CURVE, key k[b]…, certificate until 2027-01-01 00:00:00Z, 2 keys revoked by list 1" in shown
    told = lines(status_view(STATUS | {"security": keys | {"problem": "is [older]"}}))
    assert "what was published is not seen or refused: is [older]" in " ".join(told)
    assert any(line.endswith("m at 192.0.2.1:7: 'm' showed no certificate") for line in shown)
