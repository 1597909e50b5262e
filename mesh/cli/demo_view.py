"""What the demo shows: one stage that is told what happens, drawn live on a terminal, as plain lines elsewhere."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.text import Text

from mesh.cli.tables import rows_table, why_of

__all__ = ["LinkWatch", "Stage", "shown"]

EVENTS_SHOWN = 12
REDRAWS_PER_S = 8
QUIET_S = 0.5
"""A link that brought nothing for so long has an empty heart."""

Links = Sequence[Mapping[str, Any]]


class LinkWatch:
    """Tells what became of links from one look at them to the next."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[str, float]] = {}

    def look(self, node: str, links: Links) -> Iterator[str]:
        """Yield a line for each link of a node that was opened, closed, or changed its kind."""
        now = {link["peer"]: link for link in links if link["phase"] == "open"}
        for peer in [peer for at, peer in self._seen if at == node and peer not in now]:
            del self._seen[node, peer]
            yield f"link {node} → {peer} closed"
        for peer, link in now.items():
            kind, age_s = link["kind"], link["age_s"]
            before, aged_s = self._seen.get((node, peer), ("", 0.0))
            self._seen[node, peer] = kind, age_s
            if not before:
                yield f"link {node} → {peer} opened: {kind} ({why_of(link)})"
            elif age_s < aged_s:
                yield f"link {node} → {peer} was lost and is open again: {kind} ({why_of(link)})"
            elif before != kind:
                hot = "hot: persistent and heartbeated" if kind == "persistent" else "cold again: ephemeral"
                yield f"link {node} → {peer} is {hot} ({why_of(link)})"


class Stage:
    """The state of the demo, as far as people see it. Told by one thread, drawn by another."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.phase = ""
        self.done, self.total = 0, 1
        self._began = time.monotonic()
        self._links: dict[str, Links] = {}
        self._watch = LinkWatch()
        self._events: deque[str] = deque(maxlen=EVENTS_SHOWN)
        self._lock = threading.Lock()

    def enter(self, phase: str) -> None:
        """A new part begins."""
        self.phase = phase
        self.say(phase, style="bold")

    def say(self, text: str, style: str = "") -> None:
        """Something happened."""
        text = f"[{style}]{escape(text)}[/]" if style else escape(text)
        line = f"[dim]{time.monotonic() - self._began:5.1f} s[/]  {text}"
        with self._lock:
            self._events.append(line)
        if not self.console.is_terminal:
            self.console.print(line, soft_wrap=True)

    def see(self, node: str, links: Links) -> None:
        """An agent told of its links."""
        for line in self._watch.look(node, links):
            self.say(line)
        with self._lock:
            self._links[node] = links

    def draw(self) -> RenderableType:
        """Return what is seen now."""
        with self._lock:
            links = [(node, link) for node, held in sorted(self._links.items()) for link in held]
            events = [Text.from_markup(line) for line in self._events]
        rows = [
            (
                f"{escape(node)} → {escape(link['peer'])}",
                f"[{'red' if link['kind'] == 'persistent' else 'cyan'}]{link['kind']}[/]",
                "[red]♥[/]" if link["heard_s"] < QUIET_S else "[dim]♡[/]",
                f"{link['rtt_ms']:.1f} ms" if link["rtt_ms"] is not None else "",
                f"{link['records_in']} / {link['records_out']}",
                escape(why_of(link)),
            )
            for node, link in links
        ]
        headers = ("LINK", "KIND", " ", "RTT", "IN / OUT", "WHY")
        bar = ProgressBar(total=self.total, completed=self.done, width=60)
        table = rows_table(headers, rows, ("RTT", "IN / OUT")) if rows else Text("no links", style="dim")
        return Group(Text(self.phase, style="bold"), bar, "", table, "", *events)


@contextlib.contextmanager
def shown(stage: Stage) -> Iterator[None]:
    """Draw the stage while the context lasts, where there is a terminal to draw on."""
    if not stage.console.is_terminal:
        yield
        return
    with Live(
        console=stage.console, get_renderable=stage.draw, refresh_per_second=REDRAWS_PER_S, vertical_overflow="crop"
    ):
        yield
