"""Machines that a configuration is loaded on: what the kernel and the system would say of them."""

from collections.abc import Mapping
from pathlib import Path

from msgspec.structs import replace

from mesh.config import Config, load
from mesh.config.addresses import Network
from mesh.config.places import Machine

__all__ = ["HOST", "NETWORK", "configure"]

NETWORK = Network(
    interfaces={
        "lo": ("127.0.0.1", "::1"),
        "eth0": ("192.0.2.7", "2001:db8::7"),
        "eth1": ("198.51.100.7",),
        "wg0": ("fd00::7",),
        "down0": (),
    },
    default_ipv4="eth0",
    default_ipv6="eth0",
)
HOST = Machine(hostname="web-7", user_id=1000, home="/home/ada", descriptors_max=1 << 20, network=NETWORK)


def configure(directory: Path, text: str = "", environ: Mapping[str, str] | None = None, **machine: object) -> Config:
    """Load a file with this text, or no file, on `HOST` with these differences; the app socket has its usual place."""
    (directory / "mesh").mkdir(exist_ok=True)
    path = None
    if text:
        path = directory / "mesh.toml"
        path.write_text(text)
    here = {"user_id": directory.stat().st_uid or HOST.user_id, **machine}
    return load(path, {"XDG_RUNTIME_DIR": str(directory), **(environ or {})}, replace(HOST, **here))
