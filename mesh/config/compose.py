"""From a file, the environment and the machine to one frozen configuration.

A value is the first that is said of it: by the environment, the file, the preset, the option's own default. What was
left empty is worked out from the machine. Each value keeps where it came from.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from socket import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct
from msgspec.structs import fields

from mesh.config.addresses import advertised, bound, listen_address
from mesh.config.checks import check, descriptors_needed, fleet_problem
from mesh.config.options import (
    CONSUL,
    PRESET_DEFAULT,
    PRESETS,
    SECTIONS,
    AgentOptions,
    HttpOptions,
    Key,
    MatchmakerOptions,
    RecorderOptions,
    SecurityOptions,
    SpoolOptions,
    TokenOptions,
    TopologyOptions,
    WatcherOptions,
    default_of,
    options_of,
    structs_of,
)
from mesh.config.parse import Document, Problems, read, understand
from mesh.config.places import Machine, path_problem, socket_place, state_place, this_machine
from mesh.core.context import NodeOptions
from mesh.core.policy import PolicyOptions
from mesh.errors import ConfigError
from mesh.matchmaker.base import Matchmaker
from mesh.matchmaker.sqlite import SqliteMatchmaker, SqliteOptions
from mesh.spool.base import DeadOptions, Spool
from mesh.spool.sqlite import SqliteSpool
from mesh.types import Endpoint

if TYPE_CHECKING:
    from mesh.matchmaker.consul import ConsulOptions
    from mesh.matchmaker.consul_revocations import ConsulRevocations
    from mesh.matchmaker.consul_topology import ConsulTopology
    from mesh.security.store import NodeKeys
    from mesh.security.tokens import Tokens

__all__ = ["Config", "Row", "explain", "load"]

WATCHDOG_LEAST_S = 5.0

_NODE_ID, _SOCKET, _DATA_DIR = ("agent", "node_id"), ("agent", "socket"), ("agent", "data_dir")
_SQLITE_PATH, _KEYS_DIR = ("matchmaker.sqlite", "path"), ("security", "keys_dir")
_PATHS = (
    *(_DATA_DIR, _SOCKET, _SQLITE_PATH, _KEYS_DIR, ("http", "http_token_file")),
    *((CONSUL, name) for name in ("token_file", "ca_file", "certificate_file", "key_file")),
)
_VARIABLES = {_NODE_ID: "MESH_NODE_ID", _SOCKET: "MESH_SOCKET"}
_SECRET_ENDINGS = ("token", "secret", "password")


class Config(Struct, frozen=True, kw_only=True):
    """What an agent runs with. Nothing in ``agent`` is left to be worked out but a free port.

    ``path`` is that of its file, None without one. ``consul`` is None where that matchmaker is neither used nor
    configured. ``origins`` says where what is not an option's own default came from.
    """

    preset: str
    path: Path | None
    agent: AgentOptions
    node_options: NodeOptions
    security: SecurityOptions
    policy: PolicyOptions
    tokens: TokenOptions
    recorder: RecorderOptions
    http: HttpOptions
    matchmaker: MatchmakerOptions
    watcher_options: WatcherOptions
    topology: TopologyOptions
    sqlite: SqliteOptions
    spool: SpoolOptions
    dead: DeadOptions
    consul: "ConsulOptions | None"
    origins: Mapping[Key, str]

    @property
    def fleet(self) -> str:
        return self.agent.fleet

    @property
    def node_id(self) -> str:
        return self.agent.node_id

    @property
    def data_dir(self) -> Path:
        return Path(self.agent.data_dir)

    @property
    def socket_path(self) -> Path:
        return Path(self.agent.socket)

    @property
    def socket_group(self) -> str:
        return self.agent.socket_group

    @property
    def bind(self) -> tuple[str, ...]:
        return self.agent.bind

    @property
    def link_port(self) -> int:
        return self.agent.link_port

    @property
    def watchdog_s(self) -> float:
        return self.agent.watchdog_s

    @property
    def matchmaker_kind(self) -> str:
        return self.matchmaker.kind

    @property
    def http_address(self) -> Endpoint | None:
        """Where the page is listened for; None: nowhere."""
        listen = self.http.http_listen
        return listen_address(listen) if listen else None

    @property
    def descriptors_needed(self) -> int:
        """Open files that this agent may need at once."""
        agent, node = self.agent, self.node_options
        return descriptors_needed(
            node.pool.links_max,
            agent.inbound_unproven_max,
            agent.app_connections_max,
            node.directory.watches_max,
            agent.descriptors_reserve,
        )

    def endpoint(self, listeners: Sequence[socket], public_key: str = "") -> Endpoint:
        """Return what peers dial when these sockets listen, and the key that they are to expect there."""
        port = self.agent.advertise_port or listeners[0].getsockname()[1]
        return Endpoint(self.agent.advertise, port, public_key)

    def load_tokens(self) -> "Tokens":
        """Return the tokens of apps; raises ConfigError with all that is wrong with their files."""
        from mesh.security.tokens import Bearer, read_tokens

        return read_tokens(
            (name, token.file, Bearer(token.user or name, token.groups)) for name, token in self.tokens.tokens.items()
        )

    def load_keys(self, unix_s: float) -> "NodeKeys | None":
        """Return what secures this agent's links, None if nothing is to; raises ConfigError that says what to do."""
        if not self.security.curve:
            return None
        from mesh.security import store

        return store.load(Path(self.security.keys_dir), self.node_id, self.fleet, unix_s)

    def make_matchmaker(self) -> Matchmaker:
        """Return a new matchmaker of the configured kind; raises MatchmakerError."""
        if self.matchmaker.kind == "sqlite":
            return SqliteMatchmaker(self.fleet, self.sqlite)
        from mesh.matchmaker.consul import ConsulMatchmaker, ConsulOptions

        return ConsulMatchmaker(self.fleet, self.consul or ConsulOptions())

    def make_spool(self, data_dir: Path) -> Spool | None:
        """Return a new spool in a directory, or None if there is to be none."""
        return SqliteSpool(data_dir / "spool.sqlite", self.dead) if self.spool.kind == "sqlite" else None

    def make_revocations(self) -> "ConsulRevocations | None":
        """Return where the fleet's revocations are posted, None if they come by file alone; raises MatchmakerError."""
        if self.matchmaker.kind != "consul" or not self.security.curve:
            return None
        from mesh.matchmaker.consul_api import ConsulOptions
        from mesh.matchmaker.consul_revocations import ConsulRevocations

        return ConsulRevocations(self.fleet, self.consul or ConsulOptions())

    def make_topology(self) -> "ConsulTopology | None":
        """Return this agent's part in the topology, if there is to be one; raises MatchmakerError."""
        if self.matchmaker.kind != "consul" or not self.topology.topology_on:
            return None
        from mesh.matchmaker.consul import ConsulOptions
        from mesh.matchmaker.consul_topology import ConsulTopology

        return ConsulTopology(self.fleet, self.node_id, self.consul or ConsulOptions())


class Row(NamedTuple):
    """One option as it is in effect: ``origin`` is default, a preset, a file or a variable, and how it was derived."""

    section: str
    key: str
    value: Any
    origin: str


class _Settings:
    """The values of all options while they are gathered, and the origin of each."""

    def __init__(self, document: Document, preset: str, file: str, environ: Mapping[str, str]) -> None:
        self.preset = preset
        self.values: dict[Key, Any] = {}
        self.origins: dict[Key, str] = {}
        self.variables = {key: name for key, name in _VARIABLES.items() if environ.get(name)}
        self.sections = [section for section in SECTIONS if section != CONSUL]
        kind = document.values.get(("matchmaker", "kind"), PRESETS[preset].get(("matchmaker", "kind")))
        if kind == "consul" or CONSUL in document.sections:
            self.sections.append(CONSUL)
        for section in self.sections:
            for option in options_of(section):
                key = (section, option.name)
                if key in self.variables:
                    self.put(key, environ[self.variables[key]], f"environment {self.variables[key]}")
                elif key in document.values:
                    self.put(key, document.values[key], f"file: {file}")
                elif key in PRESETS[preset]:
                    self.put(key, PRESETS[preset][key], f"preset {preset}")
                else:
                    self.put(key, default_of(option, key), "default")

    def put(self, key: Key, value: object, origin: str) -> None:
        self.values[key] = value
        self.origins[key] = origin

    def derive(self, key: Key, value: object, how: str) -> None:
        """Replace a value by what it stands for."""
        self.put(key, value, f"{self.origins[key]} ({how})" if how else self.origins[key])

    def make(self, struct: type[Struct], section: str) -> Any:
        return struct(**{option.name: self.values[section, option.name] for option in fields(struct)})


def load(path: Path | None = None, environ: Mapping[str, str] = os.environ, machine: Machine | None = None) -> Config:
    """Return the configuration of a file, else of the one that MESH_CONFIG names, else of the ``local`` preset.

    Raises ConfigError with everything that is wrong.
    """
    machine = machine or this_machine()
    path = path or (Path(environ["MESH_CONFIG"]) if environ.get("MESH_CONFIG") else None)
    problems = Problems()
    document = understand(read(path), problems) if path else Document()
    preset = document.preset or PRESET_DEFAULT
    try:
        settings = _Settings(document, preset, str(path), environ)
    except ModuleNotFoundError as error:
        problems.add(f"the consul matchmaker needs {error.name}: pip install 'heartmesh[agent]'")
        raise ConfigError(problems.texts, str(path)) from None
    problems.variables = settings.variables
    _places(settings, environ, machine, problems)
    _addresses(settings, machine, problems)
    if not settings.values["agent", "watchdog_s"]:
        twice_s = 2 * settings.values["heartbeat", "dead_after_s"]
        settings.derive(("agent", "watchdog_s"), max(WATCHDOG_LEAST_S, twice_s), "from dead_after_s")
    check(settings.values, machine.descriptors_max, problems)
    if problems.texts:
        raise ConfigError(problems.texts, str(path or "configuration"))
    origin = f"file: {path}" if document.preset else "default"
    return _compose(preset, path, settings, {("", "preset"): origin})


def explain(config: Config) -> list[Row]:
    """Return every option that counts, in the order of the sections, secrets as ``***``."""
    agent = (config.agent, config.security, config.recorder, config.http, config.spool, config.dead)
    who = (config.policy, config.tokens)
    around = (config.matchmaker, config.watcher_options, config.topology, config.sqlite)
    parts: dict[type[Struct], Any] = {type(part): part for part in (*agent, *who, *around)}
    parts |= {option.type: getattr(config.node_options, option.name) for option in fields(NodeOptions)}
    rows = [Row("", "preset", config.preset, config.origins["", "preset"])]
    for section in SECTIONS:
        for struct in structs_of(section) if section != CONSUL or config.consul else ():
            part = parts.get(struct, config.consul)
            for option in fields(struct):
                value = "***" if option.name.endswith(_SECRET_ENDINGS) else getattr(part, option.name)
                rows.append(Row(section, option.name, value, config.origins[section, option.name]))
    return rows


def _places(settings: _Settings, environ: Mapping[str, str], machine: Machine, problems: Problems) -> None:
    """Fill in the names and places that were left empty, and check those that were not."""
    values = settings.values
    if not values[_NODE_ID]:
        settings.derive(_NODE_ID, machine.hostname, "this host's name")
    if fleet_problem(values["agent", "fleet"]) is None:
        state, how = state_place(values["agent", "fleet"], environ, machine)
        for key, place in ((_DATA_DIR, state), (_SQLITE_PATH, f"{state}/matchmaker.sqlite")):
            if not values[key]:
                settings.derive(key, place, how)
    if not values[_KEYS_DIR] and values[_DATA_DIR]:
        settings.derive(_KEYS_DIR, f"{values[_DATA_DIR]}/keys", "in data_dir")
    if not values[_SOCKET] and not problems.touch([_SOCKET]):
        try:
            settings.derive(_SOCKET, socket_place(environ, machine.user_id), "the first usable of the usual places")
        except ValueError as error:
            problems.of(_SOCKET, f": {error}")
    for key in _PATHS:
        if values.get(key) and (problem := path_problem(values[key], socket=key == _SOCKET)):
            problems.of(key, f" = {values[key][:64]!r}: {problem}")


def _addresses(settings: _Settings, machine: Machine, problems: Problems) -> None:
    """Put addresses where interfaces were named, and find the one to tell peers."""
    bind, advertise, kind = ("agent", "bind"), ("agent", "advertise"), ("matchmaker", "kind")
    if problems.touch([bind]):
        return
    entries = settings.values[bind]
    hosts, wrong = bound(entries, machine.network)
    for text in wrong:
        problems.of(bind, f": {text}")
    settings.derive(bind, hosts, f"of {', '.join(entries)}" if hosts != entries else "")
    if wrong or problems.touch([advertise, kind]):
        return
    try:
        fleet_wide = settings.values[kind] == "consul" and settings.preset != "local"
        host, how = advertised(settings.values[advertise], hosts, machine.network, fleet_wide=fleet_wide)
        settings.derive(advertise, host, how)
    except ValueError as error:
        problems.of(advertise, f": {error}")


def _compose(preset: str, path: Path | None, settings: _Settings, origins: Mapping[Key, str]) -> Config:
    made = {struct: settings.make(struct, section) for section in settings.sections for struct in structs_of(section)}
    consul = structs_of(CONSUL)[0] if CONSUL in settings.sections else None
    return Config(
        preset=preset,
        path=path,
        agent=made[AgentOptions],
        node_options=NodeOptions(**{option.name: made[option.type] for option in fields(NodeOptions)}),
        security=made[SecurityOptions],
        policy=made[PolicyOptions],
        tokens=made[TokenOptions],
        recorder=made[RecorderOptions],
        http=made[HttpOptions],
        matchmaker=made[MatchmakerOptions],
        watcher_options=made[WatcherOptions],
        topology=made[TopologyOptions],
        sqlite=made[SqliteOptions],
        spool=made[SpoolOptions],
        dead=made[DeadOptions],
        consul=made[consul] if consul else None,
        origins={**origins, **settings.origins},
    )
