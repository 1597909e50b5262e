"""The guard: what the first message of a connection proves, and keys that change meanwhile."""

import time
from pathlib import Path
from typing import Any

import pytest

from mesh.agent.guard import Guard
from mesh.config import Config, load
from mesh.core.codec import encode
from mesh.core.identity import Proof
from mesh.core.records import Ping, Refuse
from mesh.errors import ConfigError
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

        return Guard(self.config, keys, lambda: 100.0, note, proven, self.trusted.append, self.renewed.append)

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
