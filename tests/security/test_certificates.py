"""Certificates: what the fleet's key signed holds, within its validity, for its fleet, until it is revoked."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.security.certificates import Certificate, Revocations, later, moment, open_revocations, peek, sign, verify
from mesh.security.keys import new_fleet

FLEET, OTHER = new_fleet("prod"), new_fleet("prod")
TRUSTED = (FLEET.public.key,)
KEY = "k" * 40
TOLD = Certificate("prod", "n1", KEY, 1000, 2000, ("topology_keeper",))
SHOWN = sign(TOLD, FLEET.signer)


def test_what_was_signed_is_what_is_told_within_its_validity() -> None:
    for unix_s in (1000, 1500.5, 2000):
        assert TOLD == verify(SHOWN, "prod", TRUSTED, (), unix_s)
    assert TOLD == peek(SHOWN)


def test_either_of_two_fleet_keys_counts_while_the_fleets_key_changes() -> None:
    assert TOLD == verify(SHOWN, "prod", (OTHER.public.key, *TRUSTED), (), 1500)


@pytest.mark.parametrize(
    ("shown", "fleet", "revoked", "unix_s", "why"),
    [
        (b"", "prod", (), 1500, "no certificate"),
        (b"\xc1", "prod", (), 1500, "a certificate that cannot be read"),
        (b"x" * 4097, "prod", (), 1500, "a certificate of 4097 bytes, over 4096"),
        (
            sign(TOLD, OTHER.signer),
            "prod",
            (),
            1500,
            "a certificate that no key of this fleet has signed",
        ),
        (SHOWN, "staging", (), 1500, "a certificate of another fleet (it says node 'n1' of fleet 'prod')"),
        (SHOWN, "prod", (), 999, "a certificate that is valid only from 1970-01-01 00:16:40Z"),
        (SHOWN, "prod", (), 2001, "a certificate that expired at 1970-01-01 00:33:20Z"),
        (SHOWN, "prod", (KEY,), 1500, "a revoked certificate (it says node 'n1'"),
    ],
)
def test_what_does_not_hold_is_said(
    shown: bytes, fleet: str, revoked: tuple[str, ...], unix_s: float, why: str
) -> None:
    with pytest.raises(ValueError, match="certificate") as raised:
        verify(shown, fleet, TRUSTED, revoked, unix_s)
    assert str(raised.value).startswith(why)


@given(st.integers(0, len(SHOWN) - 1), st.integers(1, 255))
def test_no_byte_of_a_certificate_can_be_changed(at: int, by: int) -> None:
    changed = bytearray(SHOWN)
    changed[at] ^= by
    with pytest.raises(ValueError):
        verify(bytes(changed), "prod", TRUSTED, (), 1500)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        verify(data, "prod", TRUSTED, (), 1500)
    with pytest.raises(ValueError):
        open_revocations(data, "prod", TRUSTED)


def test_revocations_are_read_and_those_of_others_are_not() -> None:
    told = Revocations("prod", 3, (KEY,))
    assert told == open_revocations(sign(told, FLEET.signer), "prod", TRUSTED)
    with pytest.raises(ValueError, match="signed by no key of this fleet"):
        open_revocations(sign(told, OTHER.signer), "prod", TRUSTED)
    with pytest.raises(ValueError, match="is of fleet 'prod', this is 'staging'"):
        open_revocations(sign(told, FLEET.signer), "staging", TRUSTED)


def test_the_later_list_counts_and_of_two_with_one_number_both_do() -> None:
    held = Revocations("prod", 3, ("b", "a"))
    assert Revocations("prod", 4, ()) == later(held, Revocations("prod", 4, ()))
    assert held == later(held, Revocations("prod", 3, ("a",)))
    assert Revocations("prod", 3, ("b", "a", "c")) == later(held, Revocations("prod", 3, ("a", "c")))
    with pytest.raises(ValueError, match="is number 2, older than number 3 in use"):
        later(held, Revocations("prod", 2, ("a", "b", "c")))


def test_a_signature_for_one_thing_does_not_hold_for_another() -> None:
    """A certificate's bytes, read as revocations, would have the same fields, were they not signed as what they are."""
    payload, signature = msgspec.msgpack.decode(SHOWN)
    revocations = msgspec.msgpack.encode(Revocations("prod", 1, ()))
    with pytest.raises(ValueError):
        open_revocations(msgspec.msgpack.encode([revocations, signature]), "prod", TRUSTED)
    with pytest.raises(ValueError):
        open_revocations(msgspec.msgpack.encode([payload, signature]), "prod", TRUSTED)


def test_moments_are_told_in_utc() -> None:
    assert "1970-01-02 00:00:00Z" == moment(86_400)
