"""Blocking calls as they were before gevent patched them.

The supervisor waits and talks only with these: a patched one makes a hub, and there must be none when it forks.
"""

import select
import socket
from collections.abc import Callable
from typing import Any

from gevent.monkey import get_original

__all__ = ["Socket", "getaddrinfo", "poll", "sleep"]

poll: Callable[[], select.poll] = get_original("select", "poll")
sleep: Callable[[float], None] = get_original("time", "sleep")
getaddrinfo: Callable[..., list[tuple[Any, ...]]] = get_original("socket", "getaddrinfo")
Socket: type[socket.socket] = get_original("socket", "socket")
