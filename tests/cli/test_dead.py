"""`dead list`, `show`, `retry`, `purge`: what they ask of the agent, and what they print."""

import json
from typing import Any

from tests.cli.conftest import Run
from tests.cli.fakes import FakeClient

LETTER: dict[str, Any] = {
    "number": 7,
    "topic": "mail",
    "namespace": "",
    "server": "",
    "session": 1,
    "seq": 2,
    "bytes": 130,
    "died_at": 1_800_000_000.0,
    "reason": "poison",
    "text": "3 apps that had begun it are gone",
}


class Letters:
    """An agent with so many dead letters; ``asked`` is what was asked of it."""

    def __init__(self, count: int) -> None:
        self.numbers = list(range(1, count + 1))
        self.asked: list[tuple[str, dict[str, str]]] = []

    def __call__(self, what: str, arguments: dict[str, str]) -> object:
        self.asked.append((what, arguments))
        if what == "dead_list":
            limit = min(500, int(arguments.get("limit", 500)))
            found = [number for number in self.numbers if number > int(arguments["after"])]
            return {"dead": [LETTER | {"number": number} for number in found[:limit]], "more": len(found) > limit}
        if what == "dead_show":
            return {**LETTER, "headers": {"k": "v"}, "body_base64": "aGV5/w=="}
        asked = [int(number) for number in arguments["numbers"].split(",")]
        return {{"dead_retry": "retried", "dead_purge": "purged"}[what]: len(set(asked) & set(self.numbers))}


def client(letters: Letters) -> FakeClient:
    return FakeClient(answer=letters)


def test_the_list_has_a_line_for_each_and_says_when_there_are_more(run: Run) -> None:
    ran = run("dead", "list", "--limit", "2", client=client(Letters(3)))
    assert (0, True, True) == (ran.status, "poison" in ran.out, "there are more: --after 2" in ran.out)
    assert "no dead letters\n" == run("dead", "list", client=client(Letters(0))).out


def test_a_long_list_is_asked_for_in_pages(run: Run) -> None:
    letters = Letters(1_200)
    ran = run("dead", "list", "--limit", "1100", "--json", client=client(letters))
    told = json.loads(ran.out)
    assert (list(range(1, 1_101)), True) == ([letter["number"] for letter in told["dead"]], told["more"])
    assert ["500", "500", "100"] == [arguments["limit"] for _, arguments in letters.asked]


def test_one_is_shown_with_its_body(run: Run) -> None:
    ran = run("dead", "show", "7", client=client(Letters(9)))
    assert "reason: poison\n" in ran.out
    assert "header k: v\nbody: hey\\xff\n" in ran.out
    assert "aGV5/w==" == json.loads(run("dead", "show", "7", "--json", client=client(Letters(9))).out)["body_base64"]


def test_some_or_all_are_sent_again_or_forgotten(run: Run) -> None:
    assert (0, "retried 2\n", "") == run("dead", "retry", "1", "2", client=client(Letters(3)))
    assert (0, '{"purged": 3}\n', "") == run("dead", "purge", "--all", "--json", client=client(Letters(3)))
    letters = Letters(1_200)
    assert "purged 1200\n" == run("dead", "purge", "--all", client=client(letters)).out
    assert 3 == sum(what == "dead_purge" for what, _ in letters.asked)
    assert "retried 0\n" == run("dead", "retry", "--all", client=client(Letters(0))).out


def test_those_that_are_not_there_make_it_fail(run: Run) -> None:
    assert (1, "purged 1\n", "") == run("dead", "purge", "1", "99", client=client(Letters(3)))


def test_which_ones_has_to_be_said(run: Run) -> None:
    for arguments in ((), ("--all", "1")):
        ran = run("dead", "purge", *arguments, client=client(Letters(3)))
        assert 2 == ran.status
        assert "--all" in ran.err
