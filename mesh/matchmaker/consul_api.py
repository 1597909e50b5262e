"""What the Consul matchmaker asks of Consul, as a few typed verbs on py-consul.

Each request has a connection of its own, for a long poll occupies one, and a timeout. Nothing comes from the
environment: no proxy, no token, no address. Whatever goes wrong is a MatchmakerError that says what, where and what
to do.
"""

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec
from consul.callback import CB
from consul.exceptions import ACLPermissionDenied, ConsulException
from consul.std import Consul
from msgspec import Meta, Struct, field

from mesh.core.catalogue import Health
from mesh.matchmaker.base import MatchmakerError
from mesh.matchmaker.names import PREFIX

__all__ = ["Answer", "Check", "ConsulApi", "ConsulOptions", "Found", "Row", "Service", "read_found", "waiting"]

ENTRIES_MAX = 100_000
"""Entries of one service; a longer list is an error."""

NOTE_CHARS_MAX = 512
TOKEN_CHARS_MAX = 256
CONNECTIONS_KEPT_MAX = 8

WAIT_S_MAX = 600.0
"""Consul's own limit of one long poll."""

CLOSE_S = 1.0
"""How long closing waits for the requests that it ended."""

_RIGHTS = f'service_prefix "{PREFIX}" {{ policy = "%s" }} and node_prefix "" {{ policy = "read" }}'
_TTL_VERBS = {Health.PASSING: "ttl_pass", Health.CRITICAL: "ttl_fail"}

T = TypeVar("T")


class ConsulOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the Consul matchmaker."""

    address: Annotated[
        str,
        Meta(
            description="http:// or https:// address of this machine's Consul agent. Trade-off: the agent must be the "
            "machine's own, for entries live and die with the Consul agent they were registered at."
        ),
    ] = "http://127.0.0.1:8500"
    token_file: Annotated[
        str,
        Meta(
            description="File with the ACL token, read anew for each request, so that a new token needs no restart; "
            "empty: no token, CONSUL_HTTP_TOKEN is not looked at. Trade-off: a file can be kept from other users, "
            "where a value in the configuration or the environment is seen by more."
        ),
    ] = ""
    ca_file: Annotated[
        str,
        Meta(
            description="PEM file of the CAs that may sign the Consul agent's certificate; empty: the usual public "
            "ones. Trade-off: a private CA is one more file to hand out, and trusts nobody else."
        ),
    ] = ""
    certificate_file: Annotated[
        str,
        Meta(
            description="PEM file of the client certificate to show, empty: none. Trade-off: needed where Consul "
            "verifies its clients, and has to be renewed."
        ),
    ] = ""
    key_file: Annotated[
        str,
        Meta(
            description="PEM file of the client certificate's key, empty: it is in certificate_file. Trade-off: apart, "
            "the key can have stricter permissions."
        ),
    ] = ""
    datacenter: Annotated[
        str,
        Meta(
            description="Datacenter whose catalogue is read, empty: the Consul agent's. Trade-off: entries are always "
            "registered in the agent's own, so another one here finds what this agent is no part of."
        ),
    ] = ""
    ttl_s: Annotated[
        float,
        Meta(
            ge=1,
            le=3_600,
            description="Seconds until an entry that is not renewed turns critical. Trade-off: shorter, and the dead "
            "leave sooner; under three renewals, and a restart of Consul makes the living look dead.",
        ),
    ] = 15.0
    deregister_after_s: Annotated[
        float,
        Meta(
            ge=60,
            le=604_800,
            description="Seconds that an entry may be critical before Consul removes it. Trade-off: longer keeps it in "
            "sight of the operator; Consul looks every 30 s and takes no less than 60 s.",
        ),
    ] = 600.0
    timeout_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=300,
            description="Seconds to connect, and to wait for an answer beyond the time that was asked to wait. "
            "Trade-off: shorter notices a stuck Consul sooner; longer rides out its elections.",
        ),
    ] = 5.0


class Check(Struct):
    """The state of one check: passing, warning or critical."""

    check_id: str = field(name="CheckID")
    status: str = field(name="Status")


class Service(Struct):
    """Where one instance of a service is, and what was said of it."""

    id: str = field(name="ID")
    address: str = field(name="Address", default="")
    port: int = field(name="Port", default=0)
    meta: dict[str, str] | None = field(name="Meta", default=None)


class Row(Struct):
    """One instance of a service, as Consul's health endpoint lists it."""

    service: Service = field(name="Service")
    checks: list[Check] = field(name="Checks")


class Answer(NamedTuple):
    """A service's instances, where in Consul's history they were read, and whether some were left out."""

    rows: list[Row]
    position: int
    filtered: bool


class Found(NamedTuple):
    """What Consul has at a path, and where in its history that was read; ``body`` is None where there is nothing."""

    body: Any
    position: int


_rows_decoder = msgspec.json.Decoder(Annotated[list[Row], Meta(max_length=ENTRIES_MAX)])


class _Client:
    """One connection to the Consul agent, with py-consul's verbs on it.

    It serves one request at a time, and only the thread that made it: gevent's sockets do not change threads."""

    def __init__(self, options: ConsulOptions) -> None:
        self.thread = threading.get_native_id()
        scheme, host, port = _split(options.address)
        certificate = (options.certificate_file, options.key_file or options.certificate_file)
        self.api = Consul(
            host=host,
            port=port,
            scheme=scheme,
            verify=options.ca_file or True,
            cert=certificate if options.certificate_file else None,
            connections_timeout=options.timeout_s,
        )
        self._connection: Any = None
        session = self.api.http.session
        session.trust_env = False
        session.max_redirects = 0
        pools = session.get_adapter(options.address).poolmanager
        pools.pool_classes_by_scheme = {
            name: self._remembering(make) for name, make in pools.pool_classes_by_scheme.items()
        }

    def hang_up(self) -> None:
        """End the request that another thread waits for."""
        connected = getattr(self._connection, "sock", None)
        if connected:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.api.http.session.close()

    def _remembering(self, make_pool: Callable[..., Any]) -> Callable[..., Any]:
        """Return a maker of urllib3 pools that leaves the connection in use where `hang_up` finds it."""

        def make(*args: Any, **options: Any) -> Any:
            pool = make_pool(*args, **options)
            make_connection = pool.ConnectionCls

            def connect(*args: Any, **options: Any) -> Any:
                self._connection = make_connection(*args, **options)
                return self._connection

            pool.ConnectionCls = connect
            return pool

        return make


class ConsulApi:
    """The verbs; they may be called from several threads or greenlets at once."""

    def __init__(self, options: ConsulOptions) -> None:
        _split(options.address)
        self._options = options
        self._idle: deque[_Client] = deque()
        self._busy: list[_Client] = []
        self._closed = False

    def register(self, definition: dict[str, object]) -> None:
        """Register a service by py-consul's arguments; a check that Consul has already keeps its status."""
        what = f"register {definition['service_id']}"
        self.ask(what, lambda api: api.agent.service.register(replace_existing_checks=True, **definition))

    def deregister(self, service_id: str) -> None:
        """Remove a service; one that is not there is no error."""
        self.ask(f"deregister {service_id}", lambda api: api.agent.service.deregister(service_id))

    def report(self, check_id: str, health: Health, note: str) -> bool:
        """Refresh a TTL check; False: Consul does not know it."""
        verb = _TTL_VERBS.get(health, "ttl_warn")
        note = note[:NOTE_CHARS_MAX]
        return bool(self.ask(f"update check {check_id}", lambda api: getattr(api.agent.check, verb)(check_id, note)))

    def instances(
        self, service: str, *, position: int = 0, wait_s: float = 0.0, here: bool = False, id: str = ""
    ) -> Answer:
        """List a service's instances at once, or with a ``position`` when they changed or after ``wait_s``.

        ``here`` asks the Consul agent's datacenter whatever the options say; ``id`` picks one instance. A list that
        Consul filtered for a missing right is an error that names the right."""
        params = waiting(position, wait_s)
        if self._options.datacenter and not here:
            params.append(("dc", self._options.datacenter))
        if id:
            params.append(("filter", f'Service.ID == "{id}"'))
        path = f"/v1/health/service/{service}"
        answer: Answer = self.ask(
            f"list {service}", lambda api: api.http.get(_read, path, params=params, headers=api.prepare_headers())
        )
        if answer.filtered:
            raise MatchmakerError(f"{self} left entries of {service} out: {self.missing_right()}")
        return answer

    def missing_right(self, policy: str = "read", rights: str = "") -> str:
        """Say who lacks which right; ``rights`` are others than those of services."""
        file = self._options.token_file
        who = f"the token in {file}" if file else "a request without a token (token_file is empty)"
        return f"{who} needs {rights or _RIGHTS % policy}"

    def close(self) -> None:
        """End the requests that are under way, with MatchmakerError, and refuse all that come."""
        self._closed = True
        deadline = time.monotonic() + CLOSE_S
        while self._busy and time.monotonic() < deadline:
            for client in list(self._busy):
                client.hang_up()
            time.sleep(0.01)
        self._trim(0)

    def __str__(self) -> str:
        return f"Consul at {self._options.address}"

    def ask(self, what: str, request: Callable[[Any], T], rights: str = "") -> T:
        """Do a request on py-consul's client; ``rights`` names those it needs, if not those of services."""
        client = self._idle_client() or _Client(self._options)
        self._busy.append(client)
        kept = False
        try:
            if self._closed:
                raise MatchmakerError(f"{self} could not {what}: it was closed here")
            client.api.token = self._token()
            answer = request(client.api)
            kept = True
            return answer
        except (ConsulException, msgspec.MsgspecError, OSError, ValueError) as error:
            why = "it was closed here" if self._closed else f"{_reason(error)}: {self._advice(error, rights)}"
            raise MatchmakerError(f"{self} could not {what}: {why}") from error
        finally:
            self._busy.remove(client)
            if kept:
                self._idle.append(client)
            else:
                client.close()
            self._trim(0 if self._closed else CONNECTIONS_KEPT_MAX)

    def _trim(self, kept_max: int) -> None:
        """Close the connections that were idle longest, until no more than ``kept_max`` are."""
        with contextlib.suppress(IndexError):
            while len(self._idle) > kept_max:
                self._idle.popleft().close()

    def _idle_client(self) -> _Client | None:
        for client in self._idle.copy():
            if client.thread == threading.get_native_id():
                with contextlib.suppress(ValueError):  # another greenlet or thread was faster
                    self._idle.remove(client)
                    return client
        return None

    def _token(self) -> str:
        path = self._options.token_file
        if not path:
            return ""
        with Path(path).open(encoding="ascii") as file:
            token = file.read(TOKEN_CHARS_MAX + 2).strip()
        if not token.isprintable() or " " in token or not 0 < len(token) <= TOKEN_CHARS_MAX:
            raise ValueError(f"{path} does not hold one token of at most {TOKEN_CHARS_MAX} characters")
        return token

    def _advice(self, error: Exception, rights: str) -> str:
        if isinstance(error, ACLPermissionDenied):
            return self.missing_right("write", rights)
        if isinstance(error, ConsulException):
            return "Consul's log says more"
        if isinstance(error, OSError):
            return "see that the Consul agent runs, and that address, files and certificates of the options fit it"
        return "see what is at that address" if isinstance(error, msgspec.MsgspecError) else "mend the options"


def waiting(position: int, wait_s: float) -> list[tuple[str, object]]:
    """Return the parameters of a request: at once for position 0, else on change or after ``wait_s``."""
    wait = f"{max(1, int(min(wait_s, WAIT_S_MAX) * 1000))}ms"
    return [("index", position), ("wait", wait)] if position else []


def read_found(response: Any) -> Found:
    """Decode what Consul has at a path."""
    position = int(response.headers.get("X-Consul-Index", 0))
    if response.code == 404:
        return Found(None, position)
    CB.boolean()(response)
    return Found(msgspec.json.decode(response.body) if response.body else None, position)


def _read(response: Any) -> Answer:
    """Decode what Consul's health endpoint answers."""
    CB.boolean()(response)
    return Answer(
        rows=_rows_decoder.decode(response.body),
        position=int(response.headers.get("X-Consul-Index", 0)),
        filtered=response.headers.get("X-Consul-Results-Filtered-By-ACLs", "") == "true",
    )


def _split(address: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an address."""
    with contextlib.suppress(ValueError):
        parts = urlsplit(address)
        if parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/") and "@" not in parts.netloc:
            host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
            return parts.scheme, host, parts.port or (8501 if parts.scheme == "https" else 8500)
    raise MatchmakerError(f"consul.address {address!r}: must be http://HOST:PORT or https://HOST:PORT")


def _reason(error: BaseException) -> object:
    """Return what is inside the layers that requests and urllib3 put around the system's error."""
    inner = error.args[0] if error.args and isinstance(error.args[0], BaseException) else error
    return getattr(inner, "reason", inner)
