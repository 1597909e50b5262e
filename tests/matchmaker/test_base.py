"""How snapshots are made."""

from mesh.core.catalogue import Health
from mesh.matchmaker.base import snapshot
from tests.matchmaker.worlds import ORDERS, agent, instance


def test_the_order_of_what_was_found_does_not_matter() -> None:
    found = [instance(agent(node), session) for node in ("b", "a") for session in (2, 1)]
    assert snapshot(ORDERS, found) == snapshot(ORDERS, reversed(found))
    assert [("a", 1), ("a", 2), ("b", 1), ("b", 2)] == [
        (one.agent.node, one.session) for one in snapshot(ORDERS, found).instances
    ]


def test_indexes_are_equal_exactly_when_nothing_changed() -> None:
    variants = [
        [],
        [instance(agent())],
        [instance(agent(), 2)],
        [instance(agent(incarnation=2))],
        [instance(agent(), server="other")],
        [type(instance(agent()))("", "orders", "srv", 1, agent(), Health.WARNING)],
    ]
    indexes = [snapshot(ORDERS, found).index for found in variants]
    assert len(variants) == len(set(indexes))
    assert indexes == [snapshot(ORDERS, found).index for found in variants]
    assert all(0 < index < 1 << 63 for index in indexes)


def test_of_two_entries_for_one_instance_the_later_incarnation_counts() -> None:
    old, new = instance(agent(incarnation=1)), instance(agent(incarnation=2))
    assert (new,) == snapshot(ORDERS, [old, new]).instances == snapshot(ORDERS, [new, old]).instances
