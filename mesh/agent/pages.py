"""What an agent shows over HTTP: its health, its metrics, and the fleet as a page and as JSON.

Without a token only this machine is listened for, and then the name in the request must be this machine's too: a page
from elsewhere that has its own name point here (DNS rebinding) is told nothing.
"""

import base64
import binascii
import hmac
import ipaddress
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path

from msgspec import json

from mesh.agent.http import Request, Response
from mesh.agent.metrics import CONTENT_TYPE_LATEST, expose
from mesh.core.catalogue import Health
from mesh.core.health import agent_health
from mesh.core.node import Node
from mesh.core.report import limits, links, status, topics, vitals
from mesh.core.viewing import fleet_of

__all__ = ["TOKEN_CHARS_MIN", "Pages", "read_token", "reasons"]

TOKEN_CHARS_MIN, TOKEN_CHARS_MAX = 16, 4096

FRESH_S = 0.5
"""An answer serves all who ask again within it: many readers cost what one does."""

TOPOLOGY_BYTES_MAX = 8 << 20
"""About what one page of the topology has at most."""

JSON = "application/json"
_NO_MATCHMAKER: Mapping[str, object] = {}

_DIRECTORY = Path(__file__).parent / "page"
_FILES = {
    f"/{name}".removesuffix("index.html"): Response(
        (_DIRECTORY / name).read_bytes(),
        kind,
        headers={
            "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
        },
    )
    for name, kind in (
        ("index.html", "text/html; charset=utf-8"),
        ("page.css", "text/css; charset=utf-8"),
        ("page.js", "text/javascript; charset=utf-8"),
    )
}
"""The page and what it loads, read before the first fork."""


def read_token(path: str) -> str:
    """Return the token in a file; raises ValueError with what is wrong."""
    try:
        with Path(path).open(encoding="ascii") as file:
            token = file.read(TOKEN_CHARS_MAX + 2).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"http_token_file {path} cannot be read: {error}") from None
    if not token.isprintable() or " " in token or not TOKEN_CHARS_MIN <= len(token) <= TOKEN_CHARS_MAX:
        raise ValueError(
            f"http_token_file {path} must hold one token of {TOKEN_CHARS_MIN} to {TOKEN_CHARS_MAX} characters"
        )
    return token


def reasons(node: Node) -> list[str]:
    """Return why an agent should be given nothing new now; none: it is ready.

    That is what its own check in the matchmaker says, and whether it gets through to the matchmaker at all."""
    verdict = agent_health(vitals(node.state, node.options, node.facts))
    found = [verdict.text] if verdict.health in (Health.CRITICAL, Health.MAINTENANCE) else []
    matchmaker = node.facts.get("matchmaker", _NO_MATCHMAKER)
    assert isinstance(matchmaker, Mapping)
    if matchmaker.get("reachable") is not True:
        found.append(f"the matchmaker does not answer: {matchmaker.get('problem') or 'not yet'}")
    elif matchmaker["registered"] != matchmaker["to_register"]:
        found.append(f"{matchmaker['registered']} of {matchmaker['to_register']} entries are registered")
    return found


class Pages:
    """Every page of one agent. ``limits``: used and most of what only the shell bounds; ``token``: empty, none."""

    def __init__(
        self,
        node: Node,
        limits: Callable[[], Mapping[str, tuple[float, float]]],
        token: str,
        clock: Callable[[], float],
    ) -> None:
        self.node = node
        self.limits = limits
        self.token = token
        self.clock = clock
        self.kept: dict[str, tuple[float, Response]] = {}
        self.makers: dict[str, Callable[[Request], Response]] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._fresh(self._metrics),
            "/topology.json": self._fresh(self._topology),
        }

    def answer(self, request: Request) -> Response:
        """Return what a request gets."""
        refusal = self._refusal(request)
        if refusal is not None:
            return refusal
        if request.path in _FILES:
            return _FILES[request.path]
        make = self.makers.get(request.path)
        if make is None:
            known = " ".join(sorted((*self.makers, "/")))
            return Response(f"here is only {known}\n".encode(), status=HTTPStatus.NOT_FOUND)
        return make(request)

    def _fresh(self, make: Callable[[Request], Response]) -> Callable[[Request], Response]:
        """Return the maker of a page that is made anew only when the last one is no longer fresh."""

        def made(request: Request) -> Response:
            now, key = self.clock(), f"{request.path} {request.query.get('after', '')}"
            self.kept = {name: one for name, one in self.kept.items() if now - one[0] < FRESH_S}
            if key not in self.kept:
                self.kept[key] = (now, make(request))
            return self.kept[key][1]

        return made

    def _refusal(self, request: Request) -> Response | None:
        if self.token:
            if hmac.compare_digest(_shown(request.headers.get("Authorization", "")), self.token.encode()):
                return None
            asks = {"WWW-Authenticate": 'Basic realm="heartmesh: any user, the token as password", charset="UTF-8"'}
            why = b"show the token in http_token_file, as a bearer token or as the password of any user\n"
            return Response(why, status=HTTPStatus.UNAUTHORIZED, headers=asks)
        if not _names_this_machine(request.headers.get("Host", "")):
            why = b"without a token this answers only to localhost and numeric addresses\n"
            return Response(why, status=HTTPStatus.MISDIRECTED_REQUEST)
        return None

    def _healthz(self, _: Request) -> Response:
        return Response(b"ok\n")

    def _readyz(self, _: Request) -> Response:
        found = reasons(self.node)
        if found:
            return Response("".join(f"{why}\n" for why in found).encode(), status=HTTPStatus.SERVICE_UNAVAILABLE)
        return Response(b"ok\n")

    def _metrics(self, _: Request) -> Response:
        node, now = self.node, self.clock()
        told = [
            json.decode(report(node.state, node.options, node.facts, {}, now))
            for report in (status, links, topics, limits)
        ]
        told[-1] |= {name: {"used": used, "max": most} for name, (used, most) in self.limits().items()}
        return Response(expose(*told), CONTENT_TYPE_LATEST)

    def _topology(self, request: Request) -> Response:
        node, now = self.node, self.clock()
        node.look(now)
        after = request.query.get("after", "")
        return Response(fleet_of(node.state, node.options, node.facts, now, after, TOPOLOGY_BYTES_MAX), JSON)


def _shown(authorization: str) -> bytes:
    """Return the token that a request shows, if any."""
    scheme, _, rest = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return rest.strip().encode("utf-8", "replace")
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(rest, validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


def _names_this_machine(host: str) -> bool:
    """Return whether a request's Host is a name that only means this machine; none at all is no browser's."""
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name.lower() in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
