"""Tables for people, made of what an agent reports: values in, rich renderables out."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table

__all__ = ["console", "dead_table", "links_table", "rows_table", "status_view", "topics_table", "why_of"]

WIDTH_OF_FILES = 200
"""Columns where the output is no terminal and COLUMNS does not say."""

REFUSED_SHOWN = 5
"""The latest connections that came to nothing, in the status for people; all that are kept are in its JSON."""

Report = Mapping[str, Any]


def console() -> Console:
    """Return standard output; rich itself leaves colours out for NO_COLOR and where it is no terminal."""
    width = None if sys.stdout.isatty() else int(os.environ.get("COLUMNS") or WIDTH_OF_FILES)
    return Console(width=width, highlight=False)


def rows_table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> Table:
    """Return a table of plain text; the columns named in ``right`` are aligned so."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for header in headers:
        table.add_column(header, justify="right" if header in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


# Links


def links_table(links: Sequence[Report]) -> RenderableType:
    """Return every link: to whom, what it is and why, how it is, and what went over it."""
    if not links:
        return "no links: this agent talks to no other now"
    headers = ("PEER", "LINK", "WHY", "RTT", "HEARD", "AGE", "RECORDS IN", "OUT", "BYTES IN", "OUT")
    right = ("RTT", "HEARD", "AGE", "RECORDS IN", "OUT", "BYTES IN")
    rows = [
        (
            escape(link["peer"]),
            _kind(link),
            escape(why_of(link)),
            f"{link['rtt_ms']:.2f} ms" if link["rtt_ms"] is not None else "-",
            f"{seconds(link['heard_s'])} ago",
            seconds(link["age_s"]),
            str(link["records_in"]),
            str(link["records_out"]),
            size(link["bytes_in"]),
            size(link["bytes_out"]),
        )
        for link in links
    ]
    return rows_table(headers, rows, right)


def _kind(link: Report) -> str:
    """Return persistent or ephemeral, coloured, and what is out of the ordinary."""
    colour = "red" if link["kind"] == "persistent" else "cyan"
    odd = [state for state in (link["phase"], link["condition"]) if state not in ("open", "alive", "unknown")]
    return f"[{colour}]{link['kind']}[/]" + (f" [yellow]{' '.join(odd)}[/]" if odd else "")


def why_of(link: Report) -> str:
    """Return why a link is there: its topics with their rates or pins, what is in flight, or the peer's wish."""
    reasons = []
    for topic in link["topics"]:
        rated = f"{'hot' if topic['hot'] else 'cold'} {topic['rate']:.1f}/s"
        heat = f"pinned {topic['pin']}" if topic["pin"] else rated
        reasons.append(f"{topic['topic']} {heat}")
    if link["leases"]:
        reasons.append(f"{link['leases']} in flight")
    if "them" in link["kept_by"] and "us" not in link["kept_by"]:
        reasons.append("hot for the peer")
    return ", ".join(reasons) or "idle"


# Topics


def topics_table(topics: Sequence[Report]) -> RenderableType:
    """Return every topic of interest to this agent, an instance a line."""
    if not topics:
        return "no topics: no app of this machine serves or calls any now"
    rows = []
    for topic in topics:
        name = f"{topic['namespace']}|{topic['topic']}" if topic["namespace"] else topic["topic"]
        heat = "[red]hot[/]" if topic["hot"] else "[cyan]cold[/]"
        heat += f" (pinned {topic['pin']})" if topic["pin"] else ""
        first = (escape(name), heat, f"{topic['rate']:.1f}/s", str(topic["waiting"]))
        instances = [_instance(instance) for instance in topic["instances"]]
        instances += [(escape(gone), "", "[yellow]absent[/]") for gone in topic["absent"]]
        nobody = "nobody" if topic["known"] else "being looked up"
        for number, instance in enumerate(instances or [(f"[yellow]{nobody}[/]", "", "")]):
            rows.append((*(first if number == 0 else ("", "", "", "")), *instance))
    return rows_table(("TOPIC", "HEAT", "RATE", "WAITING", "SERVED BY", "AT", "HEALTH"), rows, ("RATE", "WAITING"))


def _instance(instance: Report) -> tuple[str, str, str]:
    state = instance["health"] if instance["health"] != "passing" else "ok"
    state += ", left out" if instance["hidden"] else ""
    colour = "green" if state == "ok" else "yellow"
    at = "this agent" if instance["local"] else instance["endpoint"]
    return escape(f"{instance['node']}/{instance['server']}"), escape(at), f"[{colour}]{state}[/]"


# Dead letters


def dead_table(letters: Sequence[Report]) -> RenderableType:
    """Return every dead letter, a line each."""
    if not letters:
        return "no dead letters"
    rows = [
        (
            str(letter["number"]),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(letter["died_at"])),
            escape(f"{letter['topic']}@{letter['server']}" if letter["server"] else letter["topic"]),
            escape(letter["namespace"]),
            size(letter["bytes"]),
            letter["reason"],
            escape(letter["text"]),
        )
        for letter in letters
    ]
    return rows_table(("NUMBER", "DIED", "TOPIC", "NAMESPACE", "BYTES", "REASON", "WHY"), rows, ("NUMBER", "BYTES"))


# Status


def status_view(status: Report) -> RenderableType:
    """Return who the agent is, how it is, and its apps."""
    totals = status["totals"]
    lines = [
        ("node", escape(f"{status['node']} of fleet {status['fleet']}, incarnation {status['incarnation']}")),
        ("state", "[yellow]draining[/]" if status["draining"] else "[green]serving[/]"),
        ("links", f"{status['links']} of {status['links_max']}, reached at {status['endpoint']}"),
        ("messages", f"{status['outstanding']} outstanding, {status['waiting']} waiting"),
        ("so far", ", ".join(f"{totals[kind]} {kind}" for kind in ("calls", "casts", "fanouts", "served"))),
    ]
    if status["policy"]["rules"] or status["policy"]["default"] != "allow":
        lines.append(("policy", _policy(status["policy"])))
    if status["spool"]["state"] != "none":
        lines.append(("spool", _spool(status["spool"])))
    if status.get("pid"):
        process = f"pid {status['pid']}, preset {status['preset']}, loop lag {status['loop_lag_ms']} ms"
        lines.append(("process", f"{process}, {status['descriptors']} of {status['descriptors_max']} descriptors"))
        lines.append(("socket", escape(status["socket"])))
        lines.append(("matchmaker", _matchmaker(status["matchmaker"])))
        lines.append(("security", _security(status["security"])))
        lines += [("came to nothing", _refused(refused)) for refused in status["refused"][-REFUSED_SHOWN:]]
        lines.append(("health", _health(status["health"])))
        if "topology" in status:
            lines.append(("topology", _topology(status["topology"])))
    about = Table(box=None, pad_edge=False, show_header=False)
    about.add_column(style="bold")
    about.add_column(overflow="fold")
    for name, text in lines:
        about.add_row(name, text)
    return Group(about, "", _apps_table(status["apps"]))


def _matchmaker(facts: Report) -> str:
    counts = f"{facts['registered']} of {facts['to_register']} registered, {facts['watched']} topics watched"
    if facts["reachable"]:
        return f"{facts['kind']}, [green]reachable[/], {counts}"
    if facts["reachable"] is None:
        return f"{facts['kind']}, [yellow]has not answered yet[/], {counts}"
    return f"{facts['kind']}, [red]away for {seconds(facts['away_s'])}[/]: {escape(facts['problem'])}; {counts}"


def _health(facts: Report) -> str:
    colour = "green" if facts["status"] == "passing" else "red" if facts["status"] == "critical" else "yellow"
    return f"[{colour}]{facts['status']}[/]: {escape(facts['why'])}"


def _topology(facts: Report) -> str:
    drawn = f"{facts['edges']} edges told{', all of the fleet drawn by this agent' if facts['keeper'] else ''}"
    return f"[red]not told[/]: {escape(facts['problem'])}" if facts["problem"] else drawn


def _spool(facts: Report) -> str:
    oldest = f", the oldest for {seconds(facts['oldest_s'])}" if facts["records"] else ""
    text = f"{facts['records']} casts ({size(facts['bytes'])}){oldest}; {facts['dead']} dead letters"
    return f"{text}; [red]{escape(facts['problem'])}[/]" if facts["problem"] else text


def _security(facts: Report) -> str:
    if not facts["curve"]:
        return "[yellow]links are neither encrypted nor proven[/]: curve is off"
    revoked = f"{facts['revoked']} keys revoked by list {facts['revocations']}"
    text = f"CURVE, key {escape(facts['key'])}…, certificate until {facts['valid_until']}, {revoked}"
    problem = facts.get("problem")  # agents before it was told have none
    return f"{text}; [red]what was published is not seen or refused[/]: {escape(problem)}" if problem else text


def _policy(facts: Report) -> str:
    """Return how many rules there are, and what they refused, most first."""
    most = sorted(facts["refused"].items(), key=lambda item: -item[1])
    told = [f"{escape(rule)} refused {count}" for rule, count in most[:REFUSED_SHOWN]]
    more = [f"{len(most) - REFUSED_SHOWN} more"] if len(most) > REFUSED_SHOWN else []
    return f"{facts['rules']} rules, default {facts['default']}; {', '.join(told + more) or 'nothing was refused'}"


def _refused(facts: Report) -> str:
    """Return one connection that was turned away or did not get through its handshake."""
    at = time.strftime("%H:%M:%S", time.localtime(facts["at"]))
    return f"[dim]{at}[/] {escape(facts['peer'])} at {escape(facts['address'])}: [yellow]{escape(facts['why'])}[/]"


def _apps_table(apps: Sequence[Report]) -> RenderableType:
    if not apps:
        return "no apps"
    rows = [
        (
            escape(app["name"]),
            escape(app["namespace"]),
            str(app["pid"]),
            "[green]attached[/]" if app["attached"] else "[yellow]away[/]",
            f"{app['outstanding_records']} ({size(app['outstanding_bytes'])})",
            escape(", ".join(f"{serves['topic']}@{serves['server']}" for serves in app["serves"])),
        )
        for app in apps
    ]
    return rows_table(("APP", "NAMESPACE", "PID", "STATE", "OUTSTANDING", "SERVES"), rows, ("PID", "OUTSTANDING"))


# Numbers


def seconds(count: float) -> str:
    """Return a duration in its two greatest units."""
    if count < 60:
        return f"{count:.1f} s"
    minutes, rest = divmod(round(count), 60)
    hours, minutes = divmod(minutes, 60)
    if hours < 1:
        return f"{minutes} min {rest} s"
    return f"{hours // 24} d {hours % 24} h" if hours >= 24 else f"{hours} h {minutes} min"


def size(count: float) -> str:
    """Return bytes in a unit that keeps the number short."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
