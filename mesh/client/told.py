"""What an agent has told of itself and of what is served here, for those who wait for it, and in lines of the log."""

import logging

from mesh.client.events import Event, Leaving, Opened, Parted, Refused, Reported, ServingTold

__all__ = ["Told"]

logger = logging.getLogger("mesh")


class Told:
    """``reports``: answers to queries, by number; ``topics``: what was last said of each topic that this app serves, or
    wanted to; ``refused``: the last refusal; ``parted``: whether the agent has answered the goodbye."""

    def __init__(self) -> None:
        self.reports: dict[int, Reported] = {}
        self.topics: dict[str, ServingTold] = {}
        self.refused: Refused | None = None
        self.parted = False

    @property
    def refused_for_good(self) -> Refused | None:
        """The refusal after which the agent need not be asked again, or None."""
        return self.refused if self.refused is not None and self.refused.final else None

    def take(self, event: Event) -> None:
        """Remember an event; what is none of these is passed."""
        if isinstance(event, ServingTold):
            self.topics[event.topic] = event
            if event.rule:
                logger.warning("the agent does not let this app serve: %s", event.text)
        elif isinstance(event, Reported):
            self.reports[event.number] = event
        elif isinstance(event, Opened):
            logger.info("connected to the agent of %s (incarnation %d)", event.welcome.node, event.welcome.incarnation)
        elif isinstance(event, Refused):
            self.refused = event
            logger.warning("the agent refused this app: %s", event.text)
        elif isinstance(event, Leaving):
            logger.info("the agent drains: %s", event.reason or "no reason given")
        elif isinstance(event, Parted):
            self.parted = True
