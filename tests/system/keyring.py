"""A fleet's keys for tests: one operator's directory, and a directory for each node."""

import time
from pathlib import Path
from typing import Any

from mesh.security import store
from mesh.security.certificates import Certificate, sign
from mesh.security.forms import write_line
from mesh.security.keys import Request

__all__ = ["Keyring"]

FLEET = "default"


class Keyring:
    """The keys under a directory. ``fleet``: the operator's; each node's is named by the node."""

    def __init__(self, directory: Path, fleet: str = FLEET) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.fleet = directory / "fleet"
        self.secret = store.make_fleet(self.fleet, fleet)

    def node(self, node: str) -> Path:
        """Return where a node's keys are."""
        return self.directory / f"node-{node}"

    def section(self, node: str) -> dict[str, Any]:
        """Return the configuration's section for a node that has keys."""
        return {"curve": True, "keys_dir": str(self.node(node))}

    def enrol(self, node: str) -> dict[str, Any]:
        """Make and sign a node's first keys; return the configuration's section."""
        self._certify(store.make_node(self.node(node), node))
        return self.section(node)

    def rotate(self, node: str) -> None:
        """Make and sign a node's next key pair."""
        self._certify(store.renew_node(self.node(node)))

    def renew(self, node: str) -> None:
        """Sign again for the key pair that a node has."""
        self._certify(store.read_request(self.node(node) / store.REQUEST))

    def _certify(self, request: Request) -> None:
        store.certify(self.fleet, request, self.node(request.node), days=30, roles=(), unix_s=time.time())

    def show(self, node: str, data: bytes) -> None:
        """Have a node show this as its certificate, whatever it is."""
        (self.node(node) / store.CERTIFICATE).write_text(write_line("certificate", data))

    def certificate(self, node: str, public_key: str, valid_from: int = -60, valid_until: int = 3600) -> bytes:
        """Sign what no command would: validity in seconds from now."""
        now = int(time.time())
        told = Certificate(self.secret.fleet, node, public_key, now + valid_from, now + valid_until)
        return sign(told, self.secret.signer)

    def key_of(self, node: str) -> str:
        """Return the public key that a node asked to be signed."""
        return store.read_request(self.node(node) / store.REQUEST).public_key

    def shown_by(self, node: str) -> bytes:
        """Return a node's certificate, which every peer of it has seen."""
        shown = store.load_node(self.node(node))[1]
        assert shown is not None
        return shown

    def revoke(self, node: str, *at: str) -> None:
        """Revoke a node's keys, and tell these nodes so, whose agents have to read it yet."""
        store.revoke(self.fleet, node, time.time())
        for each in at:
            (self.node(each) / "revoked").write_bytes((self.fleet / "revoked").read_bytes())
