"""What the topology asks of Consul: each agent tells its edges, and one of all draws the picture.

An agent's edges are one key, bound to a session that dies with the agent: Consul then deletes the key by itself. The
keeper's lock is another key of such a session. What the keeper writes stands in the catalogue, on a node that is no
machine, and does not depend on who wrote it, so that another keeper goes on where one ended.
"""

import base64
from collections.abc import Sequence

import msgspec

from mesh.core.edges import Caller, Edge
from mesh.core.health import Verdict
from mesh.matchmaker.base import MatchmakerError
from mesh.matchmaker.consul_api import ConsulApi, ConsulOptions, Found, read_found, waiting
from mesh.matchmaker.names import app_service, fleet_key, service_id, slug, topology_node
from mesh.matchmaker.picture import (
    ADDRESS,
    Entry,
    Pair,
    Told,
    decode,
    encode,
    intention_changes,
    pair,
    proxies,
    proxy,
    upstreams,
)

__all__ = ["ConsulTopology"]

_AGENT_RIGHTS = 'session_prefix "" { policy = "write" } and key_prefix "%sedges/" { policy = "write" }'
_KEEPER_RIGHTS = (
    'key "%skeeper" { policy = "write" }, node "%s" { policy = "write" } and service_prefix "heartmesh-" '
    '{ policy = "write" intentions = "write" }'
)


class ConsulTopology:
    """One agent's part in the topology. Verbs do their work once, or raise MatchmakerError."""

    def __init__(self, fleet: str, node: str, options: ConsulOptions) -> None:
        self._fleet = fleet
        self._node = node
        self._options = options
        self._api = ConsulApi(options)
        self._picture = topology_node(fleet)
        self._edges_prefix = f"{fleet_key(fleet)}edges/"
        self._edges_key = self._edges_prefix + slug(node)
        self._keeper_key = f"{fleet_key(fleet)}keeper"
        self._agent_rights = _AGENT_RIGHTS % fleet_key(fleet)
        self._keeper_rights = _KEEPER_RIGHTS % (fleet_key(fleet), self._picture)

    # Every agent

    def open_session(self, ttl_s: float) -> str:
        """Open a session that ends with this agent; return its id."""
        body = {"Name": f"heartmesh {self._node}", "TTL": f"{ttl_s}s", "Behavior": "delete", "LockDelay": "0s"}
        id: str = self._put("open a session", "/v1/session/create", body, self._agent_rights).body["ID"]
        return id

    def keep_session(self, session: str) -> bool:
        """Say that this agent lives; False: the session has ended."""
        answer = self._put("renew the session", f"/v1/session/renew/{session}", None, self._agent_rights)
        return answer.body is not None

    def end_session(self, session: str) -> None:
        """End a session: what is bound to it goes."""
        self._put("end a session", f"/v1/session/destroy/{session}", None, self._agent_rights)

    def tell(self, session: str, edges: Sequence[Edge]) -> None:
        """Write this agent's edges, in place of what an agent before it left."""
        pairs = encode(pair(self._fleet, edge) for edge in edges)
        if not self._acquire(self._edges_key, session, pairs, self._agent_rights):
            holder = self._holder(self._edges_key)
            if holder and holder != session:
                self.end_session(holder)
            if not self._acquire(self._edges_key, session, pairs, self._agent_rights):
                raise MatchmakerError(f"{self._api} holds {self._edges_key} for a session that is not this agent's")

    def register(self, caller: Caller) -> None:
        """Enter an app that only calls."""
        service = app_service(self._fleet, caller.namespace, caller.name)
        id = service_id(service, self._node)
        meta = {"heartmesh": "app", "fleet": self._fleet, "node": self._node, "app": caller.name}
        self._api.register(
            {
                "name": service,
                "service_id": id,
                "meta": meta | {"namespace": caller.namespace},
                "check": {
                    "CheckID": f"{id}:ttl",
                    "Name": "heartmesh",
                    "TTL": f"{self._options.ttl_s}s",
                    "Status": "passing",
                    "DeregisterCriticalServiceAfter": f"{self._options.deregister_after_s}s",
                },
            }
        )

    def report(self, caller: Caller, verdict: Verdict) -> bool:
        """Renew such an app's check; False: it is not known there."""
        id = service_id(app_service(self._fleet, caller.namespace, caller.name), self._node)
        return self._api.report(f"{id}:ttl", verdict.health, verdict.text)

    def withdraw(self, caller: Caller) -> None:
        """Remove such an app."""
        self._api.deregister(service_id(app_service(self._fleet, caller.namespace, caller.name), self._node))

    # The keeper

    def lock(self, session: str) -> bool:
        """Become the keeper, or stay it; False: another is."""
        if self._holder(self._keeper_key) == session:
            return True
        return self._acquire(self._keeper_key, session, self._node.encode(), self._keeper_rights)

    def wait_for_lock(self, wait_s: float) -> None:
        """Wait until the lock may be free."""
        position = self._get("read the lock", f"/v1/kv/{self._keeper_key}").position
        if self._holder(self._keeper_key):
            self._get("wait for the lock", f"/v1/kv/{self._keeper_key}", position, wait_s)

    def told(self, position: int, wait_s: float) -> Told:
        """Return what all agents tell: at once for position 0, else when it changes or after ``wait_s``."""
        answer = self._get("read the edges", f"/v1/kv/{self._edges_prefix}", position, wait_s, recurse=True)
        rows = answer.body or []
        if all(row["Key"] != self._edges_key for row in rows):
            who = self._api.missing_right(rights=self._agent_rights)
            raise MatchmakerError(f"{self._api} does not show this agent's own edges: they were not told yet, or {who}")
        pairs: list[Pair] = []
        unread = 0
        for row in rows:
            try:
                pairs += decode(base64.b64decode(row["Value"] or ""))
            except (ValueError, msgspec.MsgspecError):
                unread += 1
        return Told(sorted(set(pairs)), unread, answer.position if answer.position >= position else 0)

    def draw(self, pairs: Sequence[Pair]) -> int:
        """Have the picture show these edges and no others; return how much was written."""
        return self._draw_proxies(pairs) + self._draw_intentions(pairs)

    def close(self) -> None:
        """Let go of connections; a verb that waits ends with MatchmakerError."""
        self._api.close()

    def _draw_proxies(self, pairs: Sequence[Pair]) -> int:
        body = self._get("read the proxies", f"/v1/catalog/node-services/{self._picture}").body or {}
        found = upstreams(body.get("Services") or [])
        wanted = {entry["ID"]: (service, calls, entry) for service, calls, entry in _entries(pairs)}
        written = 0
        for service, calls, entry in wanted.values():
            if found.get(entry["ID"]) != (service, calls):
                node = {"Node": self._picture, "Address": ADDRESS, "NodeMeta": {"external-node": "true"}}
                self._put("register a proxy", "/v1/catalog/register", node | {"Service": entry}, self._keeper_rights)
                written += 1
        for id in [id for id in found if id not in wanted]:
            gone = {"Node": self._picture, "ServiceID": id}
            self._put("remove a proxy", "/v1/catalog/deregister", gone, self._keeper_rights)
            written += 1
        return written

    def _draw_intentions(self, pairs: Sequence[Pair]) -> int:
        entries = self._get("list intentions", "/v1/config/service-intentions").body or []
        changes = intention_changes(entries, pairs, self._fleet)
        for service, entry, read_at in changes:
            if entry is not None:
                path, params = "/v1/config", [("cas", read_at)]
                self._put("write an intention", path, entry, self._keeper_rights, params)
            else:
                path = f"/v1/config/service-intentions/{service}"
                self._delete("delete an intention", path, [("cas", read_at)])
        return len(changes)

    # Consul

    def _holder(self, key: str) -> str:
        rows = self._get(f"read {key}", f"/v1/kv/{key}").body
        return rows[0].get("Session", "") if rows else ""

    def _acquire(self, key: str, session: str, value: bytes, rights: str) -> bool:
        params = [("acquire", session)]
        answer = self._api.ask(
            f"write {key}",
            lambda api: api.http.put(read_found, f"/v1/kv/{key}", params, value, api.prepare_headers()),
            rights,
        )
        return answer.body is True

    def _get(self, what: str, path: str, position: int = 0, wait_s: float = 0.0, *, recurse: bool = False) -> Found:
        params: list[tuple[str, object]] = [("recurse", "true")] if recurse else []
        params += waiting(position, wait_s)
        answer: Found = self._api.ask(
            what, lambda api: api.http.get(read_found, path, params, api.prepare_headers()), self._keeper_rights
        )
        return answer

    def _put(self, what: str, path: str, body: object, rights: str, params: Sequence[object] = ()) -> Found:
        data = b"" if body is None else msgspec.json.encode(body)
        answer: Found = self._api.ask(
            what, lambda api: api.http.put(read_found, path, list(params), data, api.prepare_headers()), rights
        )
        return answer

    def _delete(self, what: str, path: str, params: list[tuple[str, object]]) -> None:
        self._api.ask(
            what,
            lambda api: api.http.delete(read_found, path, params, headers=api.prepare_headers()),
            self._keeper_rights,
        )


def _entries(pairs: Sequence[Pair]) -> list[tuple[str, tuple[str, ...], Entry]]:
    return [(service, calls, proxy(service, calls)) for service, calls in proxies(pairs).items()]
