"""What the topology in Consul's UI is made of, from who calls whom."""

from typing import Any

import pytest

from mesh.core.edges import EDGES_MAX, Caller, Edge
from mesh.matchmaker.picture import (
    IntentionChange,
    decode,
    encode,
    intention_changes,
    pair,
    proxies,
    proxy,
    upstreams,
)

WEB, ORDERS, STOCK = "heartmesh-app-web", "heartmesh-topic-orders", "heartmesh-topic-stock"
CHAIN = [(WEB, ORDERS), (ORDERS, STOCK)]
MARK = "heartmesh: seen in fleet f"


def ours(name: str) -> dict[str, Any]:
    return {"Name": name, "Action": "allow", "Description": MARK}


def entry(name: str, *sources: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"Kind": "service-intentions", "Name": name, "Sources": list(sources), "Meta": {"heartmesh": "f"}} | more


def test_edges_have_the_names_of_services() -> None:
    assert (WEB, ORDERS) == pair("default", Edge(Caller("", "web", True), "orders"))
    assert (ORDERS, STOCK) == pair("default", Edge(Caller("", "orders"), "stock"))
    assert pair("other", Edge(Caller("", "web", True), "orders")) != (WEB, ORDERS)


def test_what_an_agent_writes_can_be_read() -> None:
    assert sorted(CHAIN) == decode(encode([*CHAIN, *CHAIN]))
    assert [] == decode(encode([]))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no",
        b'[["heartmesh-app-web"]]',
        b'[["heartmesh-app-web", 1]]',
        b'[["web", "heartmesh-topic-orders"]]',
        b'[["heartmesh-app-web", "heartmesh-topic-*"]]',
        b'[["heartmesh-app-web", "heartmesh-topic-' + b"x" * 60 + b'"]]',
        b"[" + b",".join([b'["heartmesh-app-web", "heartmesh-topic-orders"]'] * (EDGES_MAX + 1)) + b"]",
    ],
)
def test_what_is_no_list_of_edges_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode(data)


def test_every_service_at_an_end_of_an_edge_has_one_proxy() -> None:
    assert {WEB: (ORDERS,), ORDERS: (STOCK,), STOCK: ()} == proxies(CHAIN)
    assert {} == proxies([])


def test_a_proxy_is_read_as_it_was_written() -> None:
    assert {"heartmesh-proxy-app-web": (WEB, (ORDERS, STOCK))} == upstreams([proxy(WEB, (ORDERS, STOCK))])
    assert {"odd": ("", ())} == upstreams([{"ID": "odd"}])


def test_each_edge_is_allowed_by_name_once() -> None:
    assert [
        IntentionChange(ORDERS, entry(ORDERS, ours(WEB)), 0),
        IntentionChange(STOCK, entry(STOCK, ours(ORDERS)), 0),
    ] == intention_changes([], CHAIN, "f")
    assert [] == intention_changes([entry(ORDERS, ours(WEB)), entry(STOCK, ours(ORDERS))], CHAIN, "f")


def test_what_no_edge_needs_any_more_is_removed_and_an_entry_without_any_deleted() -> None:
    found = [entry(ORDERS, ours(WEB), ours(STOCK), ModifyIndex=7), entry(STOCK, ours(ORDERS), ModifyIndex=9)]
    assert [
        IntentionChange(ORDERS, entry(ORDERS, ours(WEB)), 7),
        IntentionChange(STOCK, None, 9),
    ] == intention_changes(found, [(WEB, ORDERS)], "f")


def test_what_an_operator_wrote_stays_and_counts() -> None:
    denied = {"Name": WEB, "Action": "deny", "Precedence": 9}
    flipped = ours(WEB) | {"Action": "deny"}
    of_theirs = entry(STOCK, {"Name": "other", "Action": "allow"}, Meta={"by": "them"}, ModifyIndex=3)
    for source in (denied, flipped):
        found = [entry(ORDERS, source), of_theirs]
        assert [
            IntentionChange(STOCK, entry(STOCK, *of_theirs["Sources"], ours(ORDERS), Meta={"by": "them"}), 3)
        ] == intention_changes(found, CHAIN, "f")
        assert [] == intention_changes(found, [], "f")
    assert [] == intention_changes([entry(ORDERS, ours(WEB))], [(WEB, ORDERS)], "f")


def test_intentions_of_services_that_are_not_ours_are_left_alone() -> None:
    site = {"Kind": "service-intentions", "Name": "web", "Sources": [{"Name": "*", "Action": "deny"}]}
    assert [] == intention_changes([site, {"Kind": "service-intentions", "Name": "x"}], [], "f")
