"""Names in Consul: what DNS, an ACL prefix and other fleets ask of them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.matchmaker.names import FLEET_DEFAULT, PREFIX, agent_service, service_id, slug, topic_service
from mesh.types import TopicKey

LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
HASH = r"-[0-9a-f]{8}"
names = st.text(
    st.characters(codec="ascii", categories=("L", "N"), include_characters="_.:/-"), min_size=1, max_size=255
)


@pytest.mark.parametrize("name", ["orders", "orders-2", "a", "x" * 63])
def test_a_name_that_is_a_slug_stays(name: str) -> None:
    assert name == slug(name)


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("Orders", "orders"),
        ("orders.v2:eu/west", "orders-v2-eu-west"),
        ("a--b", "a-b"),
        ("-a", "a"),
        ("x" * 64, "x" * 54),
        ("nöde", "n-de"),
    ],
)
def test_a_name_that_is_none_becomes_one_and_a_hash(name: str, head: str) -> None:
    assert re.fullmatch(head + HASH, slug(name))


def test_a_name_without_a_letter_that_stays_is_its_hash() -> None:
    assert re.fullmatch("[0-9a-f]{8}", slug("__"))


def test_the_default_fleet_and_namespace_leave_names_as_they_are() -> None:
    assert "heartmesh-agent" == agent_service(FLEET_DEFAULT)
    assert "heartmesh-topic-orders" == topic_service(FLEET_DEFAULT, TopicKey("", "orders"))


def test_another_fleet_or_namespace_adds_a_hash() -> None:
    assert re.fullmatch("heartmesh-agent" + HASH, agent_service("lab"))
    for fleet, namespace in (("lab", ""), (FLEET_DEFAULT, "eu"), ("lab", "eu")):
        assert re.fullmatch("heartmesh-topic-orders" + HASH, topic_service(fleet, TopicKey(namespace, "orders")))


def test_names_that_consul_would_take_for_one_get_different_services() -> None:
    topics = [TopicKey(namespace, topic) for namespace in ("", "eu", "EU") for topic in ("a.b", "a-b", "A-B", "a/b")]
    scopes = [(fleet, topic) for fleet in (FLEET_DEFAULT, "lab", "Lab") for topic in topics]
    assert len(scopes) == len({topic_service(fleet, topic) for fleet, topic in scopes})


def test_an_id_says_service_node_and_slot() -> None:
    assert "heartmesh-agent:node1" == service_id("heartmesh-agent", "node1")
    assert "heartmesh-topic-orders:node1:0" == service_id("heartmesh-topic-orders", "node1", 0)


@given(fleet=names, namespace=st.just("") | names, topic=names, node=st.text(min_size=1, max_size=128))
def test_every_name_fits_dns_and_the_prefix(fleet: str, namespace: str, topic: str, node: str) -> None:
    for service in (agent_service(fleet), topic_service(fleet, TopicKey(namespace, topic))):
        assert LABEL.fullmatch(service)
        assert service.startswith(PREFIX)
        assert re.fullmatch(r"[a-z0-9:-]{1,131}", service_id(service, node, 7))
