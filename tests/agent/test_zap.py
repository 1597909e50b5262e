"""Secured link ports: who gets through the handshake, by what key, and that nobody does without the handler."""

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from mesh.security.keys import new_node
from tests.agent.link_ends import OPTIONS, End, until

pytestmark = pytest.mark.io


def secured() -> End:
    return End(options=replace(OPTIONS, keys=new_node(), hello_timeout_s=2.0))


@pytest.fixture
def ends() -> Iterator[tuple[End, End]]:
    """Two secured ends with keys of their own."""
    pair = secured(), secured()
    yield pair
    for end in pair:
        end.close()


def test_a_message_that_came_through_is_known_by_the_key_of_its_handshake(ends: tuple[End, End]) -> None:
    a, b = ends
    conn = a.reach(b)
    a.send(conn, b"hello")
    until(lambda: b.heard, "it is heard")
    assert [a.endpoint.public_key] == b.keys
    assert b.links.address_of(b.accepted[0]).startswith("127.0.0.1:")
    assert f"127.0.0.1:{b.endpoint.port}" == a.links.address_of(conn)
    assert "" == a.links.address_of(99)


def test_without_the_handler_nobody_gets_in(ends: tuple[End, End]) -> None:
    a, b = ends
    assert b.links.zap is not None
    b.links.zap.close()
    conn = a.dial(b)
    assert [(conn, True)] == [(lost, "handshake failed" in why) for lost, why in until(lambda: a.lost, "it is told")]
    assert [] == b.keys


def test_a_revoked_key_is_kept_out_and_both_ends_say_so(ends: tuple[End, End]) -> None:
    a, b = ends
    assert b.links.zap is not None
    b.links.zap.revoked = (a.endpoint.public_key,)
    a.dial(b)
    ((_, why),) = until(lambda: a.lost, "it is told")
    assert "it does not let this agent in" in why
    assert "its key was revoked" in b.evicted


def test_a_dial_that_means_another_key_fails_and_both_ends_say_so(ends: tuple[End, End]) -> None:
    a, b = ends
    a.dial(b.endpoint._replace(public_key=a.endpoint.public_key))
    ((_, why),) = until(lambda: a.lost, "it is told")
    assert "there is no agent with the key that the catalogue names" in why
    until(lambda: any("it means another key" in each for each in b.evicted), "the other end says so")
    assert [] == b.accepted


@pytest.mark.parametrize(("key", "expected"), [("", "its public key is not known"), ("no key", "cannot dial")])
def test_a_dial_without_a_key_or_with_none_that_is_one_is_lost_at_once(
    ends: tuple[End, End], key: str, expected: str
) -> None:
    a, b = ends
    a.dial(b.endpoint._replace(public_key=key))
    ((_, why),) = until(lambda: a.lost, "it is told")
    assert expected in why


def test_who_speaks_without_keys_does_not_get_in(ends: tuple[End, End]) -> None:
    plain = End(options=replace(OPTIONS, hello_timeout_s=2.0))
    try:
        plain.dial(ends[0])
        ((_, why),) = until(lambda: plain.lost, "it is told")
        assert why.startswith("dial failed")
        assert [] == ends[0].accepted
    finally:
        plain.close()
