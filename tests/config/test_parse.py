"""What a value must be, said so that it can be mended."""

from typing import Any

import pytest

from mesh.config.options import Token
from mesh.config.parse import PROBLEMS_MAX, Document, Problems, nearest, understand
from mesh.core.policy import Rule


def read(tables: dict[str, Any]) -> tuple[Document, list[str]]:
    problems = Problems()
    document = understand(tables, problems)
    return document, problems.texts


@pytest.mark.parametrize(
    ("section", "name", "value", "expected"),
    [
        ("links", "links_max", "many", " = 'many': must be an integer, not a string"),
        ("links", "links_max", True, " = true: must be an integer, not a boolean"),
        ("links", "links_max", 1.5, " = 1.5: must be an integer, not a float"),
        ("links", "links_max", 1, " = 1: must be from 2 to 100000"),
        ("links", "links_max", 1 << 200, " = (a huge number): must be from 2 to 100000"),
        ("links", "idle_close_s", [], " = […]: must be a number, not a list"),
        ("links", "idle_close_s", float("nan"), " = nan: must be from 0.05 to 86400 s"),
        ("links", "idle_close_s", float("-inf"), " = -inf: must be from 0.05 to 86400 s"),
        ("links", "chunk_bytes", 1, " = 1: must be from 1024 to 1048576 bytes"),
        ("heat", "hot_at_per_s", 0, " = 0: must be from 0.001 to 1000000 per second"),
        ("agent", "zone", {"a": 1}, " = {…}: must be a string, not a table"),
        ("agent", "zone", "z" * 4097, f" = '{'z' * 63}…: must have at most 4096 characters"),
        ("agent", "zone", "a\0b", " = 'a\\x00b': must not hold control characters"),
        ("agent", "bind", "eth0", " = 'eth0': must be a list, not a string"),
        ("agent", "bind", [], " = […]: must have from 1 to 16 items"),
        ("agent", "bind", ["lo"] * 17, " = […]: must have from 1 to 16 items"),
        ("agent", "bind", ["lo", 4], "[1] = 4: must be a string, not an integer"),
        ("agent", "log_level", "inof", " = 'inof': must be one of debug, error, info, warning; did you mean info?"),
        ("agent", "log_level", ["info"], " = […]: must be one of debug, error, info, warning"),
        ("heat", "pin", "hot", " = 'hot': must be a table, not a string"),
        ("heat", "pin", {"a": "hot", "b": 1}, ".b = 1: must be one of cold, hot"),
        (
            "policy",
            "rules",
            {"a": 1},
            ".a = 1: must be a table with effect, verbs, namespaces, topics, servers, users, "
            "groups, nodes, not an integer",
        ),
        ("policy", "rules", {"a": {}}, " = {…}: needs effect".replace(" =", ".a =")),
        (
            "policy",
            "rules",
            {"a": {"effect": "denny"}},
            ".a.effect = 'denny': must be one of allow, deny, only; did you mean deny?",
        ),
        (
            "policy",
            "rules",
            {"a": {"effect": "deny", "topcis": []}},
            ".a.topcis = […]: unknown option; did you mean topics?",
        ),
        (
            "policy",
            "rules",
            {"a": {"effect": "deny", "zz": 1}},
            ".a.zz = 1: unknown option; known are effect, verbs, namespaces, topics, servers, users, groups, nodes",
        ),
        (
            "policy",
            "rules",
            {"a": {"effect": "deny", "verbs": ["send"]}},
            ".a.verbs[0] = 'send': must be one of call, cast, fanout, serve",
        ),
        (
            "policy",
            "rules",
            {"a": {"effect": "deny", "topics": ["b", 1]}},
            ".a.topics[1] = 1: must be a string, not an integer",
        ),
        ("policy", "rules", {str(n): {} for n in range(1025)}, " = {…}: must have at most 1024 entries"),
    ],
)
def test_a_wrong_value_is_said_with_what_it_must_be(section: str, name: str, value: object, expected: str) -> None:
    document, problems = read({section: {name: value}})
    assert [f"[{section}] {name}{expected}"] == problems
    assert {} == document.values


def test_right_values_are_taken_in_the_options_own_type() -> None:
    tables = {"agent": {"bind": ["lo"]}, "links": {"idle_close_s": 7}, "heat": {"pin": {"a": "hot"}}}
    document, problems = read(tables)
    assert [] == problems
    assert {
        ("agent", "bind"): ("lo",),
        ("links", "idle_close_s"): 7.0,
        ("heat", "pin"): {"a": "hot"},
    } == document.values
    assert float is type(document.values["links", "idle_close_s"])


def test_all_that_is_wrong_with_rules_is_said_at_once_and_right_ones_are_structs() -> None:
    _, problems = read({"policy": {"rules": {"a": {"topics": 1}, "b": {"effect": 2, "x": 3}}}})
    assert 4 == len(problems), problems
    rules = {"a": {"effect": "deny", "topics": ["x"]}}
    document, problems = read({"policy": {"rules": rules, "tokens": {"web": {"file": "/t"}}}})
    assert [] == problems
    assert {"a": Rule("deny", topics=("x",))} == document.values["policy", "rules"]
    assert {"web": Token("/t")} == document.values["policy", "tokens"]


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"agents": {}}, "[agents]: unknown section; did you mean [agent]?"),
        ({"zzz": {}}, "[zzz]: unknown section; there are agent, heartbeat, links, heat, directory, routing, delivery,"),
        ({"links_max": 4}, "links_max: unknown option; it belongs in [links]"),
        ({"presets": "lan"}, "presets: unknown option; did you mean preset?"),
        ({"preset": 1}, "preset = 1: must be one of local, lan, wan"),
        ({"heat": 1}, "heat must be a table of options: [heat]"),
        ({"matchmaker": {"sqlite": 1}}, "matchmaker.sqlite must be a table of options: [matchmaker.sqlite]"),
        ({"matchmaker": {"zk": {}}}, "[matchmaker] zk: unknown option; known are kind, refresh_s, "),
        ({"heat": {"dwel_s": 1}}, "[heat] dwel_s: unknown option; did you mean dwell_s?"),
        ({"heat": {"drain_s": 1}}, "[heat] drain_s: unknown option; it belongs in [links]"),
        (
            {"heat": {"new\nline": 1}},
            "[heat] new\N{REPLACEMENT CHARACTER}line: unknown option; known are hot_at_per_s,",
        ),
    ],
)
def test_an_unknown_name_comes_with_the_one_that_was_meant(tables: dict[str, Any], expected: str) -> None:
    document, problems = read(tables)
    assert [True] == [problem.startswith(expected) for problem in problems]
    assert {} == document.values


def test_sections_within_sections_are_read() -> None:
    document, problems = read({"matchmaker": {"kind": "consul", "consul": {"ttl_s": 20}}})
    assert [] == problems
    assert {("matchmaker", "kind"): "consul", ("matchmaker.consul", "ttl_s"): 20.0} == document.values
    assert {"matchmaker", "matchmaker.consul"} == document.sections


def test_problems_are_counted_up_to_a_limit() -> None:
    problems = Problems()
    for number in range(PROBLEMS_MAX):
        problems.of(("heat", str(number)), ": wrong")
    assert not problems.full
    problems.add("one more")
    problems.add("and another")
    assert problems.full
    assert "and more: mend these first" == problems.texts[-1]
    assert PROBLEMS_MAX + 1 == len(problems.texts)


def test_problems_know_which_options_they_are_about() -> None:
    problems = Problems()
    problems.of(("heat", "pin"), ": wrong")
    assert problems.touch([("heat", "dwell_s"), ("heat", "pin")])
    assert not problems.touch([("heat", "dwell_s")])


def test_a_long_name_is_compared_by_its_beginning() -> None:
    assert nearest("dwell_s" + "x" * 1_000_000, ["dwell_s"]) is None
    assert "dwell_s" == nearest("dwel_s", ["half_life_s", "dwell_s"])
