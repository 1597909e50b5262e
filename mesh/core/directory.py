"""Who serves what: snapshots of the matchmaker merged with what this node knows better.

The matchmaker finds, and may be stale. This node knows better about its own apps (they are here), about instances
that gave work back (gone or full, for a while), and about the past: an instance that vanished without having said
that it drains is **absent**, not gone, for ``absent_grace_s``, so a service may restart without losing its mail. So
is an app of this node that the matchmaker lists and that has not come back to this agent, the successor of another.

A snapshot without any instance, after one with some, is believed only when it is read a second time, for a matchmaker
that has lost its data says the same.
"""

from collections.abc import Iterable
from typing import Annotated

from msgspec import Meta, Struct, field

from mesh.core.catalogue import AgentEntry, Health, Instance, Snapshot
from mesh.core.records import GiveBack
from mesh.types import InstanceKey, TopicKey

__all__ = ["Directory", "DirectoryOptions", "Group", "View"]


READY = (Health.PASSING, Health.WARNING)


class DirectoryOptions(Struct, frozen=True):
    """How long what was known is trusted."""

    absent_grace_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="How long a topic or server that vanished without a goodbye is waited for. Longer rides out "
            "slower restarts; shorter says Unroutable sooner.",
        ),
    ] = 60.0
    watches_max: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="Topics watched at once; each is one open request to Consul, which "
            "refuses the 201st of a host. One more is for the revocations, and up to two for the topology.",
        ),
    ] = 100
    watch_idle_s: Annotated[
        float,
        Meta(ge=1, le=86_400, description="A topic that was not used for this long is no longer watched."),
    ] = 300.0
    leave_linger_s: Annotated[
        float,
        Meta(
            ge=0,
            le=60,
            description="How long an instance that leaves in order stays in the catalogue as draining, so that every "
            "watcher sees that it said goodbye.",
        ),
    ] = 1.0


class Group(Struct):
    """Instances that a message may be sent to, sorted by key, and their keys beside them."""

    instances: list[Instance] = field(default_factory=list)
    keys: list[InstanceKey] = field(default_factory=list)

    def add(self, instance: Instance) -> None:
        """Append an instance whose key is greater than all before it."""
        self.instances.append(instance)
        self.keys.append(instance.key)


class View(Struct):
    """What is known of one topic. ``ready`` are those a message may be sent to, ``servers`` the same by server;
    ``watched``: the matchmaker is asked for it, ``known``: and has answered; ``refusals``: what those of the hidden
    said that are full; ``cursors``: who was served last, by server ("" for messages to any)."""

    topic: TopicKey
    used_at: float
    watched: bool = False
    known: bool = False
    doubted: bool = False
    listed: dict[InstanceKey, Instance] = field(default_factory=dict)
    local: dict[InstanceKey, Instance] = field(default_factory=dict)
    hidden: dict[InstanceKey, float] = field(default_factory=dict)
    refusals: dict[InstanceKey, GiveBack] = field(default_factory=dict)
    absent: dict[InstanceKey, float] = field(default_factory=dict)
    departed: dict[InstanceKey, float] = field(default_factory=dict)
    ready: Group = field(default_factory=Group)
    servers: dict[str, Group] = field(default_factory=dict)
    cursors: dict[str, InstanceKey] = field(default_factory=dict)

    def show(self, key: InstanceKey) -> None:
        """An instance is no longer hidden."""
        self.hidden.pop(key, None)
        self.refusals.pop(key, None)

    def refresh(self) -> None:
        """Recompute ``ready`` and ``servers`` after a change."""
        merged = {**self.listed, **self.local}
        self.ready, self.servers = Group(), {}
        for key in sorted(merged):
            instance = merged[key]
            if instance.health in READY and key not in self.hidden:
                self.ready.add(instance)
                self.servers.setdefault(instance.server, Group()).add(instance)
        self.refusals = {key: refusal for key, refusal in self.refusals.items() if key in merged}
        self.cursors = {server: key for server, key in self.cursors.items() if not server or server in self.servers}

    def full(self, server: str) -> tuple[GiveBack, float] | None:
        """Return what the first to be back of those that are full said, and when that is; None: nobody is full."""
        full = [(self.hidden[key], key) for key in self.refusals if not server or key.server == server]
        if not full:
            return None
        until, key = min(full)
        return self.refusals[key], until

    def everybody(self, server: str) -> Group:
        """Return who gets a fan-out: all that are ready, and those that are full."""
        full = [key for key in self.refusals if not server or key.server == server]
        if not full:
            return self.group(server)
        merged, everybody = {**self.listed, **self.local}, Group()
        for key in sorted([*self.group(server).keys, *full]):
            if merged[key].health in READY:
                everybody.add(merged[key])
        return everybody

    def group(self, server: str) -> Group:
        """Return who may get a message for this server, or for any if it is empty."""
        return self.servers.get(server, _NOBODY) if server else self.ready


_NOBODY = Group()


class Directory(Struct):
    """The views of all topics that are of interest here; ``node`` is this node's id."""

    node: str
    views: dict[TopicKey, View] = field(default_factory=dict)

    def use(self, topic: TopicKey, options: DirectoryOptions, now: float) -> tuple[View | None, list[TopicKey]]:
        """Return the topic's view, ``watched`` from now on, and the topics to watch no longer.

        None: ``watches_max`` topics are watched and in use. A topic that is only served here takes none of those.
        """
        view = self.views.get(topic)
        dropped: list[TopicKey] = []
        if view is None or not view.watched:
            watched = [v for v in self.views.values() if v.watched]
            if len(watched) >= options.watches_max:
                idle = [v for v in watched if now - v.used_at > 1.0]
                if not idle:
                    return None, []
                oldest = min(idle, key=lambda v: (v.used_at, v.topic))
                self._let_go(oldest)
                dropped.append(oldest.topic)
            view = view or View(topic, now)
            self.views[topic] = view
            view.watched = True
        view.used_at = now
        return view, dropped

    def _let_go(self, view: View) -> None:
        """Watch a topic no longer; of one that is served here only that is known from now on."""
        del self.views[view.topic]
        if view.local:
            kept = self.views[view.topic] = View(view.topic, view.used_at)
            kept.local, kept.absent, kept.departed = view.local, view.absent, view.departed
            kept.refresh()

    def snapshot(self, snapshot: Snapshot, options: DirectoryOptions, now: float) -> tuple[View | None, bool]:
        """Take in what the matchmaker says; return the view, and whether it must be read again to be believed."""
        view = self.views.get(snapshot.topic)
        if view is None:
            return None, False
        fresh = {i.key: i for i in snapshot.instances if i.agent.node != self.node}
        vanished = [key for key in view.listed if key not in fresh]
        unannounced = [key for key in vanished if view.listed[key].health is not Health.MAINTENANCE]
        if unannounced and not fresh and not view.doubted:
            view.doubted = True
            return view, True
        view.doubted = False
        for key in vanished:
            past = view.absent if key in unannounced else view.departed
            past[key] = now + options.absent_grace_s
        for ours in snapshot.instances:
            is_known = any(ours.key in known for known in (view.local, view.absent, view.departed))
            if ours.agent.node == self.node and ours.health is not Health.MAINTENANCE and not is_known:
                view.absent[ours.key] = now + options.absent_grace_s
        for key, instance in fresh.items():
            view.absent.pop(key, None)
            view.departed.pop(key, None)
            if key in view.hidden and instance != view.listed.get(key):
                view.show(key)
        view.listed = fresh
        view.known = True
        view.refresh()
        return view, False

    def add_local(self, instance: Instance, now: float) -> View:
        """An app of this node serves, or serves with another health."""
        view = self.views.get(instance.topic_key)
        if view is None:
            view = self.views[instance.topic_key] = View(instance.topic_key, now)
        view.local[instance.key] = instance
        view.absent.pop(instance.key, None)
        view.departed.pop(instance.key, None)
        view.refresh()
        return view

    def remove_local(self, instance: Instance, options: DirectoryOptions, now: float, *, orderly: bool) -> View | None:
        """An app of this node serves no more."""
        view = self.views.get(instance.topic_key)
        if view is None or view.local.pop(instance.key, None) is None:
            return view
        past = view.departed if orderly else view.absent
        past[instance.key] = now + options.absent_grace_s
        view.refresh()
        return view

    def strike(self, topic: TopicKey, keys: Iterable[InstanceKey]) -> None:
        """Forget these instances of other nodes, as though they had never been listed: nobody waits for them."""
        view = self.views[topic]
        for key in keys:
            view.show(key)
            for known in (view.listed, view.absent, view.departed):
                known.pop(key, None)
        view.refresh()

    def agent(self, node: str) -> AgentEntry | None:
        """Return what the matchmaker last said of the agent of a node that serves anything that is watched here."""
        listed = (i.agent for view in self.views.values() for i in view.listed.values() if i.agent.node == node)
        return max(listed, key=lambda agent: agent.incarnation, default=None)

    def hide(self, topic: TopicKey, key: InstanceKey, until: float, refusal: GiveBack | None = None) -> None:
        """This instance gave work back (gone or draining; with ``refusal``: full): choose others until then."""
        view = self.views.get(topic)
        if view is not None:
            view.show(key)
            view.hidden[key] = until
            if refusal is not None:
                view.refusals[key] = refusal
            view.refresh()

    def expected(self, view: View, server: str, patient: bool) -> bool:
        """Return whether somebody who is not ready now is waited for: absent, hidden, or not known yet.

        ``patient``: also whoever left in order or drains, as a cast does, since whoever served lately may be back in
        its time.
        """
        if not view.known:
            return True
        waited = [*view.absent]
        if patient:
            waited += view.departed
            waited += [key for key, instance in view.listed.items() if instance.health is Health.MAINTENANCE]
        waited += [key for key in view.hidden if key in view.listed or key in view.local]
        waited += [key for key, instance in view.local.items() if instance.health is Health.CRITICAL]
        return any(not server or key.server == server for key in waited)

    def tick(self, options: DirectoryOptions, now: float) -> tuple[list[TopicKey], list[TopicKey]]:
        """Forget what is past; return the topics to watch no longer, and those where somebody is back or given up."""
        unwatch: list[TopicKey] = []
        changed: list[TopicKey] = []
        for topic, view in list(self.views.items()):
            stale = [key for key, until in view.hidden.items() if until <= now]
            for key in stale:
                view.show(key)
            if stale:
                view.refresh()
            given_up = False
            for past in (view.absent, view.departed):
                for key in [key for key, until in past.items() if until <= now]:
                    del past[key]
                    given_up = True
            if stale or given_up:
                changed.append(topic)
            if (view.watched or not view.local) and now - view.used_at >= options.watch_idle_s:
                self._let_go(view)
                if view.watched:
                    unwatch.append(topic)
        return unwatch, changed
