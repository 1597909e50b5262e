"""Who may call, cast, fan out to and serve what: rules, and what they make of one question.

A rule is about requests and services that match all of its ``verbs``, ``namespaces``, ``topics`` and ``servers``, and
about a `Subject`. What it leaves out it does not look at. Of its ``users`` and ``groups`` one suffices; its ``nodes``
must hold as well. Then:

* ``deny`` refuses its subjects;
* ``only`` refuses everybody else;
* ``allow`` lets its subjects, where the default is to deny.

Whatever is refused by one rule is refused: deny wins, in whatever order rules stand. The first that refuses is named.

A pattern is made of tokens parted by dots. ``*`` stands for any characters but a dot, also for none; ``>`` at the end
for one character or more, dots among them. So ``orders.*`` is one token below ``orders``, ``orders.>`` is everything
below it, ``or>`` whatever begins so, and ``>`` everything.

What is not known of a subject is left to the agent that knows: a server's agent is told the user by the caller's agent,
but no groups; a caller's agent knows the node of a server, but not whose it is.
"""

import enum
import re
from collections.abc import Iterator
from typing import Annotated, Literal, NamedTuple

from msgspec import Meta, Struct, field

__all__ = ["DEFAULT", "Law", "PolicyOptions", "Rule", "Subject", "Tally", "Verb", "policy_problems"]

DEFAULT = "default"
"""What stands for the rule's name where no rule lets somebody, and ``default`` is to deny."""

KNOWN_MAX = 16_384
"""Answers that are kept until the rules change, so that a question is thought about once."""

STARS_MAX = 2
"""Stars in one token of a pattern: with more, a name made for it would be matched for long."""

RULE_NAME_CHARS_MAX = 64
_RULE_NAME = re.compile(r"[A-Za-z0-9_.-]+")

Pattern = Annotated[str, Meta(max_length=255)]
Patterns = Annotated[tuple[Pattern, ...], Meta(max_length=256)]


Key = tuple[str | int, ...]


class Verb(enum.IntEnum):
    """What somebody wants to do with a topic; the first three are numbered as the kinds of requests are."""

    CALL = 0
    CAST = 1
    FANOUT = 2
    SERVE = 3


class Rule(Struct, frozen=True):
    """One rule of the policy, as the configuration has it."""

    effect: Literal["deny", "only", "allow"]
    verbs: Annotated[tuple[Literal["call", "cast", "fanout", "serve"], ...], Meta(max_length=4)] = ()
    namespaces: Patterns = ()
    topics: Patterns = ()
    servers: Patterns = ()
    users: Patterns = ()
    groups: Patterns = ()
    nodes: Patterns = ()


class PolicyOptions(Struct, frozen=True):
    """Which users, groups and nodes may call, cast, fan out to, or serve which topics; see security.md."""

    default: Annotated[
        Literal["allow", "deny"],
        Meta(
            description="What holds where no rule refuses. allow: whoever may connect to the app socket may do it. "
            "deny: only what a rule with effect allow lets through; safer, and every new topic needs a rule."
        ),
    ] = "allow"
    rules: Annotated[
        dict[str, Rule],
        Meta(
            max_length=1024,
            description="The rules, as tables [policy.rules.NAME] with effect (deny, only or allow) and, where they "
            "are to be looked at, verbs, and namespaces, topics, servers, users, groups and nodes, which are lists of "
            "patterns. Read anew by mesh reload and SIGHUP. More of them cost nothing for each message.",
        ),
    ] = field(default_factory=dict)


class Subject(NamedTuple):
    """Who wants something: a node, and a user and the groups there; empty: nobody is named, None: not known here."""

    node: str
    user: str | None = ""
    groups: tuple[str, ...] | None = ()


class Tally(Struct):
    """What one rule has refused. ``unnoted``: since that was noted last, which was at ``noted_at``."""

    count: int = 0
    unnoted: int = 0
    noted_at: float | None = None


def policy_problems(policy: PolicyOptions) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with rules beyond types: the rule's name, and what it is."""
    for name, rule in policy.rules.items():
        if not _RULE_NAME.fullmatch(name) or len(name) > RULE_NAME_CHARS_MAX or name == DEFAULT:
            yield name, f"a rule's name has at most {RULE_NAME_CHARS_MAX} of letters, digits and _ . -, not {DEFAULT!r}"
        if rule.effect == "only" and not (rule.users or rule.groups or rule.nodes):
            yield name, "effect = 'only' needs users, groups or nodes, or it lets nobody"
        if rule.effect == "allow" and policy.default == "allow":
            yield name, "effect = 'allow' changes nothing while default = 'allow': set default = 'deny', or use 'only'"
        for kind in ("namespaces", "topics", "servers", "users", "groups", "nodes"):
            for pattern in getattr(rule, kind):
                if ">" in pattern[:-1]:
                    yield name, f"{kind}: in {pattern!r} a > stands before the end"
                elif any(token.count("*") > STARS_MAX for token in pattern.split(".")):
                    yield name, f"{kind}: in {pattern!r} one token has more than {STARS_MAX} *"
                elif not pattern and kind != "namespaces":
                    yield name, f"{kind}: an empty pattern matches nothing"


class Law:
    """The rules, ready to be asked. ``idle``: they refuse nobody anything; ``known``: what was asked before, by short
    keys, which are found sooner than a subject with its groups."""

    def __init__(self, policy: PolicyOptions) -> None:
        self.idle = not policy.rules and policy.default == "allow"
        self._judges = [_Judge(name, rule) for name, rule in policy.rules.items()]
        self._default = policy.default
        self.known: dict[tuple[str | int, ...], str] = {}

    def learn(self, key: Key, who: Subject, verb: int, namespace: str, topic: str, server: str) -> str:
        """Answer a question, and remember that by a key that stands for all of it."""
        if len(self.known) >= KNOWN_MAX:
            self.known.clear()
        answer = self.known[key] = self.refusal(who, verb, namespace, topic, server)
        return answer

    def refusal(self, who: Subject, verb: int, namespace: str, topic: str, server: str) -> str:
        """Return the name of the rule that does not let somebody do this, or an empty string."""
        is_let = self._default == "allow"
        for judge in self._judges:
            if not judge.is_about(verb, namespace, topic, server):
                continue
            is_subject = judge.is_subject(who)
            if judge.effect == "allow":
                is_let = is_let or is_subject is not False
            elif is_subject is (judge.effect == "deny"):
                return judge.name
        return "" if is_let else DEFAULT


class _Judge:
    """One rule with its patterns compiled; None: any."""

    def __init__(self, name: str, rule: Rule) -> None:
        self.name = name
        self.effect = rule.effect
        self.verbs = tuple(int(Verb[verb.upper()]) for verb in rule.verbs) or tuple(map(int, Verb))
        self.namespaces, self.topics, self.servers = map(_compile, (rule.namespaces, rule.topics, rule.servers))
        self.users, self.groups, self.nodes = map(_compile, (rule.users, rule.groups, rule.nodes))

    def is_about(self, verb: int, namespace: str, topic: str, server: str) -> bool:
        pairs = ((self.namespaces, namespace), (self.topics, topic), (self.servers, server))
        return verb in self.verbs and all(known is None or known.fullmatch(name) for known, name in pairs)

    def is_subject(self, who: Subject) -> bool | None:
        """Return whether the rule is about somebody; None: that depends on what is not known here."""
        if self.nodes is not None and not self.nodes.fullmatch(who.node):
            return False
        if self.users is None and self.groups is None:
            return True
        if self.users is not None and who.user is not None and self.users.fullmatch(who.user):
            return True
        if self.groups is not None and any(self.groups.fullmatch(group) for group in who.groups or ()):
            return True
        is_open = (self.users is not None and who.user is None) or (self.groups is not None and who.groups is None)
        return None if is_open else False


def _compile(patterns: tuple[str, ...]) -> re.Pattern[str] | None:
    """Return what matches any of these patterns, or None for no pattern."""
    if not patterns:
        return None
    signs = {"*": "[^.]*", ">": ".+"}
    made = ("".join(signs.get(sign) or re.escape(sign) for sign in pattern) for pattern in patterns)
    return re.compile("|".join(f"(?:{one})" for one in made), re.DOTALL)
