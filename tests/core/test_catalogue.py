"""What a matchmaker stores says whom it is about, and crosses the wire unchanged."""

from mesh.core.catalogue import AgentEntry, Health, Instance
from mesh.types import Endpoint, InstanceKey, TopicKey
from tests.core.builders import copied, instance, snapshot

AGENT = AgentEntry("b", "2001:db8::1", 7700, 3)


def test_an_agent_is_reached_at_its_endpoint() -> None:
    assert Endpoint("2001:db8::1", 7700) == AGENT.endpoint
    assert "[2001:db8::1]:7700" == str(AGENT.endpoint)


def test_an_instance_is_found_by_its_topic_and_told_apart_by_its_key() -> None:
    one = Instance("blue", "orders", "srv", 9, AGENT)
    assert TopicKey("blue", "orders") == one.topic_key
    assert InstanceKey("b", "srv", 9) == one.key
    assert Health.PASSING is one.health


def test_keys_sort_by_node_then_server_then_session() -> None:
    keys = [instance("b", 2, "x").key, instance("b", 1, "y").key, instance("b", 1, "x").key, instance("a", 9, "z").key]
    assert [("a", "z", 9), ("b", "x", 1), ("b", "x", 2), ("b", "y", 1)] == sorted(keys)


def test_the_healths_are_ordered_from_good_to_worse() -> None:
    assert ["PASSING", "WARNING", "CRITICAL", "MAINTENANCE"] == [health.name for health in sorted(Health)]


def test_a_snapshot_survives_encoding() -> None:
    told = snapshot(instance("a"), instance("b", health=Health.WARNING))
    assert told == copied(told)
