"""How often the matchmaker is asked again for what failed."""

from collections.abc import Callable

import gevent
import tenacity

__all__ = ["patiently"]

FIRST_S = 0.1
"""The longest first pause; it doubles with each failure."""


def patiently(
    max_s: float, failed: Callable[[tenacity.RetryCallState], None], errors: type[Exception] = Exception
) -> tenacity.Retrying:
    """Return the tries at something, until one does not raise any of these errors. ``failed`` is told of each that
    does; the pauses after them are random, and at most ``max_s``."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(errors),
        wait=tenacity.wait_random_exponential(multiplier=FIRST_S, max=max_s),
        after=failed,
        sleep=gevent.sleep,
    )
