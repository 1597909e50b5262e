"""A Consul of one's own for the demo: a development server on loopback, in memory, with its UI on."""

import contextlib
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from mesh.cli.private import STOP_S, StartFailed, free_port, leashed

__all__ = ["consul_server"]

START_S = 30.0
_SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "consul"


@contextlib.contextmanager
def consul_server(directory: Path) -> Iterator[str]:
    """Run a server and yield its address; raises StartFailed."""
    binary = _binary()
    port, config, log = free_port(), directory / "consul.json", directory / "consul.log"
    ports = {"http": port, "server": free_port(), "serf_lan": free_port(), "serf_wan": -1}
    ports |= {"dns": -1, "grpc": -1, "grpc_tls": -1}
    settings = {
        "node_name": "demo",
        "bind_addr": "127.0.0.1",
        "client_addr": "127.0.0.1",
        "disable_update_check": True,
        "log_level": "warn",
        "ports": ports,
        "ui_config": {"enabled": True},
        "acl": {"default_policy": "deny"},  # without tokens this is only about what the topology tab draws
    }
    config.write_text(json.dumps(settings), encoding="utf-8")
    with log.open("wb") as out:
        process = subprocess.Popen(
            leashed([binary, "agent", "-dev", f"-config-file={config}"]),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for_leader(process, address, log)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _binary() -> str:
    """Return the path of a Consul; in a checkout it is built if need be, which takes minutes the first time."""
    if _SCRIPT.exists():
        found = subprocess.run([_SCRIPT], stdout=subprocess.PIPE, text=True, check=False)
        if found.returncode == 0:
            return found.stdout.strip()
        raise StartFailed("there is no Consul: see above")
    on_path = shutil.which("consul")
    if on_path is None:
        raise StartFailed("there is no consul on PATH: install it, or run the demo without --consul")
    return on_path


def _wait_for_leader(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/v1/status/leader", timeout=2) as answer:
            if json.load(answer):
                return
        time.sleep(0.1)
    raise StartFailed(f"Consul did not start: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
