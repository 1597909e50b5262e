"""The guard: what the first message of a connection proves, and keys that change meanwhile."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mesh.agent.guard import Guard
from mesh.config import Config, load
from mesh.core.codec import encode
from mesh.core.identity import Proof
from mesh.core.records import Ping, Refuse
from mesh.errors import ConfigError
from mesh.security import store
from mesh.security.certificates import Revocations, sign
from mesh.security.forms import write_line
from mesh.security.store import NodeKeys
from tests.system.agents import toml
from tests.system.keyring import Keyring


class Desk:
    """A guard of node a, and what it told. The node's clock stands at 100."""

    def __init__(self, directory: Path) -> None:
        self.keyring = Keyring(directory / "keys")
        self.proofs: list[tuple[int, Proof]] = []
        self.trusted: list[NodeKeys] = []
        self.renewed: list[str] = []
        self.notes: list[str] = []
        self.data_dir = directory
        agent = {"node_id": "a", "data_dir": str(directory / "data"), "socket": str(directory / "s")}
        path = directory / "agent.toml"
        path.write_text(toml({"agent": agent, "security": self.keyring.enrol("a")}))
        self.config: Config = load(path, environ={})
        self.guard = self.make()

    def make(self) -> Guard:
        keys = self.config.load_keys(time.time())
        assert keys is not None

        def note(name: str, *_: Any, **__: Any) -> None:
            self.notes.append(name)

        def proven(conn: int, proof: Proof) -> None:
            self.proofs.append((conn, proof))

        tellers = proven, self.trusted.append, self.renewed.append
        return Guard(self.config, keys, None, self.data_dir, lambda: 100.0, note, *tellers)

    def posted(self) -> bytes:
        """Return the latest list, as the operator posts it."""
        return store.revocations_text(self.keyring.fleet)

    def revoked(self) -> tuple[int, object]:
        """Return how many keys count no more, and by which list."""
        return len(self.guard.revoked), self.guard.facts()["revocations"]

    def shown(self, data: bytes, key: str = "its key") -> Proof:
        """Return what a first message proves."""
        self.guard.expect(1, key)
        self.guard.look(1, data)
        conn, proof = self.proofs.pop()
        assert 1 == conn
        return proof


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def showing(certificate: bytes) -> bytes:
    return encode(0, [Refuse(6, "busy", certificate=certificate)])


def test_a_certificate_in_the_first_message_proves_whose_key_it_is(desk: Desk) -> None:
    key = desk.keyring.key_of("a")
    proof = desk.shown(showing(desk.keyring.shown_by("a")), key)
    assert (key, "a", key, "") == (proof.key, proof.node, proof.certified, proof.problem)
    assert abs(proof.until - 100 - 30 * 86_400) < 60


@pytest.mark.parametrize("data", [b"\xc1", encode(0, []), encode(0, [Ping(1)]), showing(b"")])
def test_a_first_message_without_a_certificate_proves_nothing(desk: Desk, data: bytes) -> None:
    assert Proof("its key", problem="no certificate") == desk.shown(data)


def test_only_the_first_message_is_looked_at_and_none_of_a_connection_that_is_over(desk: Desk) -> None:
    desk.guard.expect(1, "its key")
    desk.guard.forget(1)
    desk.guard.look(1, b"")
    assert ([], {}) == (desk.proofs, desk.guard.awaited)


def test_a_renewed_certificate_and_revocations_are_put_into_effect_when_both_were_read(desk: Desk) -> None:
    desk.keyring.enrol("b")
    desk.keyring.revoke("b", "a")
    apply = desk.guard.read()
    assert [] == desk.trusted
    assert "1 keys are revoked" in apply()
    assert "a revoked certificate" in desk.shown(showing(desk.keyring.shown_by("b"))).problem
    assert (1, 1) == (desk.guard.facts()["revoked"], len(desk.trusted))


def test_another_pair_is_for_the_next_reactor(desk: Desk) -> None:
    before = desk.guard.keys
    desk.keyring.rotate("a")
    assert "the reactor starts anew" in desk.guard.read()()
    assert (1, []) == (len(desk.renewed), desk.trusted)
    assert before == desk.guard.keys


def test_older_revocations_are_refused(desk: Desk) -> None:
    old = (desk.keyring.fleet / "revoked").read_bytes()
    desk.keyring.enrol("b")
    desk.keyring.revoke("b", "a")
    desk.guard.read()()
    (desk.keyring.node("a") / "revoked").write_bytes(old)
    with pytest.raises(ConfigError, match="older than number 1 in use"):
        desk.guard.read()


def test_a_certificate_that_will_expire_soon_is_noted_once_a_day(desk: Desk) -> None:
    desk.guard.facts()
    assert [] == desk.notes
    desk.keyring.show("a", desk.keyring.certificate("a", desk.keyring.key_of("a")))
    guard = desk.make()
    guard.facts()
    guard.facts()
    assert ["certificate_expires"] == desk.notes


# What is posted while the agent runs


def test_a_list_that_is_posted_counts_at_once_and_the_same_one_again_is_nothing_new(desk: Desk) -> None:
    desk.keyring.enrol("b")
    desk.keyring.revoke("b")
    told = desk.guard.learn(desk.posted())
    assert told is not None
    assert ((1, 1), (desk.keyring.key_of("b"),)) == (desk.revoked(), told.keys)
    assert [told] == [keys.revocations for keys in desk.trusted]
    assert "a revoked certificate" in desk.shown(showing(desk.keyring.shown_by("b"))).problem
    assert (None, 1) == (desk.guard.learn(desk.posted()), len(desk.trusted))


def test_a_posted_list_stays_in_effect_when_the_file_is_read_until_the_file_is_later(desk: Desk) -> None:
    for node in "bc":
        desk.keyring.enrol(node)
    desk.keyring.revoke("b")
    desk.guard.learn(desk.posted())
    assert "1 keys are revoked by list 1, which was posted later than the file's" in desk.guard.read()()
    assert ((1, 1), (1, 1)) == (desk.revoked(), (len(desk.trusted[-1].revocations.keys), 1))
    desk.keyring.revoke("c", "a")
    assert desk.guard.read()().endswith("2 keys are revoked")
    assert (2, 2) == desk.revoked()


def test_what_was_learned_is_there_for_the_next_reactor_and_the_later_of_it_and_the_file_counts(desk: Desk) -> None:
    for node in "bc":
        desk.keyring.enrol(node)
    desk.keyring.revoke("b")
    store.keep_revocations(desk.data_dir, desk.posted())
    desk.guard = desk.make()
    desk.guard.start()
    assert ((1, 1), [1]) == (desk.revoked(), [keys.revocations.number for keys in desk.trusted])
    desk.keyring.revoke("c", "a")
    desk.guard = desk.make()
    assert ((2, 2), []) == (desk.revoked(), desk.notes)
    desk.guard.stop()


def listed(desk: Desk, number: int, *keys: str, fleet: str = "", by: Keyring | None = None) -> bytes:
    """Return a list that was signed, by this fleet's key unless another's is given."""
    told = Revocations(fleet or desk.keyring.secret.fleet, number, keys)
    return write_line("revoked", sign(told, (by or desk.keyring).secret.signer)).encode()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (lambda desk: b"", "has 0 lines, and must have from 1 to 1"),
        (lambda desk: b"\xff", "is no text of ours"),
        (lambda desk: b"heartmesh revoked AAAA\n", "holds no revocations that can be read"),
        (lambda desk: b"x" * (store.REVOKED_BYTES_MAX + 1), "is larger than 524288 bytes"),
        (lambda desk: listed(desk, 9, by=Keyring(desk.data_dir / "forger")), "is signed by no key of this fleet"),
        (lambda desk: listed(desk, 9, fleet="prod"), "is of fleet 'prod', this is 'default'"),
        (lambda desk: listed(desk, 4, "k" * 40), "is number 4, older than number 5 in use"),
    ],
)
def test_a_posted_list_that_is_none_is_refused_and_the_one_of_before_stays(
    desk: Desk, text: Callable[[Desk], bytes], why: str
) -> None:
    desk.guard.learn(listed(desk, 5, "b" * 40))
    with pytest.raises(ValueError, match=why):
        desk.guard.learn(text(desk))
    assert ((1, 5), 1) == (desk.revoked(), len(desk.trusted))


def test_of_two_lists_with_one_number_both_count(desk: Desk) -> None:
    desk.guard.learn(listed(desk, 5, "b" * 40))
    assert desk.guard.learn(listed(desk, 5, "c" * 40)) is not None
    assert {"b" * 40, "c" * 40} == desk.guard.revoked
    assert desk.guard.learn(listed(desk, 5, "b" * 40)) is None


@pytest.mark.parametrize("kept", [b"heartmesh revoked AAAA\n", b"\xff"])
def test_what_was_kept_and_is_damaged_is_noted_and_the_file_counts(desk: Desk, kept: bytes) -> None:
    (desk.data_dir / store.REVOKED).write_bytes(kept)
    desk.guard = desk.make()
    assert (["revocations_refused"], (0, 0)) == (desk.notes, desk.revoked())


def test_what_a_key_signed_that_is_trusted_no_more_counts_no_more(desk: Desk) -> None:
    old = listed(desk, 5, "b" * 40)
    desk.guard.learn(old)
    other = Keyring(desk.data_dir / "other")
    shown = sign(desk.guard.keys.certificate, other.secret.signer)
    desk.keyring.show("a", shown)
    for name in ("fleet.public", "revoked"):
        (desk.keyring.node("a") / name).write_bytes((other.fleet / name).read_bytes())
    desk.guard.read()()
    assert (["revocations_refused"], (0, 0)) == (desk.notes, desk.revoked())
    with pytest.raises(ValueError, match="is signed by no key of this fleet"):
        desk.guard.learn(old)


def test_an_agent_says_that_its_own_key_was_revoked(desk: Desk) -> None:
    desk.keyring.revoke("a")
    desk.guard.learn(desk.posted())
    assert (["own_key_revoked"], 1) == (desk.notes, len(desk.trusted))
