"""What Prometheus is told: made when it asks, from the same reports that `mesh status` shows; nothing is counted twice.

Labels are bounded: topics, peers and rules beyond `LABELS_MAX` are summed up as ``other``.
"""

from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from mesh.core.records import Status

__all__ = ["CONTENT_TYPE_LATEST", "LABELS_MAX", "expose", "families"]

LABELS_MAX = 50
"""Topics, peers, or rules, that have a label of their own."""

OTHER = "other"

Report = Mapping[str, Any]
Sample = tuple[tuple[str, ...], float]


def expose(
    status: Report, links: Iterable[Report], topics: Iterable[Report], limits: Mapping[str, Mapping[str, float]]
) -> bytes:
    """Return the text that Prometheus reads, from an agent's reports."""
    made = list(families(status, links, topics, limits))
    return generate_latest(_Collected(made))


class _Collected:
    """What `generate_latest` takes for a registry: only that it can be collected is used."""

    def __init__(self, made: list[Metric]) -> None:
        self.made = made

    def collect(self) -> list[Metric]:
        return self.made


def families(
    status: Report, links: Iterable[Report], topics: Iterable[Report], limits: Mapping[str, Mapping[str, float]]
) -> Iterator[Metric]:
    """Yield every metric of an agent."""
    yield from _agent(status)
    yield from _requests(status)
    yield from _links(list(links))
    yield _refused(status.get("refused", []))
    yield from _topics(list(topics))
    every = sorted(limits.items())
    used = [((name,), row["used"]) for name, row in every]
    most = [((name,), row["max"]) for name, row in every]
    yield _gauge("limit_used", "How much of a limit is used; by the option that sets it.", ("limit",), used)
    yield _gauge("limit_max", "The limit itself.", ("limit",), most)
    refused = [((name,), count) for name, count in sorted(status["totals"]["limits"].items())]
    yield _counter("limit_refusals", "What was refused because a limit was reached.", ("limit",), refused)
    denied: list[Sample] = [((name,), count) for name, count in sorted(status["policy"]["refused"].items())]
    text = "What the policy refused; by the rule that was against it."
    yield _counter("policy_refusals", text, ("rule",), _summed(denied))


def _agent(status: Report) -> Iterator[Metric]:
    about = {"node": status["node"], "fleet": status["fleet"], "version": metadata.version("heartmesh")}
    yield InfoMetricFamily("heartmesh_agent", "The agent itself.", value=about)
    matchmaker = status.get("matchmaker", {})
    plain = {
        "agent_incarnation": ("Greater at each start of the reactor.", status["incarnation"]),
        "agent_draining": ("Whether the agent takes nothing new.", status["draining"]),
        "loop_lag_seconds": (
            "How late the agent's loop was, as of its last beat.",
            status.get("loop_lag_ms", 0) / 1000,
        ),
        "matchmaker_reachable": ("Whether the matchmaker answers.", matchmaker.get("reachable") is True),
        "matchmaker_entries_registered": ("Entries that are registered.", matchmaker.get("registered", 0)),
        "matchmaker_entries_wanted": ("Entries that should be.", matchmaker.get("to_register", 0)),
        "apps": ("Apps of this machine.", len(status["apps"])),
        "apps_attached": ("Those of them that are connected now.", sum(app["attached"] for app in status["apps"])),
        "instances": ("Topics that they serve, app by app.", sum(len(app["serves"]) for app in status["apps"])),
        "requests_outstanding": ("Requests of local apps that have not ended.", status["outstanding"]),
        "requests_remembered": ("Requests that local apps serve or served, not yet forgotten.", status["remembered"]),
    }
    for name, (text, value) in plain.items():
        yield _gauge(name, text, (), [((), float(value))])


def _requests(status: Report) -> Iterator[Metric]:
    totals = status["totals"]
    kinds = [(("call",), totals["calls"]), (("cast",), totals["casts"]), (("fanout",), totals["fanouts"])]
    yield _counter("requests", "Requests that local apps made and this agent took.", ("kind",), kinds)
    yield _counter("requests_served", "Requests that local apps ended.", (), [((), totals["served"])])
    yield _counter("casts_failed", "Casts of local apps whose handler raised.", (), [((), totals["casts_failed"])])
    poisoned = "Messages not placed again, because too many apps died that had begun them."
    yield _counter("messages_poisoned", poisoned, (), [((), totals["poisoned"])])
    outcomes = {int(number): count for number, count in totals["outcomes"].items()}
    rows = [((one.name.lower(),), outcomes.get(int(one), 0)) for one in Status]
    yield _counter("outcomes", "Requests of local apps that ended otherwise than well.", ("outcome",), rows)


def _links(links: list[Report]) -> Iterator[Metric]:
    kinds = {"persistent": 0, "ephemeral": 0}
    for link in links:
        kinds[link["kind"]] += 1
    yield _gauge("links", "Links to other agents.", ("kind",), [((kind,), count) for kind, count in kinds.items()])
    suspect = sum(link["condition"] != "alive" for link in links)
    yield _gauge("links_suspect", "Links to peers that were not heard of lately.", (), [((), suspect)])
    shown = sorted(links, key=lambda link: link["peer"])[:LABELS_MAX]
    measured = [((link["peer"],), link["rtt_ms"] / 1000) for link in shown if link["rtt_ms"] is not None]
    yield _gauge("link_rtt_seconds", "A link's last heartbeat, there and back.", ("peer",), measured)


def _refused(refused: list[Report]) -> Metric:
    """The latest connections that came to nothing, by whom they were with, as far as that is known, and the machine."""
    latest = {(row["peer"], row["address"].rpartition(":")[0]): row["at"] for row in refused}
    text = "When a connection was last refused, or did not get through its handshake; unix time."
    return _gauge("connection_refused_timestamp_seconds", text, ("peer", "host"), sorted(latest.items()))


def _topics(topics: list[Report]) -> Iterator[Metric]:
    """The busiest topics by name; the others summed up."""
    busiest = sorted(topics, key=lambda row: (-row["rate"], row["namespace"], row["topic"]))
    labels = ("namespace", "topic")
    for name, text, value in (
        ("topic_requests_per_second", "Requests to a topic from this node, smoothed.", lambda row: row["rate"]),
        ("topic_hot", "Whether a topic's links are kept open; of other: how many.", lambda row: float(row["hot"])),
        ("topic_instances", "Instances of a topic that this agent knows.", lambda row: len(row["instances"])),
        ("topic_requests_waiting", "Requests that wait for an instance of a topic.", lambda row: row["waiting"]),
    ):
        rows: list[Sample] = [((row["namespace"], row["topic"]), value(row)) for row in busiest[:LABELS_MAX]]
        if len(busiest) > LABELS_MAX:
            rows.append((("", OTHER), sum(value(row) for row in busiest[LABELS_MAX:])))
        yield _gauge(name, text, labels, rows)


def _summed(samples: list[Sample]) -> list[Sample]:
    """Return the greatest of samples with one label by their names, the others summed up."""
    ranked = sorted(samples, key=lambda sample: -sample[1])
    rest = [((OTHER,), sum(value for _, value in ranked[LABELS_MAX:]))] if len(ranked) > LABELS_MAX else []
    return [*ranked[:LABELS_MAX], *rest]


def _gauge(name: str, text: str, labels: tuple[str, ...], samples: Iterable[Sample]) -> Metric:
    family = GaugeMetricFamily(f"heartmesh_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


def _counter(name: str, text: str, labels: tuple[str, ...], samples: Iterable[Sample]) -> Metric:
    family = CounterMetricFamily(f"heartmesh_{name}", text, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family
