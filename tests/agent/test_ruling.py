"""The policy and the tokens are read anew together, or not at all."""

from pathlib import Path

import pytest

from mesh.agent.people import People
from mesh.agent.ruling import Rules, Ruling, first_rules
from mesh.config import load
from mesh.core.codec import encode
from mesh.core.policy import PolicyOptions, Rule
from mesh.core.records import AppHello
from mesh.errors import ConfigError
from mesh.security.tokens import Bearer, digest_of

pytestmark = pytest.mark.io  # the machine's interfaces are asked for

TOKEN = "0123456789abcdef"


class Agent:
    """A configuration with one rule and one token, and what came of reading it anew."""

    def __init__(self, directory: Path) -> None:
        self.token = directory / "token"
        self.token.touch(0o600)
        self.token.write_text(TOKEN)
        self.path = directory / "agent.toml"
        self.write("no")
        config = load(self.path)
        self.people = People(config.load_tokens())
        self.obeyed: list[tuple[PolicyOptions, list[int]]] = []
        self.config = config
        self.ruling = Ruling(config, directory, self.people, lambda *told: self.obeyed.append(told))

    def write(self, rule: str, more: str = "") -> None:
        self.path.write_text(
            f'[agent]\nsocket = "{self.path.parent}/s"\n[policy.tokens.web]\nfile = "{self.token}"\n'
            f'[policy.rules.{rule}]\neffect = "deny"\n{more}'
        )


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent(tmp_path)


def test_what_is_read_counts_when_it_is_put_into_effect(agent: Agent) -> None:
    agent.write("other", 'topics = ["orders"]\n')
    change = agent.ruling.read()
    assert [] == agent.obeyed
    assert "1 rules, default allow; 1 tokens" == change()
    assert [(PolicyOptions("allow", {"other": Rule("deny", topics=("orders",))}), [])] == agent.obeyed


def test_connections_end_whose_token_is_no_more(agent: Agent) -> None:
    agent.people.look(5, memoryview(encode(0, [AppHello(0, 0, 7, 1, "app", token=TOKEN.encode())])))
    agent.token.write_text("fedcba9876543210")
    assert "1 rules, default allow; 1 tokens, 1 connections ended whose token is no more" == agent.ruling.read()()
    assert [5] == agent.obeyed[0][1]


def test_what_is_broken_is_refused_whole(agent: Agent) -> None:
    for problem, more, mode in (
        ("unknown option; did you mean topics", "topcis = []\n", 0o600),
        ("chmod 600", "", 0o644),
    ):
        agent.write("no", more)
        agent.token.chmod(mode)
        with pytest.raises(ConfigError, match=problem):
            agent.ruling.read()
    assert [] == agent.obeyed


def test_a_reactor_begins_with_the_file_or_if_that_is_broken_with_what_was_in_effect_last(agent: Agent) -> None:
    notes: list[str] = []

    def first() -> Rules:
        return first_rules(agent.config, agent.path.parent, lambda name, *_, **__: notes.append(name))

    agent.write("broken", "topcis = []\n")
    with pytest.raises(ConfigError, match="did you mean topics"):
        first()
    agent.write("two")
    assert ["two"] == list(first().policy.rules)
    agent.write("three")
    agent.ruling.read()()
    agent.write("broken", "topcis = []\n")
    rules = first()
    assert (["three"], ["reload_refused"]) == (list(rules.policy.rules), notes)
    assert Bearer("web", ()) == rules.tokens.bearer(digest_of(TOKEN.encode()))
    kept = agent.path.parent / "policy.msgpack"
    assert (0o600, False) == (kept.stat().st_mode & 0o777, TOKEN.encode() in kept.read_bytes())


def test_what_cannot_be_kept_is_said(agent: Agent) -> None:
    (agent.path.parent / ".policy.msgpack").mkdir()
    assert "could not be kept for the next reactor: Is a directory" in agent.ruling.read()()
    assert 1 == len(agent.obeyed)
