"""Between the link sockets and the node, where links are secured: what the first message of each connection proves.

The node compares names and keys; here certificates are verified, which takes a library and the calendar, once for each
connection. Whose certificate the node must believe may change while the agent runs: `Guard.read` and what it returns.
"""

import time
from collections.abc import Callable

from mesh.config import Config
from mesh.core.codec import decode
from mesh.core.effects import Level
from mesh.core.identity import Proof
from mesh.core.records import Hello, Refuse, Welcome
from mesh.errors import ConfigError, ProtocolError
from mesh.security.certificates import moment, verify
from mesh.security.keys import fingerprint
from mesh.security.store import NodeKeys

__all__ = ["Guard"]

CERTIFICATE_EXPIRES = "certificate_expires"

WARN_S = 14 * 86_400
"""How long before its certificate expires an agent says so, each day."""

DAY_S = 86_400


class Guard:
    """The keys of one reactor, and the connections that have shown nothing yet.

    ``proven`` gets what the first message of a connection proves, before anybody gets that message. ``trust`` is told
    of other keys to trust, and ``renew`` that the key pair itself has changed.
    """

    def __init__(
        self,
        config: Config,
        keys: NodeKeys,
        clock: Callable[[], float],
        note: Callable[..., None],
        proven: Callable[[int, Proof], None],
        trust: Callable[[NodeKeys], None],
        renew: Callable[[str], None],
    ) -> None:
        self.config = config
        self.clock = clock
        self.note = note
        self.proven = proven
        self.trust = trust
        self.renew = renew
        self.awaited: dict[int, str] = {}
        self._use(keys)

    def _use(self, keys: NodeKeys) -> None:
        self.keys = keys
        self.revoked = frozenset(keys.revocations.keys)
        self.warn_at = float(keys.certificate.valid_until - WARN_S)

    # Connections

    def expect(self, conn: int, key: str) -> None:
        """A connection whose handshake used this public key is to show a certificate first."""
        self.awaited[conn] = key

    def forget(self, conn: int) -> None:
        """A connection is over."""
        self.awaited.pop(conn, None)

    def look(self, conn: int, data: bytes) -> None:
        """Look at a message, if it is the first of its connection."""
        key = self.awaited.pop(conn, None)
        if key is not None:
            self.proven(conn, self._proof(key, data))

    def _proof(self, key: str, data: bytes) -> Proof:
        """Return what a first message proves of who came by a key. One that is malformed the node will see itself."""
        try:
            first, *_ = decode(data).records
            shown = first.certificate if isinstance(first, Hello | Welcome | Refuse) else b""
        except (ProtocolError, ValueError):
            return Proof(key, problem="no certificate")
        unix_s = time.time()
        try:
            told = verify(shown, self.config.fleet, self.keys.trusted, self.revoked, unix_s)
        except ValueError as error:
            return Proof(key, problem=str(error))
        return Proof(key, told.node, told.public_key, self.clock() + told.valid_until - unix_s)

    # Keys

    def facts(self) -> dict[str, object]:
        """Return what the agent's status says of its keys; once a day it is also noted that they will expire."""
        certificate, revocations = self.keys.certificate, self.keys.revocations
        if time.time() >= self.warn_at:
            self.warn_at = time.time() + DAY_S
            until = moment(certificate.valid_until)
            self.note(CERTIFICATE_EXPIRES, Level.WARNING, until=until)
        return {
            "curve": True,
            "key": fingerprint(certificate.public_key),
            "valid_until": moment(certificate.valid_until),
            "revoked": len(revocations.keys),
            "revocations": revocations.number,
        }

    def read(self) -> Callable[[], str]:
        """Read the keys anew, which blocks; return what puts them into effect and says what that came to.

        Raises ConfigError: then the present ones stay.
        """
        keys = self.config.load_keys(time.time())
        assert keys is not None
        number = keys.revocations.number
        if number < self.keys.revocations.number:
            text = f"the revocations are number {number}, older than number {self.keys.revocations.number} in use"
            raise ConfigError([text], self.config.security.keys_dir)
        return lambda: self._change(keys)

    def _change(self, keys: NodeKeys) -> str:
        if keys.secret != self.keys.secret:
            text = f"the key pair is now {fingerprint(keys.secret.public_key)}"
            self.renew(text)
            return f"{text}: the reactor starts anew"
        self._use(keys)
        self.trust(keys)
        until, count = moment(keys.certificate.valid_until), len(keys.revocations.keys)
        return f"the certificate is valid until {until}; {count} keys are revoked"
