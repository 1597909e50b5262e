"""Key pairs are new each time, and the public half of a fleet's key follows from the secret one."""

import zmq

from mesh.security.keys import FleetSecret, fingerprint, new_fleet, new_node


def test_a_nodes_pair_is_one_and_new_each_time() -> None:
    first, second = new_node(), new_node()
    assert first.public_key.encode() == zmq.curve_public(first.secret_key.encode())
    assert first != second
    assert first.public_key.startswith(fingerprint(first.public_key))


def test_a_fleets_public_key_verifies_what_its_secret_signed() -> None:
    secret = new_fleet("prod")
    assert secret.public == FleetSecret("prod", secret.seed).public
    secret.signer.public_key().verify(secret.signer.sign(b"this"), b"this")
