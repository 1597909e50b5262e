"""Reading anew: everything is read before anything is put into effect."""

from collections.abc import Callable
from typing import Any

from mesh.agent.reloading import Reloading
from mesh.errors import ConfigError


def in_place(verb: Callable[..., Any]) -> Any:
    return verb()


def test_every_part_is_put_into_effect_and_says_what_it_came_to() -> None:
    notes: list[tuple[str, dict[str, Any]]] = []
    applied: list[str] = []

    def reader(name: str) -> Callable[[], Callable[[], str]]:
        def apply() -> str:
            applied.append(name)
            return f"{name} is new"

        return lambda: apply

    readers = {"keys": reader("keys"), "others": reader("others")}
    reloading = Reloading(readers, in_place, lambda name, level, **facts: notes.append((name, facts)))
    told = {"keys": "keys is new", "others": "others is new"}
    assert (True, told) == reloading.reload()
    assert ([("reloaded", told)], ["keys", "others"]) == (notes, applied)


def test_a_part_that_cannot_be_read_leaves_all_as_it_was() -> None:
    notes: list[str] = []

    def broken() -> Callable[[], str]:
        raise ConfigError(["is damaged"], "node.key")

    def apply() -> str:
        raise AssertionError("nothing may be put into effect")

    reloading = Reloading(
        {"keys": lambda: apply, "others": broken}, in_place, lambda name, *_, **__: notes.append(name)
    )
    ok, why = reloading.reload()
    assert (False, ["reload_refused"]) == (ok, notes)
    assert str(why).startswith("nothing was changed: node.key")
