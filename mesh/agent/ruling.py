"""The policy and the tokens of a reactor, read anew from the configuration's file while it runs.

What was put into effect last is kept in the data directory, tokens by their digests. A reactor that replaces a killed
one reads the file too; if that is broken by then it begins with what was kept: the old rules stay, though it died.
"""

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct, msgpack

from mesh.agent.people import People
from mesh.agent.reloading import RELOAD_REFUSED
from mesh.config import Config, load
from mesh.core.effects import Level
from mesh.core.policy import PolicyOptions
from mesh.errors import ConfigError
from mesh.security.tokens import Tokens

__all__ = ["Rules", "Ruling", "first_rules"]

NAME = "policy.msgpack"


class Rules(Struct, frozen=True):
    """What is in effect."""

    policy: PolicyOptions
    tokens: Tokens


def _read(config: Config) -> Rules:
    """Return what the configuration's file says now; raises ConfigError."""
    found = load(config.path)
    return Rules(found.policy, found.load_tokens())


def _keep(data_dir: Path, rules: Rules) -> str:
    """Keep what is in effect; return what is wrong with that, or nothing."""
    path, fresh = data_dir / NAME, data_dir / f".{NAME}"
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(fd, "wb") as file:
            file.write(msgpack.encode(rules))
        fresh.replace(path)
    except OSError as error:
        return f"; it could not be kept for the next reactor: {error.strerror}"
    return ""


def first_rules(config: Config, data_dir: Path, note: Callable[..., None]) -> Rules:
    """Return what a reactor begins with; raises ConfigError if the file is broken and nothing was kept."""
    try:
        rules = _read(config)
    except ConfigError as error:
        try:
            rules = msgpack.decode((data_dir / NAME).read_bytes(), type=Rules)
        except (OSError, msgspec.MsgspecError):
            raise error from None
        note(RELOAD_REFUSED, Level.ERROR, why=f"the policy of before stays: {error}")
    else:
        _keep(data_dir, rules)
    return rules


class Ruling:
    """``people`` are told of other tokens, ``obey`` of other rules, and of connections to end, for they were named by
    tokens that name them no more. The rest of the file takes a restart."""

    def __init__(
        self, config: Config, data_dir: Path, people: People, obey: Callable[[PolicyOptions, list[int]], None]
    ) -> None:
        self.config = config
        self.data_dir = data_dir
        self.people = people
        self.obey = obey

    def read(self) -> Callable[[], str]:
        """Read the file and the tokens, which blocks; return what puts them into effect and says what that came to.

        Raises ConfigError, with everything that is wrong anywhere in the file: then the present ones stay.
        """
        rules = _read(self.config)

        def change() -> str:
            dropped = self.people.use(rules.tokens)
            self.obey(rules.policy, dropped)
            policy, tokens = rules.policy, rules.tokens.held
            told = f"{len(policy.rules)} rules, default {policy.default}; {len(tokens)} tokens"
            ended = f", {len(dropped)} connections ended whose token is no more" if dropped else ""
            return f"{told}{ended}{_keep(self.data_dir, rules)}"

        return change
