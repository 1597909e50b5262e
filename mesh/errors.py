"""Every exception that mesh raises.

::

    MeshError
    ├── ConfigError                 a configuration with its problems, all of them
    ├── ProtocolError               bytes or records that break the protocol (remote's doing)
    ├── SessionClosed               this client was closed (yours)
    └── OutcomeError                how a message ended, when not with a reply
        ├── RemoteError             the handler ran and failed
        ├── Unroutable              nobody serves the topic
        ├── Overloaded              a limit was reached; it is named
        ├── Rejected                not acceptable: too large, not allowed, malformed
        ├── Expired                 (TimeoutError)    certainly not run
        ├── Indeterminate           (TimeoutError)    may have run, or may yet run
        ├── Cancelled               the caller gave it up
        └── AgentUnavailable        (ConnectionError) no agent on this machine; certainly not run
"""

from collections.abc import Sequence

from mesh.types import MessageId

__all__ = [
    "AgentUnavailable",
    "Cancelled",
    "ConfigError",
    "Expired",
    "Indeterminate",
    "MeshError",
    "OutcomeError",
    "Overloaded",
    "ProtocolError",
    "Rejected",
    "RemoteError",
    "SessionClosed",
    "Unroutable",
]


class MeshError(Exception):
    """The root of the tree."""


class ConfigError(MeshError, ValueError):
    """A configuration that cannot be used; ``problems`` holds one sentence for each thing wrong."""

    def __init__(self, problems: Sequence[str], source: str = "configuration") -> None:
        self.problems = tuple(problems)
        self.source = source
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        super().__init__(f"{source}: {len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}{lines}")


class ProtocolError(MeshError, ValueError):
    """The other end broke the protocol; the connection it came by is closed."""


class SessionClosed(MeshError, RuntimeError):
    """The client was closed before or while this was done."""


class OutcomeError(MeshError):
    """A message that ended without a reply.

    ``may_have_run``: whether a handler may have seen it. ``retry_safe``: whether sending it again cannot
    make it run twice. ``where``: the node that decided. ``message_id``: its identity, or None if it got none.
    """

    may_have_run = False
    retry_safe = True

    def __init__(self, text: str, *, where: str = "", message_id: MessageId | None = None) -> None:
        self.text = text
        self.where = where
        self.message_id = message_id
        at = f" (at {where})" if where else ""
        of = f" [{message_id}]" if message_id else ""
        super().__init__(f"{text}{at}{of}")


class RemoteError(OutcomeError):
    """The handler ran and raised; ``type`` and ``text`` say what, ``traceback`` only if the server allows it."""

    may_have_run = True
    retry_safe = False

    def __init__(
        self,
        text: str,
        *,
        type: str = "Exception",
        traceback: str = "",
        where: str = "",
        message_id: MessageId | None = None,
    ) -> None:
        self.type = type
        self.traceback = traceback
        super().__init__(f"{type}: {text}", where=where, message_id=message_id)
        self.text = text


class Unroutable(OutcomeError):
    """Nobody serves the topic."""


class Overloaded(OutcomeError):
    """A limit was reached: ``limit`` is its option's name, ``retry_after_s`` a hint when to come back."""

    def __init__(
        self,
        text: str,
        *,
        limit: str,
        retry_after_s: float = 0.0,
        where: str = "",
        message_id: MessageId | None = None,
    ) -> None:
        self.limit = limit
        self.retry_after_s = retry_after_s
        super().__init__(text, where=where, message_id=message_id)


class Rejected(OutcomeError):
    """Refused for what it is; sending it again unchanged ends the same way. ``rule``: of the policy, if one is against
    it."""

    def __init__(self, text: str, *, rule: str = "", where: str = "", message_id: MessageId | None = None) -> None:
        self.rule = rule
        super().__init__(text, where=where, message_id=message_id)


class Expired(OutcomeError, TimeoutError):
    """The deadline passed and no handler saw it."""


class Indeterminate(OutcomeError, TimeoutError):
    """The deadline passed, or an end was lost, after a handler may have begun."""

    may_have_run = True
    retry_safe = False


class Cancelled(OutcomeError):
    """The caller gave the message up before it ended; a handler may have begun it."""

    may_have_run = True
    retry_safe = False


class AgentUnavailable(OutcomeError, ConnectionError):
    """There was no agent to give the message to, for as long as the caller would wait."""
