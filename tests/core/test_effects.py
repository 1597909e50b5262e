"""Effects are values: they can be compared, told apart after encoding, and written into a recorder."""

import logging
from typing import get_args

import pytest
from msgspec import msgpack

from mesh.core import effects
from mesh.core.catalogue import Health
from mesh.core.effects import (
    Claim,
    CloseApp,
    CloseLink,
    Confirm,
    Effect,
    FindAgents,
    Inquire,
    Level,
    Note,
    OpenLink,
    Register,
    Renew,
    Spool,
    Stop,
    Unwatch,
    Watch,
    Withdraw,
)
from mesh.core.ledger import Commit, Done
from tests.core.builders import ORDERS, instance

EXAMPLES: list[Effect] = [
    OpenLink(1, "b", "b.example", 7700),
    CloseLink(1, 1.0),
    CloseApp(1, "drained"),
    Confirm(1, 3),
    Watch(ORDERS, fresh=True),
    Unwatch(ORDERS),
    Register(instance()),
    Claim(),
    FindAgents(),
    Renew(instance(), Health.MAINTENANCE, "draining"),
    Withdraw(instance()),
    Inquire(7, 1, "recorder", {"k": "v"}),
    Spool(Commit([Done(7, 1)])),
    Stop(78, "duplicate"),
    Note("link_lost", Level.WARNING, {"peer": "b", "after_s": 1.5}),
]


@pytest.mark.parametrize("effect", EXAMPLES, ids=lambda effect: type(effect).__name__)
def test_an_effect_is_itself_again_after_encoding(effect: Effect) -> None:
    assert effect == msgpack.decode(msgpack.encode(effect), type=Effect)


def test_every_effect_is_exported_and_has_an_example() -> None:
    kinds = {kind.__name__ for kind in get_args(Effect)}
    assert kinds == {type(example).__name__ for example in EXAMPLES}
    assert sorted({*kinds, "Effect", "Level"}) == effects.__all__


def test_an_effect_cannot_be_changed_on_its_way_out() -> None:
    with pytest.raises(AttributeError):
        EXAMPLES[0].conn = 2  # type: ignore[misc, union-attr]


def test_levels_are_those_of_the_standard_library() -> None:
    assert {level.name: int(level) for level in Level} == {
        name: getattr(logging, name) for name in ("DEBUG", "INFO", "WARNING", "ERROR")
    }
