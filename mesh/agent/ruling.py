"""The policy and the tokens of a reactor, read anew from the configuration's file while it runs."""

from collections.abc import Callable

from mesh.agent.people import People
from mesh.config import Config, load
from mesh.core.policy import PolicyOptions

__all__ = ["Ruling"]


class Ruling:
    """``people`` are told of other tokens, ``obey`` of other rules, and of connections to end, for they were named by
    tokens that name them no more. The rest of the file takes a restart."""

    def __init__(self, config: Config, people: People, obey: Callable[[PolicyOptions, list[int]], None]) -> None:
        self.config = config
        self.people = people
        self.obey = obey

    def read(self) -> Callable[[], str]:
        """Read the file and the tokens, which blocks; return what puts them into effect and says what that came to.

        Raises ConfigError, with everything that is wrong anywhere in the file: then the present ones stay.
        """
        config = load(self.config.path)
        tokens = config.load_tokens()

        def change() -> str:
            dropped = self.people.use(tokens)
            self.obey(config.policy, dropped)
            rules = f"{len(config.policy.rules)} rules, default {config.policy.default}; {len(tokens)} tokens"
            return f"{rules}, {len(dropped)} connections ended whose token is no more" if dropped else rules

        return change
