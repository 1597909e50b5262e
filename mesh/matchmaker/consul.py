"""The matchmaker of a fleet: Consul, through the Consul agent of this machine.

An agent is an instance of the service ``heartmesh-agent``, an app's instance one of ``heartmesh-topic-<topic>``
(`names`). An entry carries in Address, Port and Meta all that a watcher needs, so one query answers a watch. Its TTL
check is the entry's own; an instance's second check is an alias of its agent's entry, so that Consul itself hides
the instances of an agent that is gone. An entry with any critical check is not in a snapshot: Consul's view of the
machine, an operator's maintenance mode and a site's own checks count as well.

Consul has no word for MAINTENANCE, and tells a check's new text only minutes later while its status stays: the check
warns, and the Meta, which travels at once, says which it is.

Under ACLs a missing right makes an empty answer, not an error. Consul's header says that entries were filtered, but
neither to those without a token nor in a long poll. So a long poll that came back empty is asked again plainly, and an
empty answer is believed only once this agent's own entry can be seen (a matchmaker that registered no agent has no
such witness). Snapshots are compared by content, so indexes that Consul reset, or took from a backup, mislead nobody.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from mesh.core.catalogue import AgentEntry, Health, Instance, Snapshot
from mesh.matchmaker.base import Entry, MatchmakerError, snapshot
from mesh.matchmaker.consul_api import ConsulApi, ConsulOptions, Row, Service
from mesh.matchmaker.names import agent_service, service_id, topic_service
from mesh.types import TopicKey, name_problem, node_id_problem

__all__ = ["ConsulMatchmaker", "ConsulOptions"]

SEEN_MAX = 1_024
"""Topics whose place in Consul's history is remembered."""

PAUSE_S = 0.05
"""Between two queries of one watch, so that a busy catalogue makes no busy loop."""

WITNESS_S = 2.0
"""How long this agent's own entry may take from its registration until the catalogue has it."""

U63 = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
_Key = tuple[object, ...]


class _Meta(Struct):
    """An entry's Meta: what Address and Port do not say, values as text. Its fields are Consul's keys."""

    heartmesh: Literal["1"]
    fleet: str
    node: str
    incarnation: U63
    public_key: str = ""
    zone: str = ""
    roles: str = "[]"
    namespace: str = ""
    topic: str = ""
    server: str = ""
    session: U63 = 0
    health: Literal["", "maintenance"] = ""


class _Held(NamedTuple):
    """Where an entry is registered, at whose agent's, and whether its Meta says MAINTENANCE."""

    service: str
    id: str
    agent_id: str
    maintenance: bool = False


class ConsulMatchmaker:
    """The matchmaker of one agent. ``skipped`` counts entries of this fleet that could not be read."""

    def __init__(self, fleet: str, options: ConsulOptions) -> None:
        self.skipped = 0
        self._fleet = fleet
        self._options = options
        self._api = ConsulApi(options)
        self._held: dict[_Key, _Held] = {}
        self._slots: dict[tuple[str, int], _Key] = {}
        self._own_agent = ""
        self._seen: dict[TopicKey, tuple[int, int]] = {}

    def register(self, entry: Entry) -> None:
        held = self._place(entry)
        self._put(entry, held)
        self._api.report(_check_id(held.id), Health.PASSING, "")
        self._held[_key(entry)] = held
        if isinstance(entry, AgentEntry):
            self._own_agent = held.id

    def renew(self, entry: Entry, health: Health, text: str) -> bool:
        held = self._held.get(_key(entry))
        if not held or not self._api.report(_check_id(held.id), health, text):
            return False
        if held.maintenance != (health == Health.MAINTENANCE):
            held = held._replace(maintenance=not held.maintenance)
            self._put(entry, held)
            self._held[_key(entry)] = held
        return True

    def withdraw(self, entry: Entry) -> None:
        if isinstance(entry, Instance):
            self._remove(_key(entry))
            return
        # Consul would leave the alias checks as they are for a minute, so the instances go one by one.
        agent_id = self._agent_id(entry)
        for key in [key for key, held in list(self._held.items()) if held.agent_id == agent_id]:
            self._remove(key)
        self._api.deregister(agent_id)
        if agent_id == self._own_agent:
            self._own_agent = ""

    def watch(self, topic: TopicKey, index: int, wait_s: float) -> Snapshot:
        deadline = time.monotonic() + wait_s
        service = topic_service(self._fleet, topic)
        seen, position = self._seen.pop(topic, (0, 0))
        if seen != index:
            position = 0
        while True:
            left = deadline - time.monotonic()
            polled = position > 0 and left > 0
            answer = self._api.instances(service, position=position if polled else 0, wait_s=left)
            found = snapshot(topic, self._instances(topic, answer.rows))
            if polled and not answer.rows and found.index != index:
                position = 0
                continue
            position = 0 if answer.position < position else max(answer.position, 1)
            if found.index != index or left <= 0:
                if not answer.rows:
                    self._witness()
                if len(self._seen) >= SEEN_MAX:
                    self._seen.clear()
                self._seen[topic] = (found.index, position)
                return found
            time.sleep(min(PAUSE_S, left))

    def agents(self, node: str = "") -> Sequence[AgentEntry]:
        service = agent_service(self._fleet)
        id = service_id(service, node) if node else ""
        rows = self._api.instances(service, id=id).rows
        if id != self._own_agent and all(row.service.id != self._own_agent for row in rows):
            self._witness()
        found = [_agent(row.service, meta) for row, meta in self._ours(rows, TopicKey("", ""))]
        return sorted(found, key=lambda agent: (agent.node, agent.incarnation))

    def close(self) -> None:
        self._api.close()

    def _place(self, entry: Entry) -> _Held:
        """Return where an entry belongs: an agent by its node, an instance in the lowest slot free at its node."""
        if isinstance(entry, AgentEntry):
            return _Held(agent_service(self._fleet), self._agent_id(entry), self._agent_id(entry))
        key = _key(entry)
        if held := self._held.get(key):
            return held._replace(maintenance=False)
        service = topic_service(self._fleet, entry.topic_key)
        slot = 0
        while self._slots.setdefault((service, slot), key) != key:
            slot += 1
        return _Held(service, service_id(service, entry.agent.node, slot), self._agent_id(entry.agent))

    def _remove(self, key: _Key) -> None:
        held = self._held.get(key)
        if held:
            self._api.deregister(held.id)
            self._held.pop(key, None)
            for place in [place for place, holder in list(self._slots.items()) if holder == key]:
                self._slots.pop(place, None)

    def _agent_id(self, agent: AgentEntry) -> str:
        return service_id(agent_service(self._fleet), agent.node)

    def _put(self, entry: Entry, held: _Held) -> None:
        agent = entry if isinstance(entry, AgentEntry) else entry.agent
        ttl = {
            "CheckID": _check_id(held.id),
            "Name": "heartmesh",
            "TTL": f"{self._options.ttl_s}s",
            "Status": "passing",
            "DeregisterCriticalServiceAfter": f"{self._options.deregister_after_s}s",
        }
        alias = {
            "CheckID": f"{held.id}:agent",
            "Name": "heartmesh agent",
            "AliasService": held.agent_id,
            "Status": "passing",
        }
        self._api.register(
            {
                "name": held.service,
                "service_id": held.id,
                "address": agent.host,
                "port": agent.port,
                "meta": self._describe(entry, agent, held.maintenance),
                "check": ttl,
                "extra_checks": [] if entry is agent else [alias],
            }
        )

    def _describe(self, entry: Entry, agent: AgentEntry, maintenance: bool) -> dict[str, str]:
        meta = _Meta(
            heartmesh="1",
            fleet=self._fleet,
            node=agent.node,
            incarnation=agent.incarnation,
            public_key=agent.public_key,
            zone=agent.zone,
            roles=msgspec.json.encode(agent.roles).decode(),
            health="maintenance" if maintenance else "",
        )
        if isinstance(entry, Instance):
            meta.namespace, meta.topic = entry.topic_key
            meta.server, meta.session = entry.server, entry.session
        return {key: str(value) for key, value in msgspec.structs.asdict(meta).items()}

    def _instances(self, topic: TopicKey, rows: Sequence[Row]) -> Iterator[Instance]:
        for row, meta in self._ours(rows, topic):
            health = Health.WARNING if _own_status(row) == "warning" else Health.PASSING
            if meta.health:
                health = Health.MAINTENANCE
            yield Instance(meta.namespace, meta.topic, meta.server, meta.session, _agent(row.service, meta), health)

    def _ours(self, rows: Sequence[Row], topic: TopicKey) -> Iterator[tuple[Row, _Meta]]:
        """Keep the entries of this fleet and topic (an agent's is empty) that are up and can be read."""
        for row in rows:
            raw = row.service.meta or {}
            scope = (raw.get("fleet"), raw.get("namespace"), raw.get("topic"))
            if "heartmesh" not in raw or scope != (self._fleet, *topic):
                continue
            try:
                meta = msgspec.convert(raw, _Meta, strict=False)
                _check_row(row, meta)
            except (ValueError, msgspec.MsgspecError):
                self.skipped += 1
                continue
            if all(check.status != "critical" for check in row.checks):
                yield row, meta

    def _witness(self) -> None:
        """Let an empty answer pass only if this agent's own entry, which needs the same rights, can be seen."""
        own = self._own_agent
        deadline = time.monotonic() + WITNESS_S
        while own and own == self._own_agent:
            if self._api.instances(agent_service(self._fleet), id=own, here=True).rows:
                return
            if time.monotonic() > deadline:
                raise MatchmakerError(
                    f"{self._api} shows nothing, not even this agent's own entry {own}: either Consul forgot it and "
                    f"the agent has to register again, or {self._api.missing_right()}"
                )
            time.sleep(PAUSE_S)


def _key(entry: Entry) -> _Key:
    return (entry.node,) if isinstance(entry, AgentEntry) else (*entry.topic_key, *entry.key)


def _agent(service: Service, meta: _Meta) -> AgentEntry:
    roles = msgspec.json.decode(meta.roles, type=tuple[str, ...])
    return AgentEntry(meta.node, service.address, service.port, meta.incarnation, meta.public_key, meta.zone, roles)


def _check_row(row: Row, meta: _Meta) -> None:
    """Raise ValueError or MsgspecError if an entry that says it is ours cannot be used."""
    problem = node_id_problem(meta.node) or (name_problem("server", meta.server) if meta.topic else None)
    if problem:
        raise ValueError(problem)
    if not row.service.address or not 0 < row.service.port < 65_536:
        raise ValueError("no address or port")
    if _own_status(row) is None:
        raise ValueError("no TTL check")
    msgspec.json.decode(meta.roles, type=tuple[str, ...])


def _check_id(id: str) -> str:
    return f"{id}:ttl"


def _own_status(row: Row) -> str | None:
    return next((check.status for check in row.checks if check.check_id == _check_id(row.service.id)), None)
