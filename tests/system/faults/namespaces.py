"""A network of one's own: a namespace for each node, and one between them that forwards, or drops.

::

    with Network("ab") as network:
        network.prefix("a")      runs a command there
        network.drop("a")        from now on nothing reaches a, and nothing of it arrives

It needs the right to make namespaces (root, or CAP_SYS_ADMIN and CAP_NET_ADMIN), and leaves nothing behind.
"""

import os
import subprocess
from collections.abc import Sequence

__all__ = ["Network"]

SUBNET = "10.99"
"""Seen in these namespaces only."""


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}; namespaces need root")


class Network:
    """Nodes in a star. ``address`` is where one is reached."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self.nodes = list(nodes)
        self._stem = f"mesh-{os.getpid()}"
        self._router = f"{self._stem}-router"

    def _name(self, node: str) -> str:
        return f"{self._stem}-{node}"

    def _subnet(self, node: str) -> str:
        return f"{SUBNET}.{self.nodes.index(node)}"

    def address(self, node: str) -> str:
        return f"{self._subnet(node)}.2"

    def prefix(self, node: str) -> tuple[str, ...]:
        """Return the beginning of a command that runs in a node's namespace."""
        return ("ip", "netns", "exec", self._name(node))

    def __enter__(self) -> "Network":
        try:
            self._make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        _ip("netns", "add", self._router)
        _ip("netns", "exec", self._router, "sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward")
        for node in self.nodes:
            name, wire = self._name(node), f"to-{node}"
            _ip("netns", "add", name)
            _ip("-n", self._router, "link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("-n", self._router, "address", "add", f"{self._subnet(node)}.1/24", "dev", wire)
            _ip("-n", self._router, "link", "set", wire, "up")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "address", "add", f"{self.address(node)}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "route", "add", "default", "via", f"{self._subnet(node)}.1")

    def __exit__(self, *_: object) -> None:
        for name in (*map(self._name, self.nodes), self._router):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    # What can be done to it

    def drop(self, node: str) -> None:
        """Drop all that comes from a node and all that is for it, without a word to anybody."""
        self.drop_to(node)
        _ip("-n", self._router, "rule", "add", "from", self.address(node), "blackhole")

    def drop_to(self, node: str) -> None:
        """Drop all that is for a node; what it sends arrives."""
        _ip("-n", self._router, "route", "add", "blackhole", self.address(node))

    def carry(self, node: str) -> None:
        """Carry again what is from and for a node."""
        for of in (("route", "del", "blackhole", self.address(node)), ("rule", "del", "from", self.address(node))):
            subprocess.run(["ip", "-n", self._router, *of], capture_output=True, check=False)
