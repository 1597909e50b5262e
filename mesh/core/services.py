"""Services come and go: what an app serves is granted, registered and withdrawn; what it held when it goes is ended.

An instance that leaves in order says so in the catalogue before it vanishes from it, so nobody waits for it. One whose
agent drains is withdrawn without that word: its app lives, and serves again with the next agent, so it is waited for.

What the policy comes to be against is revoked: it ends as though the app had asked for it, and begins again when the
policy lets it.

A session that says GOODBYE is answered when its callers have settled what it had finished, at the latest after
``close_grace_s``: until then it is the only one beside this agent that knows what it answered.
"""

from mesh.core import notes
from mesh.core.catalogue import Health, Instance
from mesh.core.context import Context
from mesh.core.effects import Level, Register, Renew, Withdraw
from mesh.core.health import beat_s, service_health
from mesh.core.inbox import Service, Stage
from mesh.core.policing import Policing, Refusal
from mesh.core.records import FloorAsk, Goodbye, Ping, Serve, Unserve
from mesh.core.records import Serving as Served
from mesh.core.serving import Serving
from mesh.core.session import App
from mesh.types import InstanceKey, TopicKey, name_problem

__all__ = ["Services"]


class Services:
    """What the serving half of a node does when an app begins or ends to serve."""

    def __init__(self, context: Context, serving: Serving) -> None:
        self.context = context
        self.state = context.state
        self.options = context.options
        self.serving = serving
        self.policing = Policing(context)

    def serve(self, app: App, record: Serve, now: float) -> TopicKey | None:
        """Let an app serve a topic; return the topic if somebody may be waiting for it."""
        problem = name_problem("topic", record.topic) or name_problem("server", record.server)
        service = app.services.get(record.topic)
        if problem is None and service is not None and service.server != record.server:
            problem = f"this app serves {record.topic!r} as {service.server!r} already"
        if problem is None and (self.state.draining or app.leaving):
            problem = "this app is leaving" if app.leaving else "this agent is draining"
        refusal = Refusal("", problem) if problem else self.policing.serving(app, record.topic, record.server, now)
        if refusal is not None:
            self.context.tell(app, Served(record.topic, record.server, False, refusal.text, refusal.rule))
            return None
        app.revoked.pop(record.topic, None)
        self.context.tell(app, Served(record.topic, record.server, True))
        if service is None:
            service = app.services[record.topic] = Service(record.topic, record.server, 1, 1, leaving=True)
        service.workers, service.prefetch = max(1, record.workers), max(1, record.prefetch)
        if not service.leaving:
            self.serving.hand_out(app, service, now)
            return None
        service.leaving = False
        instance = self._instance(app, service)
        mine = (app.session, record.topic)
        self.state.departing = [d for d in self.state.departing if (d[1].session, d[1].topic) != mine]
        self.state.directory.add_local(instance, now)
        self.context.effects.append(Register(instance))
        self.context.note(
            notes.SERVICE_STARTED, Level.INFO, topic=str(instance.topic_key), server=record.server, app=app.name
        )
        self.serving.joined(app, service, now)
        return instance.topic_key

    def _instance(self, app: App, service: Service, health: Health = Health.PASSING) -> Instance:
        agent = self.state.peers.identity.entry
        return Instance(app.namespace, service.topic, service.server, app.session, agent, health)

    def unserve(self, app: App, record: Unserve, now: float) -> None:
        """Hand an app nothing more of a topic: what waits is given back, what it holds it finishes."""
        app.revoked.pop(record.topic, None)
        service = app.services.get(record.topic)
        if service is None or service.server != record.server:
            self.context.tell(app, Served(record.topic, record.server, False, "not served"))
            return
        self._leave(app, service, now)

    def obey(self, now: float) -> list[TopicKey]:
        """The policy has changed: revoke what it is against, and serve again what it is no longer against; return the
        topics of that."""
        begun: list[TopicKey | None] = []
        for app in self.state.apps.values():
            again = [] if self.state.draining else list(app.revoked.values())
            allowed = [one for one in again if self.policing.serving(app, one.topic, one.server, now) is None]
            begun += [self.serve(app, record, now) for record in allowed]
            for service in list(app.services.values()):
                refusal = self.policing.serving(app, service.topic, service.server, now)
                if refusal is None or service.leaving:
                    continue
                app.revoked[service.topic] = Serve(service.topic, service.server, service.workers, service.prefetch)
                facts = {
                    "topic": str(TopicKey(app.namespace, service.topic)),
                    "server": service.server,
                    "app": app.name,
                }
                self.context.note(notes.SERVICE_REVOKED, Level.WARNING, rule=refusal.rule, **facts)
                self.context.tell(app, Served(service.topic, service.server, False, refusal.text, refusal.rule))
                self._leave(app, service, now)
        return [topic for topic in begun if topic is not None]

    def _leave(self, app: App, service: Service, now: float) -> None:
        """Say that an instance drains, and a little later that it is gone."""
        if not service.leaving:
            service.leaving = True
            instance = self._instance(app, service, Health.MAINTENANCE)
            self.state.directory.remove_local(instance, self.options.directory, now, orderly=True)
            self.context.effects.append(Renew(instance, Health.MAINTENANCE, "draining"))
            self.state.departing.append((now + self.options.directory.leave_linger_s, instance))
            self.serving.give_back_queue(app, service, "draining", now)
        self.serving.finish_leaving(app, service)

    def goodbye(self, app: App, now: float) -> None:
        """An app ends: its instances leave, in order; whose answers it has given is asked whether they have them."""
        if app.leaving:
            return
        app.leaving, app.leaving_since = True, now
        for service in list(app.services.values()):
            self._leave(app, service, now)
        self._part(app, now)

    def _part(self, app: App, now: float) -> None:
        """Answer a goodbye when it is time to; until then ask what it waits for."""
        unsettled = self._unsettled(app)
        if not unsettled or now - app.leaving_since >= self.options.inbox.close_grace_s:
            app.parted = True
            self.context.tell(app, Goodbye("answer"))
            return
        for node, session in unsettled:
            self.context.answer(node, FloorAsk(node, session))

    def _unsettled(self, app: App) -> list[tuple[str, int]]:
        """Return the callers for whom answers of this app are kept."""
        return [
            key
            for key, caller in self.state.inbox.callers.items()
            if any(
                handed.stage is Stage.ENDED and (handed.target == app.session or app.session in handed.parts)
                for handed in caller.handed.values()
            )
        ]

    def drain(self, now: float) -> None:
        """This agent drains: its instances are withdrawn, what waits here is given back, what runs is finished."""
        for app in self.state.apps.values():
            for service in list(app.services.values()):
                if service.leaving:
                    continue
                service.leaving = True
                instance = self._instance(app, service)
                self.state.directory.remove_local(instance, self.options.directory, now, orderly=False)
                self.context.effects.append(Withdraw(instance))
                self.serving.give_back_queue(app, service, "draining", now)
                self.serving.finish_leaving(app, service)

    def gone(self, app: App, now: float, *, orderly: bool) -> list[TopicKey]:
        """An app is gone for good: what it had not begun goes back, what it had is unknown. Return its topics."""
        topics = []
        for service in list(app.services.values()):
            instance = self._instance(app, service)
            self.state.directory.remove_local(instance, self.options.directory, now, orderly=orderly)
            if not service.leaving:
                self.context.effects.append(Withdraw(instance))
            topics.append(instance.topic_key)
            self.serving.give_back_queue(app, service, "the app that served it is gone", now)
            self.serving.lose(app, service, now)
        app.services.clear()
        return topics

    def check(self, now: float) -> list[TopicKey]:
        """Ping the apps that are silent, and say what has become of each service; return the topics where that tells
        who may be sent to."""
        changed: list[TopicKey] = []
        for app in self.state.apps.values():
            if (
                app.conn is not None
                and (app.services or app.calls)
                and now - app.heard_at >= beat_s(self.options.health)
            ):
                self.context.tell(app, Ping(0))
            for service in app.services.values():
                if not service.leaving:
                    changed += self._check(app, service, now)
        return changed

    def _check(self, app: App, service: Service, now: float) -> list[TopicKey]:
        """Say a service's health if it is another than was said last."""
        topic = TopicKey(app.namespace, service.topic)
        told = self.state.directory.views[topic].local[InstanceKey(self.context.node, service.server, app.session)]
        health, text = service_health(service, app.heard_at, self.options.health, self.options.inbox, now)
        if health is told.health:
            return []
        instance = self._instance(app, service, health)
        self.state.directory.add_local(instance, now)
        self.context.effects.append(Renew(instance, health, text))
        level = Level.INFO if health is Health.PASSING else Level.WARNING
        facts = {"topic": str(topic), "server": service.server, "app": app.name}
        self.context.note(notes.SERVICE_HEALTH, level, health=health.name.lower(), why=text, **facts)
        return [topic]

    def lagged(self, lag_s: float) -> None:
        """This node's own loop came late: that much of its apps' silence may be its own doing."""
        for app in self.state.apps.values():
            app.heard_at += lag_s

    def tick(self, now: float) -> None:
        """Withdraw instances whose farewell was long enough to be seen; answer the goodbyes that are due."""
        while self.state.departing and self.state.departing[0][0] <= now:
            self.context.effects.append(Withdraw(self.state.departing.pop(0)[1]))
        for app in self.state.apps.values():
            if app.leaving and not app.parted:
                self._part(app, now)
