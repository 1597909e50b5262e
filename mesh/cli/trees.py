"""The whole fleet for people, made of what the local agent knows of it: values in, rich renderables or text out."""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.tree import Tree

from mesh.cli.tables import rows_table, seconds

__all__ = ["Rates", "dot_of", "state_of", "top_of", "tree_of"]

Report = Mapping[str, Any]

STALE_ROUNDS = 3
"""What an agent said is old when it is older than so many rounds of asking."""


def state_of(node: Report, seen: Report) -> tuple[str, str]:
    """Return an agent's state, and a colour for it."""
    view, age_s = node["view"], node["age_s"]
    if view is None:
        return "not heard of", "dim"
    if age_s > STALE_ROUNDS * seen["view_s"] + 1:
        return f"silent for {seconds(age_s)}", "red"
    doubting = [
        other["node"]
        for other in seen["nodes"]
        for link in (other["view"]["links"] if other["view"] else ())
        if link["peer"] == node["node"] and link["condition"] != "alive"
    ]
    if doubting:
        return f"suspect to {', '.join(doubting)}", "yellow"
    if view["state"] != "serving":
        return view["state"], "yellow"
    if view["matchmaker"] is False:
        return "its matchmaker does not answer", "yellow"
    return "serving", "green"


# As a tree


def tree_of(seen: Report) -> RenderableType:
    """Return every agent with its links and apps."""
    tree = Tree(f"fleet {escape(seen['fleet'])}, as {escape(seen['node'])} sees it")
    for node in seen["nodes"]:
        state, colour = state_of(node, seen)
        branch = tree.add(
            f"[bold]{escape(node['node'])}[/] [{colour}]{escape(state)}[/] [dim]{escape(node['endpoint'])}[/]"
        )
        view = node["view"] or {"links": (), "apps": (), "left_out": 0}
        for link in view["links"]:
            kind = "persistent" if link["persistent"] else "ephemeral"
            rtt = f", {link['rtt_ms']:.2f} ms" if link["rtt_ms"] is not None else ""
            odd = f" [yellow]{link['condition']}[/]" if link["condition"] != "alive" else ""
            branch.add(f"link to {escape(link['peer'])}: {kind}{rtt}{odd}")
        for app in view["apps"]:
            name = escape(_label(app["namespace"], app["name"])) + ("" if app["attached"] else " [yellow]away[/]")
            leaf = branch.add(f"app {name}")
            for service in app["serves"]:
                leaf.add(f"serves {escape(service['topic'])}@{escape(service['server'])}")
            for call in app["calls"]:
                leaf.add(f"calls {escape(call['topic'])}")
        if view["left_out"]:
            branch.add(f"[dim]and {view['left_out']} rows that had no room[/]")
    if seen["unlisted"]:
        tree.add(f"[dim]and {seen['unlisted']} agents beyond view_nodes_max[/]")
    return tree


# As a graph


def dot_of(seen: Report) -> str:
    """Return a graph in Graphviz's language: agents and their links, apps and the topics that they call and serve."""
    lines = ["graph mesh {", "  graph [overlap=false];", "  node [fontname=sans];"]
    drawn: dict[tuple[str, str], None] = {}
    for node in seen["nodes"]:
        state, colour = state_of(node, seen)
        shade = {"green": "darkgreen", "yellow": "orange", "dim": "gray"}.get(colour, colour)
        label = _quoted(f"{node['node']}\n{state}")
        lines.append(f"  {_quoted('agent ' + node['node'])} [label={label}, shape=box, color={shade}];")
        view = node["view"] or {"links": (), "apps": ()}
        for link in view["links"]:
            pair = (min(node["node"], link["peer"]), max(node["node"], link["peer"]))
            if pair not in drawn:
                drawn[pair] = None
                style = "bold" if link["persistent"] else "dashed"
                ends = " -- ".join(_quoted(f"agent {one}") for one in pair)
                lines.append(f"  {ends} [style={style}];")
        for app in view["apps"]:
            name = _quoted(f"app {_label(app['namespace'], app['name'])} at {node['node']}")
            lines.append(f"  {name} [label={_quoted(app['name'])}, shape=ellipse];")
            lines.append(f"  {_quoted('agent ' + node['node'])} -- {name} [style=dotted];")
            for verb, rows, way in (("serves", app["serves"], "back"), ("calls", app["calls"], "forward")):
                for topic in dict.fromkeys(row["topic"] for row in rows):
                    of = _quoted("topic " + _label(app["namespace"], topic))
                    lines.append(f"  {of} [label={_quoted(topic)}, shape=hexagon];")
                    lines.append(f"  {name} -- {of} [dir={way}, label={verb}];")
    return "\n".join((*lines, "}"))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _label(namespace: str, name: str) -> str:
    return f"{namespace}|{name}" if namespace else name


# Live


class Rates:
    """Records per second of each link's end, from the difference of two looks."""

    def __init__(self) -> None:
        self.before: dict[tuple[str, str], tuple[int, float, int]] = {}
        self.rates: dict[tuple[str, str], float] = {}

    def take(self, seen: Report) -> None:
        """Take another look."""
        for node in seen["nodes"]:
            view = node["view"]
            for link in view["links"] if view else ():
                key, records = (node["node"], link["peer"]), link["records_in"] + link["records_out"]
                incarnation, clock_s, counted = self.before.get(key, (0, 0.0, 0))
                if incarnation == view["incarnation"] and clock_s < view["clock_s"]:
                    self.rates[key] = max(0, records - counted) / (view["clock_s"] - clock_s)
                self.before[key] = (view["incarnation"], view["clock_s"], records)

    def of(self, node: str, peer: str) -> float | None:
        """Return the rate of the link between two agents, of either end that is known."""
        known = [self.rates[key] for key in ((node, peer), (peer, node)) if key in self.rates]
        return max(known, default=None)


def top_of(seen: Report, rates: Rates) -> RenderableType:
    """Return agents, links and topics, the busiest first."""
    return Group(
        f"[bold]fleet {escape(seen['fleet'])}[/], as {escape(seen['node'])} sees it",
        "",
        _agents(seen),
        "",
        _links(seen, rates),
        "",
        _topics(seen),
    )


def _agents(seen: Report) -> RenderableType:
    rows = []
    for node in seen["nodes"]:
        state, colour = state_of(node, seen)
        view = node["view"]
        counts = (str(len(view["apps"])), str(len(view["links"])), f"{view['lag_ms']} ms") if view else ("", "", "")
        age = f"{node['age_s']:.1f} s" if view else ""
        rows.append((escape(node["node"]), f"[{colour}]{escape(state)}[/]", *counts, age))
    return rows_table(
        ("AGENT", "STATE", "APPS", "LINKS", "LOOP LAG", "SAID"), rows, ("APPS", "LINKS", "LOOP LAG", "SAID")
    )


def _links(seen: Report, rates: Rates) -> RenderableType:
    found: dict[tuple[str, str], tuple[float, tuple[str, ...]]] = {}
    for node in seen["nodes"]:
        for link in node["view"]["links"] if node["view"] else ():
            pair = (min(node["node"], link["peer"]), max(node["node"], link["peer"]))
            rate = rates.of(*pair)
            kind = "[red]persistent[/]" if link["persistent"] else "[cyan]ephemeral[/]"
            rtt = f"{link['rtt_ms']:.2f} ms" if link["rtt_ms"] is not None else "-"
            shown = f"{rate:.0f}/s" if rate is not None else "-"
            row = (escape(f"{pair[0]} - {pair[1]}"), kind, rtt, shown, str(link["in_flight"]), link["condition"])
            found.setdefault(pair, (rate or 0.0, row))
    rows = [row for _, row in sorted(found.values(), key=lambda item: -item[0])]
    return rows_table(("LINK", "KIND", "RTT", "RECORDS", "IN FLIGHT", "PEER"), rows, ("RTT", "RECORDS", "IN FLIGHT"))


def _topics(seen: Report) -> RenderableType:
    rates: dict[str, float] = {}
    hot: dict[str, bool] = {}
    callers: dict[str, dict[str, None]] = {}
    servers: dict[str, dict[str, None]] = {}
    for node in seen["nodes"]:
        view = node["view"] or {"topics": (), "apps": ()}
        for topic in view["topics"]:
            name = _label(topic["namespace"], topic["topic"])
            rates[name] = rates.get(name, 0.0) + topic["rate"]
            hot[name] = hot.get(name, False) or topic["hot"]
        for app in view["apps"]:
            for rows, into in ((app["calls"], callers), (app["serves"], servers)):
                for row in rows:
                    name = _label(app["namespace"], row["topic"])
                    into.setdefault(name, {})[f"{app['name']}@{node['node']}"] = None
    names = sorted({**rates, **callers, **servers}, key=lambda name: (-rates.get(name, 0.0), name))
    rows = [
        (
            escape(name),
            "[red]hot[/]" if hot.get(name) else "[cyan]cold[/]",
            f"{rates.get(name, 0.0):.1f}/s",
            escape(", ".join(callers.get(name, ()))),
            escape(", ".join(servers.get(name, ()))),
        )
        for name in names
    ]
    return rows_table(("TOPIC", "HEAT", "RATE", "CALLED BY", "SERVED BY"), rows, ("RATE",))
