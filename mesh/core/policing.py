"""The policy where it is asked: at the caller's agent, again at the server's, and of whoever serves.

The caller's agent knows its apps' users and groups and decides first. The server's agent decides again, about the node
whose certificate the link has proven and the user whom that node names, which is that node's word alone. Who may serve
is decided by the agent of the serving app, and again by every agent that would send there: what a node enters in the
catalogue against its rules is left out of the view of the topic.

A refusal is counted by its rule, and noted at first and then at most every `NOTE_S`.
"""

from msgspec import Struct, structs

from mesh.core import notes
from mesh.core.catalogue import Snapshot
from mesh.core.context import Context
from mesh.core.effects import Level
from mesh.core.policy import DEFAULT, Law, PolicyOptions, Subject, Tally, Verb
from mesh.core.records import Failure, GiveBack, Request, Status
from mesh.core.session import App
from mesh.types import TopicKey

__all__ = ["Policing", "Refusal"]

NOTE_S = 10.0
"""How often what one rule refuses is noted."""

_DEEDS = {Verb.CALL: "call", Verb.CAST: "cast to", Verb.FANOUT: "fan out to", Verb.SERVE: "serve"}


class Refusal(Struct, frozen=True):
    """Why something is not done: the rule that is against it, and that in words."""

    rule: str
    text: str


class Policing:
    """What a node makes of its policy."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.state = context.state

    def obey(self, policy: PolicyOptions) -> None:
        """Ask these rules from now on."""
        tallies = self.state.refusals
        self.state.policy = policy
        self.state.refusals = {rule: tallies[rule] for rule in tallies if rule in policy.rules or rule == DEFAULT}
        self.context.law = Law(policy)

    def requested(self, app: App, request: Request, now: float) -> Failure | None:
        """Return what a local app's request ends with, if it may not make it."""
        law, topic, server = self.context.law, request.topic, request.server
        key = (app.session, app.connection, request.kind, topic, server)
        rule = law.known.get(key)
        if rule is None:
            rule = law.learn(key, app.who, request.kind, app.namespace, topic, server)
        if not rule:
            return None
        told = self._refused(rule, app.who, request.kind, request.topic, now)
        id, node = (request.session, request.seq), self.context.node
        return Failure(node, *id, int(Status.REJECTED), told.text, where=node, rule=rule)

    def arrived(self, node: str, request: Request, now: float) -> GiveBack | None:
        """Return what is said to the agent of a node whose request may not be made; this node asked itself before."""
        if node == self.context.node:
            return None
        law = self.context.law
        key = (node, request.user, request.kind, request.namespace, request.topic, request.server)
        rule = law.known.get(key)
        if rule == "":
            return None
        who = Subject(node, request.user, None)
        if rule is None:
            rule = law.learn(key, who, *key[2:])
        if not rule:
            return None
        told = self._refused(rule, who, request.kind, request.topic, now)
        id = (request.node, request.session, request.seq)
        return GiveBack(*id, request.dispatch, int(Status.REJECTED), told.text, rule=rule)

    def serving(self, app: App, topic: str, server: str, now: float) -> Refusal | None:
        """Return why a local app may not serve a topic, or None."""
        rule = self.context.law.refusal(app.who, Verb.SERVE, app.namespace, topic, server)
        return self._refused(rule, app.who, Verb.SERVE, topic, now) if rule else None

    def sift(self, snapshot: Snapshot, now: float) -> Snapshot:
        """Return a snapshot without the instances of nodes that may not serve this; our own were asked already."""
        if self.context.law.idle:
            return snapshot
        kept = []
        for instance in snapshot.instances:
            rule = self._outside(instance.agent.node, snapshot.topic, instance.server)
            if rule:
                self._refused(rule, Subject(instance.agent.node, None), Verb.SERVE, snapshot.topic.topic, now)
            else:
                kept.append(instance)
        return structs.replace(snapshot, instances=kept)

    def sweep(self, topic: TopicKey) -> None:
        """Leave out of a view what was listed before the rules that are against it."""
        view = self.state.directory.views[topic]
        known = (*view.listed, *view.absent, *view.departed)
        self.state.directory.strike(topic, [key for key in known if self._outside(key.node, topic, key.server)])

    def _outside(self, node: str, topic: TopicKey, server: str) -> str:
        """Return the rule by which another node may not serve a topic, or an empty string."""
        if node == self.context.node:
            return ""
        law, key = self.context.law, (node, *topic, server)
        rule = law.known.get(key)
        if rule is None:
            rule = law.learn(key, Subject(node, None, None), Verb.SERVE, *topic, server)
        return rule

    def _refused(self, rule: str, who: Subject, verb: int, topic: str, now: float) -> Refusal:
        """Count what a rule refuses, note it if it is time to, and return it in words."""
        whom = f"user {who.user!r} at {who.node!r}" if who.user else f"an app of {who.node!r}"
        by = "no policy rule lets it" if rule == DEFAULT else f"policy rule {rule!r} is against it"
        text = f"{whom} may not {_DEEDS[Verb(verb)]} {topic!r}: {by}"
        tally = self.state.refusals.setdefault(rule, Tally())
        tally.count += 1
        tally.unnoted += 1
        if tally.noted_at is None or now - tally.noted_at >= NOTE_S:
            self.context.note(notes.POLICY_REFUSED, Level.WARNING, rule=rule, why=text, count=tally.unnoted)
            tally.unnoted, tally.noted_at = 0, now
        return Refusal(rule, text)
