"""Between the link sockets and the node, where links are secured: what the first message of each connection proves.

The node compares names and keys; here certificates are verified, which takes a library and the calendar, once for each
connection. Whose certificate the node must believe may change while the agent runs: `Guard.read` and what it returns.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from msgspec import structs

from mesh.agent.revoking import REVOCATIONS_REFUSED, Place, Revoking
from mesh.agent.threads import in_thread
from mesh.config import Config
from mesh.core.codec import decode
from mesh.core.effects import Level
from mesh.core.identity import Proof
from mesh.core.records import Hello, Refuse, Welcome
from mesh.errors import ConfigError, ProtocolError
from mesh.security import store
from mesh.security.certificates import Revocations, later, moment, verify
from mesh.security.keys import fingerprint
from mesh.security.store import NodeKeys

__all__ = ["Guard"]

CERTIFICATE_EXPIRES = "certificate_expires"
OWN_KEY_REVOKED = "own_key_revoked"

WARN_S = 14 * 86_400
"""How long before its certificate expires an agent says so, each day."""

DAY_S = 86_400


class Guard:
    """The keys of one reactor, and the connections that have shown nothing yet.

    ``proven`` gets what the first message of a connection proves, before anybody gets that message. ``trust`` is told
    of other keys to trust, and ``renew`` that the key pair itself has changed. ``place``: where revocations are posted
    while the agent runs, None: nowhere; what was learned there is kept in ``data_dir``.
    """

    def __init__(
        self,
        config: Config,
        keys: NodeKeys,
        place: Place | None,
        data_dir: Path,
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
        self.learned = self._kept(data_dir)
        self._use(keys)
        keep = partial(store.keep_revocations, data_dir)
        watching = Revoking(place, config.watcher_options, self.learn, keep, in_thread, note) if place else None
        self.revoking = watching

    def start(self) -> None:
        """Hear from now on of what is revoked."""
        self.trust(self.keys)
        if self.revoking is not None:
            self.revoking.start()

    def stop(self) -> None:
        """Hear of it no more."""
        if self.revoking is not None:
            self.revoking.stop()

    def _kept(self, data_dir: Path) -> bytes:
        """Return the revocations that an agent before this one learned, as they were posted."""
        try:
            return store.kept_revocations(data_dir)
        except ConfigError as error:
            self.note(REVOCATIONS_REFUSED, Level.WARNING, where=str(data_dir), why=str(error))
            return b""

    def _use(self, keys: NodeKeys) -> None:
        """Work with what files say, and with what was learned beyond it, as far as these keys still verify that."""
        self.filed = keys.revocations
        self.keys = keys
        if self.learned:
            try:
                told = store.read_revocations(self.learned, self.config.fleet, keys.trusted)
            except ValueError as error:
                self.note(REVOCATIONS_REFUSED, Level.WARNING, where="what was learned before", why=str(error))
                self.learned = b""
            else:
                if told.number >= keys.revocations.number:
                    self.keys = structs.replace(keys, revocations=later(keys.revocations, told))
        self.warn_at = float(keys.certificate.valid_until - WARN_S)
        self._revoke()

    def _revoke(self) -> None:
        self.revoked = frozenset(self.keys.revocations.keys)
        own = self.keys.certificate.public_key
        if own in self.revoked:
            self.note(OWN_KEY_REVOKED, Level.ERROR, key=fingerprint(own), why="no peer lets this agent in any more")

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
            "problem": self.revoking.problem if self.revoking is not None else "",
        }

    def read(self) -> Callable[[], str]:
        """Read the keys anew, which blocks; return what puts them into effect and says what that came to.

        Raises ConfigError: then the present ones stay.
        """
        keys = self.config.load_keys(time.time())
        assert keys is not None
        number = keys.revocations.number
        if number < self.filed.number:
            text = f"the revocations are number {number}, older than number {self.filed.number} in use"
            raise ConfigError([text], self.config.security.keys_dir)
        return lambda: self._change(keys)

    def _change(self, keys: NodeKeys) -> str:
        if keys.secret != self.keys.secret:
            text = f"the key pair is now {fingerprint(keys.secret.public_key)}"
            self.renew(text)
            return f"{text}: the reactor starts anew"
        self._use(keys)
        self.trust(self.keys)
        until, count = moment(keys.certificate.valid_until), len(self.keys.revocations.keys)
        number = self.keys.revocations.number
        posted = f" by list {number}, which was posted later than the file's" if number > self.filed.number else ""
        return f"the certificate is valid until {until}; {count} keys are revoked{posted}"

    def learn(self, text: bytes) -> Revocations | None:
        """Put a list that was posted into effect; return what counts then, None if that is as before.

        Raises ValueError that says why it is refused.
        """
        told = store.read_revocations(text, self.config.fleet, self.keys.trusted)
        after = later(self.keys.revocations, told)
        if after == self.keys.revocations:
            return None
        self.learned = text
        self.keys = structs.replace(self.keys, revocations=after)
        self._revoke()
        self.trust(self.keys)
        return after
