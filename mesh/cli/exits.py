"""What the commands exit with: one table, which ``mesh --help`` prints too, and what to do about each error."""

import enum

from mesh.errors import (
    AgentUnavailable,
    Cancelled,
    Expired,
    Indeterminate,
    Overloaded,
    Rejected,
    RemoteError,
    Unroutable,
)

__all__ = ["MEANINGS", "Exit", "advice_of", "exit_of", "table"]


class Exit(enum.IntEnum):
    """Exit statuses by name. `mesh agent` has its own, those of `mesh.agent.exits`; `mesh run` its program's."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNROUTABLE = 3
    OVERLOADED = 4
    EXPIRED = 5
    INDETERMINATE = 6
    REJECTED = 7
    AGENT_UNAVAILABLE = 8
    INTERRUPTED = 130


MEANINGS = {
    Exit.OK: "it worked",
    Exit.FAILED: "the handler failed (remote error), or a check did",
    Exit.USAGE: "the command line is wrong",
    Exit.UNROUTABLE: "nobody serves the topic",
    Exit.OVERLOADED: "a limit was reached; it is named",
    Exit.EXPIRED: "the time was over, and it certainly did not run",
    Exit.INDETERMINATE: "the time was over, or an end was lost: it may have run",
    Exit.REJECTED: "not acceptable: too large, not allowed, malformed",
    Exit.AGENT_UNAVAILABLE: "no agent answered on this machine",
    Exit.INTERRUPTED: "interrupted",
}

_OUTCOMES: dict[type[Exception], tuple[Exit, str]] = {
    RemoteError: (Exit.FAILED, ""),
    Unroutable: (Exit.UNROUTABLE, "see who serves what with `mesh topics`, or wait for somebody with --wait"),
    Overloaded: (Exit.OVERLOADED, "try again later, or raise that limit in the agent's configuration"),
    Expired: (Exit.EXPIRED, "sending it again is safe; --timeout-s gives it longer"),
    Indeterminate: (Exit.INDETERMINATE, "sending it again may run it twice"),
    Rejected: (Exit.REJECTED, ""),
    AgentUnavailable: (Exit.AGENT_UNAVAILABLE, ""),
    Cancelled: (Exit.INTERRUPTED, ""),
}


def exit_of(error: BaseException) -> Exit:
    """Return what to exit with after an error."""
    return next((code for kind, (code, _) in _OUTCOMES.items() if isinstance(error, kind)), Exit.FAILED)


def advice_of(error: BaseException) -> str:
    """Return what to do about an error, or an empty string where its own text says it."""
    return next((advice for kind, (_, advice) in _OUTCOMES.items() if isinstance(error, kind)), "")


def table() -> str:
    """Return the statuses and their meanings, a line each."""
    return "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())
