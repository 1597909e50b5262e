"""The policy changes: what was granted before is asked for again, without a link or an app being lost.

Services that a rule is against now are revoked, others are granted again; instances of other nodes that may not serve
go from the views, and topics are read anew, for some may come back. What has been taken is not taken back: requests
that are outstanding go on, and those that are with a revoked service end as they would when it leaves.
"""

from mesh.core.calling import Calling
from mesh.core.context import Context
from mesh.core.effects import Watch
from mesh.core.policy import PolicyOptions
from mesh.core.pool import Action
from mesh.core.services import Services

__all__ = ["Obeying"]


class Obeying:
    """What a node does when its policy changes."""

    def __init__(self, context: Context, calling: Calling, services: Services) -> None:
        self.context = context
        self.state = context.state
        self.calling = calling
        self.services = services

    def obey(self, policy: PolicyOptions, now: float) -> list[Action]:
        """Let apps and peers do what these rules let them; return what the pool wants done."""
        actions: list[Action] = []
        if policy == self.state.policy:
            return actions
        self.calling.policing.obey(policy)
        changed = self.services.obey(now)
        for topic, view in self.state.directory.views.items():
            self.calling.policing.sweep(topic)
            if view.watched:
                view.known = False  # whoever was left out of it may be in it: who finds nobody waits for the news
                self.context.effects.append(Watch(topic, fresh=True))
        for topic in (*changed, *self.state.outbox.waiting):
            actions += self.calling.topic_changed(topic, now)
        return actions
