"""The serving agent answers a caller's agent: what became of requests, and whether they are worked at."""

from msgspec import structs

from mesh.core.context import Context
from mesh.core.inbox import Stage
from mesh.core.records import Answer, Ask, Verdict
from mesh.core.serving import Serving

__all__ = ["Answering"]

QUESTIONS_MAX = 10_000
"""Apps that may be asked for while they are away."""


class Answering:
    """What the serving half of a node says of what it has taken."""

    def __init__(self, context: Context, serving: Serving) -> None:
        self.context = context
        self.state = context.state
        self.serving = serving

    def ask(self, node: str, ask: Ask, now: float) -> None:
        """Say what became of requests that went to an app. What is remembered here is there; that the rest never came
        this incarnation knows of what it was sent itself, else only the app does."""
        if ask.node != node:
            return
        if ask.alive:
            self._ask_app(node, ask)
            return
        is_ours = ask.reached == self.state.peers.identity.incarnation
        known = {id: self.state.inbox.find((node, *id)) for id in ask.ids}
        found = {id: handed for id, handed in known.items() if handed is not None and handed.target == ask.target}
        for handed in found.values():
            self.serving.again(handed, handed.request)
        if told := ask.ids if is_ours else list(found):
            verdicts = [int(Verdict.RUNNING if id in found else Verdict.NEVER) for id in told]
            self.context.answer(node, Answer(node, ask.incarnation, ask.number, ask.target, told, verdicts))
        ask.ids = [] if is_ours else [id for id in ask.ids if id not in found]
        app = self.state.apps.get(ask.target)
        if ask.ids and app is not None and app.conn is not None:
            self.context.tell(app, ask)
        elif ask.ids and len(self.state.questions) < QUESTIONS_MAX:
            self.state.questions.setdefault(ask.target, []).append((now, ask))

    def _ask_app(self, node: str, ask: Ask) -> None:
        """Have the app itself say that it works at what it was handed. What waits for it is well here."""
        handed: list[tuple[int, int]] = []
        waiting: list[tuple[int, int]] = []
        for id in ask.ids:
            known = self.state.inbox.find((node, *id))
            if known is not None and known.target == ask.target:
                (handed if known.stage is Stage.HANDED else waiting).append(id)
                self.serving.again(known, known.request)
        if waiting:
            verdicts = [int(Verdict.RUNNING)] * len(waiting)
            self.context.answer(node, Answer(node, ask.incarnation, ask.number, ask.target, waiting, verdicts))
        app = self.state.apps.get(ask.target)
        if handed and app is not None:
            self.context.tell(app, structs.replace(ask, ids=handed))
