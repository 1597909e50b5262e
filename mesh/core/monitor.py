"""Calls that are watched: a caller may ask that a long call be given up when its server shows no sign of life.

A sign of life is an answer to a question that only the serving app itself answers; its agent cannot tell a handler
that works from a process that was stopped. Each target is asked about all that it has of ours in one question, so
often that one answer may be lost.
"""

from mesh.core.calling import Calling
from mesh.core.context import Context
from mesh.core.outbox import Entry, Key, Place, TargetKey
from mesh.core.pool import Action
from mesh.core.records import Answer, Ask, Cancel, Status, Verdict

__all__ = ["MONITOR", "Monitor"]

MONITOR = 0
"""The number of such questions: an answer to any of them is a sign of life."""

MONITOR_MIN_S = 1.0
"""The shortest silence that ends a call."""

IDS_MAX = 4_096
"""Ids in one question."""


class Monitor:
    """The calls of a node's apps that are watched."""

    def __init__(self, context: Context, calling: Calling) -> None:
        self.context = context
        self.state = context.state
        self.calling = calling
        self.sending = calling.sending

    def tick(self, now: float) -> list[Action]:
        """Ask about what is due, and give up what was silent for too long."""
        outbox = self.state.outbox
        due: dict[TargetKey, list[Key]] = {}
        actions: list[Action] = []
        for key in list(outbox.monitored):
            entry = outbox.entries[key]
            if entry.place is not Place.PLACED:
                entry.seen_at = entry.looked_at = now
                continue
            limit_s = max(MONITOR_MIN_S, entry.request.monitor_ms / 1000)
            if now - entry.seen_at >= limit_s:
                actions += self._silent(entry, limit_s, now)
            elif now - max(entry.seen_at, entry.looked_at) >= limit_s / 3:
                entry.looked_at = now
                due.setdefault(entry.target, []).append(key)
        incarnation = self.state.peers.identity.incarnation
        for (node, session), keys in due.items():
            for start in range(0, len(keys), IDS_MAX):
                ids = keys[start : start + IDS_MAX]
                ask = Ask(self.context.node, incarnation, MONITOR, session, 0, ids, alive=True)
                self.context.answer(node, ask)
        return actions

    def heard(self, node: str, answer: Answer, now: float) -> None:
        """A serving app says that it works at these."""
        for key, verdict in zip(answer.ids, answer.verdicts, strict=False):
            entry = self.state.outbox.entries.get(key)
            if entry is not None and entry.target == (node, answer.target) and verdict == Verdict.RUNNING:
                entry.seen_at = now

    def lagged(self, lag_s: float) -> None:
        """This node's own loop came late: nobody else's silence includes that time."""
        for key in self.state.outbox.monitored:
            self.state.outbox.entries[key].seen_at += lag_s

    def _silent(self, entry: Entry, limit_s: float, now: float) -> list[Action]:
        """Nothing shows that the app of an entry is alive: place it elsewhere if it may run twice, else end it."""
        node = entry.target[0]
        self.sending.unplace(entry, now)
        if entry.repeatable:
            entry.doubtful = True
            return self.calling.replace(entry, now)
        self.context.answer(node, Cancel(self.context.node, *entry.key))
        text = f"its app at {node} showed no sign of life for {limit_s:g} s"
        self.calling.end(entry.key, self.calling.failure(entry.request, Status.INDETERMINATE, text), now)
        return []
