"""A real Consul server of one's own, on free ports of the loopback interface, in a directory of the caller's.

    with ConsulServer(tmp_path) as consul:
        ... consul.address ...

There is no skipping: without a binary it raises what `scripts/consul` says.
"""

import contextlib
import http.client
import json
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["ROOT_TOKEN", "ConsulServer", "binary", "free_port"]

ROOT_TOKEN = "e3c5a7b0-0000-4000-8000-000000000001"
"""The token that may do everything, where ACLs are on."""

START_S = 60.0
STOP_S = 10.0
BUILD_S = 1800.0
_SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "consul"


@cache
def binary() -> str:
    """Return the path of a Consul, after building it if need be; raises RuntimeError with what is missing."""
    found = subprocess.run([_SCRIPT], capture_output=True, text=True, timeout=BUILD_S, check=False)
    if found.returncode:
        raise RuntimeError(f"no Consul for this test:\n{found.stderr[-2000:]}")
    return found.stdout.strip()


def free_port() -> int:
    """Return a loopback port that nobody has now, from below those the system gives to outgoing connections."""
    while True:
        port = random.randint(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class ConsulServer:
    """One server process, a leader of its own. ``base`` names configuration files that its own is merged over by
    Consul, ``settings`` what is merged over that."""

    def __init__(
        self, directory: Path, *, acl: bool = False, base: Sequence[Path] = (), settings: dict[str, Any] | None = None
    ) -> None:
        self.directory = directory
        self.token = ROOT_TOKEN if acl else ""
        self.port = free_port()
        self._base = base
        self._settings = (_configuration(directory, self.port, acl), settings or {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "ConsulServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start it, with the data it has, and wait until it takes writes."""
        self.directory.mkdir(parents=True, exist_ok=True)
        files = [*self._base]
        for number, settings in enumerate(self._settings):
            files.append(self.directory / f"server{number}.json")
            files[-1].write_text(json.dumps(settings))
        command = [binary(), "agent", *(f"-config-file={file}" for file in files)]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            # A write needs the leader and, with ACLs, that they are set up; a session needs the node in the catalogue.
            self._wait(lambda: self.put("/v1/kv/ready", "1") is True and bool(self.get("/v1/catalog/nodes")))
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process, as a crash would; its data stay."""
        process, self._process = self._process, None
        if process:
            process.kill()
            process.wait(STOP_S)

    def wipe(self) -> None:
        """Remove the data of a stopped server."""
        shutil.rmtree(self.directory / "data", ignore_errors=True)

    def get(self, path: str, token: str | None = None) -> Any:
        """Return what is at a path, decoded; raises RuntimeError for any status but 200."""
        return self._request("GET", path, None, token)

    def put(self, path: str, body: object = None, token: str | None = None) -> Any:
        """Put a JSON body and return the answer, decoded; raises RuntimeError for any status but 200."""
        return self._request("PUT", path, body, token)

    def new_token(self, rules: str) -> str:
        """Return a new token that has the rights of ``rules`` (Consul's language) and no others."""
        name = f"policy-{random.getrandbits(64):x}"
        policy = self.put("/v1/acl/policy", {"Name": name, "Rules": rules})
        token: str = self.put("/v1/acl/token", {"Policies": [{"ID": policy["ID"]}]})["SecretID"]
        return token

    def _request(self, method: str, path: str, body: object, token: str | None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):
            headers = {"X-Consul-Token": self.token if token is None else token}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            text = response.read().decode()
        if response.status != 200:
            raise RuntimeError(f"{method} {path}: {response.status} {text}")
        return json.loads(text) if text else None

    def _wait(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while True:
            problem: object = "it is not ready"
            try:
                if ready():
                    return
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                problem = error
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                log = (self.directory / "log").read_text(errors="replace")[-4000:]
                raise RuntimeError(f"Consul {'ended' if ended else f'took over {START_S} s'}: {problem}\n{log}")
            time.sleep(0.05)


def _configuration(directory: Path, port: int, acl: bool) -> dict[str, Any]:
    return {
        "node_name": "test",
        "server": True,
        "bootstrap": True,
        "bind_addr": "127.0.0.1",
        "client_addr": "127.0.0.1",
        "data_dir": str(directory / "data"),
        "disable_update_check": True,
        "leave_on_terminate": False,
        "log_level": "warn",
        "performance": {"raft_multiplier": 1},
        "ports": {
            "http": port,
            "server": free_port(),
            "serf_lan": free_port(),
            "serf_wan": -1,
            "dns": -1,
            "grpc": -1,
            "grpc_tls": -1,
        },
        "acl": {
            "enabled": acl,
            "default_policy": "deny",
            "tokens": {"initial_management": ROOT_TOKEN, "agent": ROOT_TOKEN} if acl else {},
        },
    }
