"""Keys on disk: loose ones are refused, each mistake is said with its file, and a pair changes with one file."""

import time
from pathlib import Path

import pytest

from mesh.errors import ConfigError
from mesh.security import store
from mesh.security.certificates import REVOKED_MAX, Revocations, sign
from mesh.security.forms import write_line
from tests.system.keyring import Keyring

NOW = time.time()


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    made = Keyring(tmp_path)
    made.enrol("n1")
    return made


def load(keyring: Keyring, node: str = "n1", fleet: str = "default") -> store.NodeKeys:
    return store.load(keyring.node("n1"), node, fleet, time.time())


def wrong(keyring: Keyring, node: str = "n1", fleet: str = "default") -> str:
    with pytest.raises(ConfigError) as raised:
        load(keyring, node, fleet)
    return str(raised.value)


def test_signed_keys_are_loaded(keyring: Keyring) -> None:
    keys = load(keyring)
    assert keyring.key_of("n1") == keys.secret.public_key == keys.certificate.public_key
    assert (keyring.secret.public.key,) == keys.trusted
    assert (0, ()) == (keys.revocations.number, keys.revocations.keys)


def test_everything_is_made_for_its_user_alone(keyring: Keyring) -> None:
    for directory in (keyring.fleet, keyring.node("n1")):
        assert 0o700 == directory.stat().st_mode & 0o777
        assert {0o600} == {path.stat().st_mode & 0o777 for path in directory.iterdir()}


@pytest.mark.parametrize(
    ("path", "mode", "why"),
    [
        ("", 0o750, "is open to others (mode 0750): chmod 700 "),
        ("node.key", 0o640, "may be read by others (mode 0640): chmod 600 "),
    ],
)
def test_what_others_may_read_is_refused(keyring: Keyring, path: str, mode: int, why: str) -> None:
    (keyring.node("n1") / path).chmod(mode)
    assert why in wrong(keyring)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("node.key", "mesh keys generate"),
        ("node.certificate", "mesh keys sign"),
        ("fleet.public", "mesh keys sign"),
        ("revoked", "mesh keys sign"),
    ],
)
def test_what_is_missing_or_damaged_is_said_with_what_makes_it(keyring: Keyring, name: str, hint: str) -> None:
    path = keyring.node("n1") / name
    for content in ("heartmesh nonsense AAAA\n", "\xff"):
        path.write_text(content, encoding="latin-1")
        assert str(path) in wrong(keyring)
    path.write_text("x" * ((1 << 20) + 1))
    assert "is larger than" in wrong(keyring)
    path.unlink()
    text = wrong(keyring)
    assert str(path) in text
    assert hint in text


def test_without_a_directory_the_command_that_makes_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mesh keys generate"):
        store.load(tmp_path / "none", "n1", "default", NOW)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is not a directory"):
        store.load(tmp_path / "file", "n1", "default", NOW)


def test_keys_of_another_node_or_fleet_or_of_no_pair_are_refused(keyring: Keyring) -> None:
    assert "is of node 'n1', and this agent is 'n2'" in wrong(keyring, node="n2")
    assert "is of fleet 'default', and this agent is of 'prod'" in wrong(keyring, fleet="prod")
    keyring.show("n1", keyring.certificate("n1", "k" * 40))
    assert "is for a key that is not in" in wrong(keyring)
    keyring.show("n1", keyring.certificate("n1", keyring.key_of("n1"), -120, -60))
    assert "holds a certificate that expired" in wrong(keyring)


def test_revocations_of_another_fleet_are_refused(keyring: Keyring, tmp_path: Path) -> None:
    other = Keyring(tmp_path / "other")
    (keyring.node("n1") / "revoked").write_bytes((other.fleet / "revoked").read_bytes())
    assert "is signed by no key of this fleet" in wrong(keyring)


def test_a_node_changes_its_pair_when_the_next_one_is_signed(keyring: Keyring) -> None:
    used = []
    for _ in range(3):
        used.append(load(keyring).secret)
        request = store.renew_node(keyring.node("n1"))
        assert used[-1] == load(keyring).secret
        store.certify(keyring.fleet, request, keyring.node("n1"), days=1, roles=("r",), unix_s=time.time())
        assert request.public_key == load(keyring).secret.public_key
        assert ("r",) == load(keyring).certificate.roles
    assert 3 == len({secret.public_key for secret in used})


def test_a_pair_that_was_never_signed_is_not_changed(tmp_path: Path) -> None:
    store.make_node(tmp_path / "n1", "n1")
    with pytest.raises(ConfigError, match="has no signed key pair yet"):
        store.renew_node(tmp_path / "n1")
    (tmp_path / "n1" / "node.certificate").write_text(write_line("certificate", b"none"))
    with pytest.raises(ConfigError, match="node.certificate"):
        store.renew_node(tmp_path / "n1")


def test_nothing_that_is_there_is_made_anew(keyring: Keyring) -> None:
    with pytest.raises(ConfigError, match="is there already"):
        store.make_node(keyring.node("n1"), "n1")
    with pytest.raises(ConfigError, match="is there already"):
        store.make_fleet(keyring.fleet, "default")


def test_names_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="node id"):
        store.make_node(tmp_path / "n", "a b")
    with pytest.raises(ConfigError, match="fleet"):
        store.make_fleet(tmp_path / "f", "")


def test_a_node_is_revoked_with_all_its_keys_and_none_of_them_is_signed_again(keyring: Keyring) -> None:
    keyring.rotate("n1")
    keyring.enrol("n2")
    revocations, new = store.revoke(keyring.fleet, "n1", time.time())
    assert (1, 2) == (revocations.number, len(new))
    assert keyring.key_of("n2") not in revocations.keys
    with pytest.raises(ConfigError, match="is revoked"):
        keyring.renew("n1")
    again, none = store.revoke(keyring.fleet, keyring.key_of("n1"), time.time())
    assert (2, revocations.keys, []) == (again.number, again.keys, none)
    with pytest.raises(ConfigError, match="has no certificate of a node or for a key 'n9'"):
        store.revoke(keyring.fleet, "n9", time.time())
    (keyring.node("n1") / "revoked").write_bytes((keyring.fleet / "revoked").read_bytes())
    assert "holds a revoked certificate" in wrong(keyring)


def test_the_longest_list_fits_into_a_key_of_consul_and_no_longer_one_is_signed(
    keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = Revocations("default", 1 << 40, tuple(f"{number:040}" for number in range(REVOKED_MAX)))
    text = write_line("revoked", sign(longest, keyring.secret.signer)).encode()
    assert len(text) <= store.REVOKED_BYTES_MAX
    assert longest == store.read_revocations(text, "default", [keyring.secret.public.key])
    monkeypatch.setattr(store, "REVOKED_MAX", 1)
    store.revoke(keyring.fleet, "n1", time.time())
    keyring.enrol("n2")
    with pytest.raises(ConfigError, match="would have more than 1 keys"):
        store.revoke(keyring.fleet, "n2", time.time())


def test_what_was_learned_is_kept_for_its_user_alone(keyring: Keyring, tmp_path: Path) -> None:
    assert b"" == store.kept_revocations(tmp_path)
    text = store.revocations_text(keyring.fleet)
    store.keep_revocations(tmp_path, text)
    assert (text, 0o600) == (store.kept_revocations(tmp_path), (tmp_path / "revoked").stat().st_mode & 0o777)
    with pytest.raises(ConfigError, match="cannot be written"):
        store.keep_revocations(tmp_path / "none", text)


def test_what_the_old_fleet_key_revoked_stays_so_by_the_new_one(keyring: Keyring, tmp_path: Path) -> None:
    """As docs/security.md says to change it."""
    new = Keyring(tmp_path / "new")
    keyring.enrol("n2")
    revoked, _ = store.revoke(keyring.fleet, "n1", time.time())
    both = [(each.fleet / "fleet.public").read_text() for each in (keyring, new)]
    (new.fleet / "fleet.public").write_text("".join(both))
    (new.fleet / "revoked").write_bytes((keyring.fleet / "revoked").read_bytes())
    request = store.read_request(keyring.node("n2") / store.REQUEST)
    for _ in range(2):
        store.certify(new.fleet, request, keyring.node("n2"), days=1, roles=(), unix_s=time.time())
    (keyring.node("n2") / "fleet.public").write_text(both[1])
    found = store.load(keyring.node("n2"), "n2", "default", time.time()).revocations
    assert (revoked.keys, revoked.number + 1) == (found.keys, found.number)


def test_issued_certificates_are_forgotten_when_they_have_expired(keyring: Keyring) -> None:
    request = store.read_request(keyring.node("n1") / store.REQUEST)
    later = time.time() + 31 * 86_400
    store.certify(keyring.fleet, request, keyring.node("n1"), days=1, roles=(), unix_s=later)
    issued = store.load_fleet(keyring.fleet)[2]
    assert 1 == len(issued)
    assert store.is_fleet(keyring.fleet)
    assert not store.is_fleet(keyring.node("n1"))
