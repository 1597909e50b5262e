"""What systemd wants to hear: ``sd_notify(3)`` and ``sd_watchdog_enabled(3)``, over one datagram each."""

import os
import socket
from collections.abc import MutableMapping

from mesh.agent.unpatched import Socket

__all__ = ["Systemd"]

_SEND_S = 1.0


class Systemd:
    """The way to the service manager, or to nowhere when there is none.

    Takes its variables out of ``environ``, so that nothing this process starts speaks for it. ``keep_alive_s`` is how
    often ``WATCHDOG=1`` is due, half of what the manager allows; 0 for never.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        address = environ.pop("NOTIFY_SOCKET", "")
        allowed_us = environ.pop("WATCHDOG_USEC", "")
        watched_pid = environ.pop("WATCHDOG_PID", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        watched = bool(address) and allowed_us.isdigit() and watched_pid in ("", str(os.getpid()))
        self.keep_alive_s = int(allowed_us) / 2e6 if watched else 0.0

    def say(self, *assignments: str) -> bool:
        """Send ``NAME=value`` lines; return False if there is a manager and it did not take them."""
        if not self._address:
            return True
        try:
            with Socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_SEND_S)
                sender.sendto("\n".join(assignments).encode(), self._address)
        except OSError:
            return False
        return True
