"""Where a call that waits is run: here, if it waits as greenlets do, or in a thread of the hub's pool."""

from collections.abc import Callable
from typing import Any

from gevent import get_hub

__all__ = ["in_place", "in_thread"]


def in_place(verb: Callable[..., Any], *arguments: Any) -> Any:
    """Run a matchmaker's verb that waits as greenlets do."""
    return verb(*arguments)


def in_thread(verb: Callable[..., Any], *arguments: Any) -> Any:
    """Run one that blocks its thread, in a thread of the hub's pool."""
    result, error = get_hub().threadpool.apply(_caught, (verb, arguments))
    if error is not None:
        raise error
    return result


def _caught(verb: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, Exception | None]:
    """Run a verb; return what it raised, for the pool tells the hub of what is raised in it, as of a defect."""
    try:
        return verb(*arguments), None
    except Exception as error:  # noqa: BLE001 - raised again where the verb was asked for
        return None, error
