"""What an operator may set: which section of the file holds which options, and what each preset makes of them.

Most options stand beside the machine they tune. Here are those of the agent's shell, which no machine owns alone.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct, field
from msgspec.structs import FieldInfo, fields

from mesh.core.directory import DirectoryOptions
from mesh.core.durable import DurableOptions
from mesh.core.health import HealthOptions
from mesh.core.heat import HeatOptions
from mesh.core.inbox import InboxOptions
from mesh.core.link import LinkOptions
from mesh.core.liveness import LivenessOptions
from mesh.core.outbox import OutboxOptions
from mesh.core.policy import PolicyOptions
from mesh.core.pool import PoolOptions
from mesh.core.router import RouterOptions
from mesh.core.seats import SeatOptions
from mesh.core.views import ViewOptions
from mesh.matchmaker.sqlite import SqliteOptions
from mesh.spool.base import DeadOptions

__all__ = [
    "CONSUL",
    "LIGHT_SECTIONS",
    "PRESETS",
    "PRESET_DEFAULT",
    "SECTIONS",
    "AgentOptions",
    "HttpOptions",
    "Key",
    "MatchmakerOptions",
    "RecorderOptions",
    "SecurityOptions",
    "SpoolOptions",
    "Token",
    "TokenOptions",
    "TopologyOptions",
    "WatcherOptions",
    "default_of",
    "options_of",
    "structs_of",
    "unit_of",
]

Key = tuple[str, str]
"""A section and an option in it."""

Port = Annotated[int, Meta(ge=0, le=65_535)]
Words = Annotated[str, Meta(max_length=4_096)]


class AgentOptions(Struct, frozen=True):
    """Who this agent is, where it keeps things, where it is reached, and what its process may use."""

    fleet: Annotated[
        Words,
        Meta(
            description="Agents that belong together; those of another fleet are refused. One for each environment "
            "keeps staging from answering production; only agents of one fleet reach each other."
        ),
    ] = "default"
    node_id: Annotated[
        Words,
        Meta(
            description="The name of this machine's agent, unique in its fleet; empty: the host's name. MESH_NODE_ID "
            "overrides it. A name that outlives the machine's reinstallation keeps dashboards and pins valid; two "
            "agents that share one refuse each other."
        ),
    ] = ""
    roles: Annotated[
        tuple[Literal["topology_keeper"], ...],
        Meta(
            max_length=1,
            description="What else this agent does for its fleet. topology_keeper: it may draw the topology in "
            "Consul's UI; of those that may, one does. Give it to two or three, whose tokens have the rights for it: "
            "without any nothing is drawn.",
        ),
    ] = ()
    zone: Annotated[
        Words,
        Meta(description="Where this machine stands (rack, room, region), for people and dashboards; empty: not said."),
    ] = ""
    data_dir: Annotated[
        Words,
        Meta(
            description="Directory of the locks, the incarnation and the last directory of peers; empty: "
            "$XDG_STATE_HOME/mesh/FLEET, without that /var/lib/mesh/FLEET for root and "
            "~/.local/state/mesh/FLEET for others. Keep it over restarts: an agent that lost it knows no peers, and is "
            "above its last incarnation only if the clock is right."
        ),
    ] = ""
    socket: Annotated[
        Words,
        Meta(
            description="The Unix socket for apps, at most 107 bytes; empty: the first usable of "
            "$XDG_RUNTIME_DIR/mesh/agent.sock, /run/mesh/agent.sock and /tmp/mesh-UID/agent.sock. MESH_SOCKET "
            "overrides it. Apps look in the usual places by themselves; any other path must be told to each in "
            "MESH_SOCKET."
        ),
    ] = ""
    socket_group: Annotated[
        Words,
        Meta(
            description="Group of users who may connect to the socket; empty: the agent's own. A wider group lets more "
            "users call and serve what the policy lets them, which without rules is everything."
        ),
    ] = ""
    bind: Annotated[
        tuple[Words, ...],
        Meta(
            min_length=1,
            max_length=16,
            description="Where peers are listened for: addresses (IPv4, IPv6), or interfaces, which stand for their "
            'first IPv4 address and their lasting IPv6 ones. ["0.0.0.0", "::"] is everywhere over both. Fewer expose '
            "less; an interface that gets another address is followed only by a restart.",
        ),
    ] = ("127.0.0.1",)
    advertise: Annotated[
        Words,
        Meta(
            description="The address that peers dial, or the interface that has it; empty: the bound one, and for a "
            "wildcard the address of the default route's interface. Set it behind NAT, and on machines with several "
            "networks, where the guess may be the wrong one."
        ),
    ] = ""
    advertise_port: Annotated[
        Port,
        Meta(
            description="The port that peers dial, where NAT changes it; 0: the one that is listened on. It must lead "
            "to link_port, or every dial fails."
        ),
    ] = 0
    link_port: Annotated[
        Port,
        Meta(
            description="The port for peers, on every bound address; 0: a free one at each start. A fixed one can be "
            "let through firewalls; a free one lets several agents share a machine."
        ),
    ] = 7441
    inbound_unproven_max: Annotated[
        int,
        Meta(
            ge=1,
            le=65_536,
            description="Accepted connections that have not said yet who they are; above it the oldest is closed, at "
            "each turn of the loop (a flood may have more in between, up to the limit of open files). More lets a "
            "whole fleet redial at once, fewer leaves less to strangers.",
        ),
    ] = 64
    app_connections_max: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Apps connected at once, two descriptors each; others wait to be accepted. More serves more "
            "processes and needs a higher limit of open files.",
        ),
    ] = 1000
    app_unread_bytes_max: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 34,
            description="Bytes that wait for an app that does not read; above it the app is cut off. More forgives "
            "longer pauses and costs that memory for each app that hangs.",
        ),
    ] = 256 << 20
    descriptors_reserve: Annotated[
        int,
        Meta(
            ge=32,
            le=65_536,
            description="Descriptors beside links, apps and watches: files, the loop, libraries. More is safer and "
            "only raises the limit of open files that is asked for.",
        ),
    ] = 128
    watchdog_s: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="A reactor that is silent for so long is killed and replaced; 0: twice dead_after_s, at least "
            "5 s. Less takes a busy one for a hung one; more leaves apps longer with a hung one.",
        ),
    ] = 0.0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="The least severe notes that are written. Lower shows more and costs disk."),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "json", "console"],
        Meta(
            description="json for programs, console for people, auto: console on a terminal, else json. json costs the "
            "reader, console the log collector."
        ),
    ] = "auto"


class MatchmakerOptions(Struct, frozen=True):
    """How agents find each other."""

    kind: Annotated[
        Literal["sqlite", "consul"],
        Meta(
            description="sqlite: a file that the agents of one machine share, nothing to install. consul: a fleet of "
            "machines, each with a Consul agent."
        ),
    ] = "sqlite"


class WatcherOptions(Struct, frozen=True):
    """How the matchmaker is spoken to."""

    refresh_s: Annotated[
        float,
        Meta(
            ge=0.05,
            le=600,
            description="How often entries are renewed; at most a third of their TTL. More often notices a wiped "
            "matchmaker sooner and costs it a write each time.",
        ),
    ] = 5.0
    watch_wait_s: Annotated[
        float,
        Meta(ge=1, le=540, description="How long one question for changes stays open. Longer costs fewer requests."),
    ] = 60.0
    retry_max_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=300,
            description="The longest pause between two tries while the matchmaker is away, so also how late its "
            "return is noticed.",
        ),
    ] = 5.0


class SecurityOptions(Struct, frozen=True):
    """Whether links are encrypted and their ends proven, and by what."""

    curve: Annotated[
        bool,
        Meta(
            description="Whether links are encrypted (CURVE) and both ends must show a certificate of the fleet; see "
            "security.md. All agents of a fleet must agree. Off, whoever reaches the link port is a peer."
        ),
    ] = True
    keys_dir: Annotated[
        Words,
        Meta(
            description="Directory of this node's keys, mode 0700; empty: keys in data_dir. `mesh keys generate` makes "
            "it. A copy of it is this node's identity."
        ),
    ] = ""


class Token(Struct, frozen=True):
    """Whom a token names: ``user``, empty for the token's own name, in these ``groups``. ``file`` holds it."""

    file: Words
    user: Annotated[str, Meta(max_length=255)] = ""
    groups: Annotated[tuple[Annotated[str, Meta(max_length=255)], ...], Meta(max_length=64)] = ()


class TokenOptions(Struct, frozen=True):
    """Tokens name the users of apps that the kernel cannot name, as in containers with users of their own."""

    tokens: Annotated[
        dict[str, Token],
        Meta(
            max_length=1024,
            description="Tables [policy.tokens.NAME] with the file of a token, mode 0600 or 0640, and the user (by "
            "default NAME) and groups that an app is taken for which shows it: MESH_TOKEN_FILE, or token_file of "
            "connect, names its copy there. Whoever can read a copy is that user. Read anew by mesh reload and SIGHUP.",
        ),
    ] = field(default_factory=dict)


class RecorderOptions(Struct, frozen=True):
    """The flight recorder: what happened lately, kept to be replayed."""

    recorder_on: Annotated[
        bool,
        Meta(
            description="Whether what comes in is kept in memory for a while, and written down when the agent breaks. "
            "It costs about a hundredth of the agent's time, and recorder_bytes of memory."
        ),
    ] = True
    recorder_bytes: Annotated[
        int,
        Meta(
            ge=1 << 20,
            le=1 << 28,
            description="Memory for it. More reaches further back, and takes longer to write when the agent breaks: "
            "about half a second for 16 MiB, before the next reactor starts.",
        ),
    ] = 16 << 20
    recorder_s: Annotated[
        float,
        Meta(ge=1, le=86_400, description="What is older is dropped, though there be room. Longer only costs memory."),
    ] = 300.0
    recorder_bodies: Annotated[
        bool,
        Meta(
            description="Whether recordings hold the bodies of messages; otherwise zeros stand for them. They are not "
            "needed for a replay, and may be secret. Headers, names and the texts of errors are always in."
        ),
    ] = False
    recordings_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Recordings in the directory recordings of data_dir; one more deletes the oldest. Each is at "
            "most about as large as recorder_bytes.",
        ),
    ] = 8


class SpoolOptions(Struct, frozen=True):
    """Durable casts: where they are kept until they are ended, and how many."""

    kind: Annotated[
        Literal["sqlite", "none"],
        Meta(
            description="sqlite: in the file spool.sqlite of data_dir, flushed to the disk before a cast is accepted. "
            "none: durable casts are refused, and the agent writes nothing for them."
        ),
    ] = "sqlite"


class HttpOptions(Struct, frozen=True):
    """The page, the metrics and the health of this agent, over HTTP."""

    http_listen: Annotated[
        Words,
        Meta(
            description="Where it is listened, as ADDRESS:PORT, an IPv6 address in brackets; empty: nowhere. Any "
            "agent's page shows the whole fleet. Beyond this machine it needs http_token_file, for it shows names, "
            "addresses and who calls whom."
        ),
    ] = ""
    http_token_file: Annotated[
        Words,
        Meta(
            description="File with the token that readers must show, as a bearer token or as the password of any user; "
            "empty: none. It is read at each start of the reactor. The token travels as it is: over networks that "
            "others read, put a proxy with TLS before it."
        ),
    ] = ""
    http_connections_max: Annotated[
        int,
        Meta(
            ge=1,
            le=1024,
            description="Connections at once; one more ends the oldest. They come out of descriptors_reserve. More "
            "serves more readers at a time.",
        ),
    ] = 16
    http_request_s: Annotated[
        float,
        Meta(
            ge=0.1,
            le=300,
            description="What one request and its answer may take in all. Longer waits for slower readers, and leaves "
            "a place to those that say nothing.",
        ),
    ] = 10.0


class TopologyOptions(Struct, frozen=True):
    """Who calls whom, shown in Consul's UI (with the Consul matchmaker only)."""

    topology_on: Annotated[
        bool,
        Meta(
            description="Whether this agent tells Consul who calls whom, and registers the apps that only call. Off, "
            "its apps' calls are not in the picture, and its token needs no rights to sessions and keys."
        ),
    ] = True
    interval_s: Annotated[
        float,
        Meta(
            ge=1,
            le=300,
            description="How often it is told, where it changed, and how often its apps' checks are renewed. Shorter "
            "shows changes sooner and costs Consul a write for each.",
        ),
    ] = 5.0
    session_ttl_s: Annotated[
        float,
        Meta(
            ge=10,
            le=3600,
            description="What was told goes when its agent was silent for so long; Consul may take twice as long, and "
            "takes no less than 10 s. At least twice interval_s.",
        ),
    ] = 10.0


LIGHT_SECTIONS: Mapping[str, tuple[type[Struct], ...]] = {
    "agent": (AgentOptions, SeatOptions),
    "heartbeat": (LivenessOptions,),
    "links": (LinkOptions, PoolOptions),
    "heat": (HeatOptions,),
    "directory": (DirectoryOptions,),
    "routing": (RouterOptions,),
    "delivery": (OutboxOptions, InboxOptions),
    "security": (SecurityOptions,),
    "policy": (PolicyOptions, TokenOptions),
    "health": (HealthOptions,),
    "recorder": (RecorderOptions,),
    "spool": (SpoolOptions, DurableOptions, DeadOptions),
    "http": (HttpOptions,),
    "view": (ViewOptions,),
    "matchmaker": (MatchmakerOptions, WatcherOptions),
    "matchmaker.sqlite": (SqliteOptions,),
    "topology": (TopologyOptions,),
}
"""Sections whose options can be imported without the agent's libraries."""

CONSUL = "matchmaker.consul"
SECTIONS = (*LIGHT_SECTIONS, CONSUL)

PRESET_DEFAULT = "local"
PRESETS: Mapping[str, Mapping[Key, object]] = {
    "local": {
        ("agent", "link_port"): 0,
        ("security", "curve"): False,
        ("heartbeat", "heartbeat_s"): 0.2,
        ("heartbeat", "dead_after_s"): 1.0,
        ("links", "idle_close_s"): 5.0,
        ("heat", "half_life_s"): 2.0,
        ("heat", "dwell_s"): 3.0,
        ("matchmaker", "refresh_s"): 1.0,
        ("matchmaker.sqlite", "ttl_s"): 5.0,
    },
    "lan": {
        ("agent", "bind"): ("0.0.0.0",),
        ("http", "http_listen"): "127.0.0.1:7442",
        ("matchmaker", "kind"): "consul",
    },
    "wan": {
        ("agent", "bind"): ("0.0.0.0",),
        ("heartbeat", "heartbeat_s"): 5.0,
        ("heartbeat", "dead_after_s"): 20.0,
        ("links", "hello_timeout_s"): 5.0,
        ("http", "http_listen"): "127.0.0.1:7442",
        ("matchmaker", "kind"): "consul",
    },
}
"""Defaults for a kind of place, under the file's own values: one machine, machines side by side, machines far apart."""

_UNITS = (
    ("_per_s", "per second"),
    ("_s", "s"),
    ("_bytes", "bytes"),
    ("bytes_max", "bytes"),
    ("_records", "records"),
    ("records_max", "records"),
)


def structs_of(section: str) -> tuple[type[Struct], ...]:
    """Return the structs of a section; that of Consul imports its library, or raises ModuleNotFoundError."""
    if section == CONSUL:
        from mesh.matchmaker.consul import ConsulOptions

        return (ConsulOptions,)
    return LIGHT_SECTIONS[section]


def options_of(section: str) -> Iterator[FieldInfo]:
    """Yield the options of a section."""
    for struct in structs_of(section):
        yield from fields(struct)


def default_of(option: FieldInfo, key: Key, preset: str | None = None) -> object:
    """Return what holds without a file, under a preset or under none."""
    if preset and key in PRESETS[preset]:
        return PRESETS[preset][key]
    made = option.default_factory
    return made() if callable(made) else option.default


def unit_of(name: str) -> str:
    """Return the unit that an option's name ends with, or an empty string."""
    return next((unit for ending, unit in _UNITS if name.endswith(ending)), "")
