"""The simulated matchmaker: what is registered, who watches it, and the ways in which it can be wrong.

It can be away (nothing is written or read until it is back), wiped, and its readers can be misled: a reader in
``misled`` is told only of instances on the nodes that it may see, and one in ``frozen`` nothing. Shells repair what
a matchmaker forgot, so ``wanted`` is what each living agent has registered and not withdrawn, and `repair` writes it
anew.
"""

from collections.abc import Callable

from mesh.core.catalogue import Health, Instance, Snapshot
from mesh.core.effects import Register, Renew, Withdraw
from mesh.types import InstanceKey, TopicKey

__all__ = ["Matchmaker"]


class Matchmaker:
    """One catalogue for all. ``tell(reader, snapshot)`` carries a snapshot to an agent."""

    def __init__(self, tell: Callable[[str, Snapshot], None]) -> None:
        self.tell = tell
        self.entries: dict[TopicKey, dict[InstanceKey, Instance]] = {}
        self.watchers: dict[TopicKey, dict[str, float]] = {}
        self.wanted: dict[str, dict[tuple[TopicKey, InstanceKey], Instance]] = {}
        self.undone: list[Register | Renew | Withdraw] = []
        self.misled: dict[str, tuple[str, ...]] = {}
        self.frozen: dict[str, None] = {}
        self.is_away = False
        self.index = 1

    # What agents want

    def watch(self, name: str, topic: TopicKey) -> None:
        """Tell an agent of a topic, now and at each change."""
        self.watchers.setdefault(topic, {}).setdefault(name, 0.0)
        self._show(name, topic)

    def unwatch(self, name: str, topic: TopicKey) -> None:
        """Tell an agent no more of a topic."""
        del self.watchers[topic][name]

    def change(self, name: str, effect: Register | Renew | Withdraw) -> None:
        """Do what an agent asks for, or, while away, when it is back."""
        instance = effect.instance
        wanted, key = self.wanted.setdefault(name, {}), (instance.topic_key, instance.key)
        if isinstance(effect, Withdraw):
            wanted.pop(key, None)
        elif isinstance(effect, Register) or key in wanted:
            wanted[key] = instance
        if self.is_away:
            self.undone.append(effect)
        else:
            self._write(effect)

    def _write(self, effect: Register | Renew | Withdraw) -> None:
        instance = effect.instance
        entries = self.entries.setdefault(instance.topic_key, {})
        if isinstance(effect, Withdraw):
            entries.pop(instance.key, None)
        elif isinstance(effect, Register) or instance.key in entries:
            entries[instance.key] = instance
        self._changed(instance.topic_key)

    # An agent is gone

    def leave(self, name: str) -> None:
        """An agent's process is gone: it wants and watches nothing; what it registered stays until its TTL is over."""
        self.wanted.pop(name, None)
        for watchers in self.watchers.values():
            watchers.pop(name, None)

    def forget(self, node: str, incarnation: int = 0) -> None:
        """Let the TTL run out of everything that a node, or only that incarnation of it, has registered."""
        for topic, entries in self.entries.items():
            gone = [i.key for i in entries.values() if i.agent.node == node and incarnation in (0, i.agent.incarnation)]
            for key in gone:
                del entries[key]
            if gone:
                self._changed(topic)

    # What it tells

    def _changed(self, topic: TopicKey) -> None:
        self.index += 1
        for watcher in self.watchers.get(topic, {}):
            self._show(watcher, topic)

    def _show(self, name: str, topic: TopicKey) -> None:
        """Tell a watcher what is known now."""
        if self.is_away or name in self.frozen:
            return
        entries, seen = self.entries.get(topic, {}), self.misled.get(name)
        shown = (
            entries[key]
            for key in sorted(entries)
            if entries[key].health is not Health.CRITICAL and (seen is None or key.node in seen)
        )
        self.tell(name, Snapshot(topic, self.index, tuple(shown)))

    def show_all(self, name: str = "") -> None:
        """Tell every watcher, or only this one, of every topic that it watches."""
        for topic, watchers in self.watchers.items():
            for watcher in watchers:
                if name in ("", watcher):
                    self._show(watcher, topic)

    # What goes wrong

    def wipe(self) -> None:
        """Lose everything that is registered."""
        for topic, entries in self.entries.items():
            entries.clear()
            self._changed(topic)

    def repair(self, name: str = "") -> None:
        """Every agent, or only this one, registers again what it wants."""
        for agent, wanted in self.wanted.items():
            if name in ("", agent):
                for (topic, key), instance in wanted.items():
                    if self.entries.setdefault(topic, {}).get(key) != instance:
                        self._write(Register(instance))

    def back(self) -> None:
        """All is well: what agents said meanwhile is done, what is missing is repaired, everybody is told the truth."""
        self.is_away = False
        self.misled.clear()
        self.frozen.clear()
        undone, self.undone = self.undone, []
        for effect in undone:
            self._write(effect)
        self.repair()
        self.show_all()
