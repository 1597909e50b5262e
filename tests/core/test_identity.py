"""Whether whoever is at the other end is the node it says: names and keys are compared."""

import pytest

from mesh.core.catalogue import AgentEntry
from mesh.core.identity import Identity, Proof, judge
from mesh.types import Endpoint


@pytest.mark.parametrize(
    ("proof", "expected"),
    [
        (Proof("key of m", "m", "key of m"), ""),
        (None, "'m' has shown nothing"),
        (Proof("key of m", problem="no certificate"), "'m' showed no certificate"),
        (Proof("key of x", "x", "key of x"), "'m' showed a certificate of 'x'"),
        (Proof("key of x", "m", "key of m"), "'m' showed a certificate for another key than the one it connected with"),
    ],
)
def test_only_who_shows_a_nodes_certificate_for_the_key_of_its_handshake_is_that_node(
    proof: Proof | None, expected: str
) -> None:
    assert expected == judge(proof, "m")


def test_what_the_matchmaker_is_told_of_a_node_has_its_public_key() -> None:
    identity = Identity("a", "sim", 7, Endpoint("a.example", 7441, "its key"))
    assert AgentEntry("a", "a.example", 7441, 7, "its key") == identity.entry
    assert identity.endpoint == identity.entry.endpoint
