"""What is asked of Consul, by which connection, and what becomes of every answer that is not one."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from mesh.core.catalogue import Health
from mesh.matchmaker.base import MatchmakerError
from mesh.matchmaker.consul_api import ENTRIES_MAX, NOTE_CHARS_MAX, ConsulApi, ConsulOptions
from tests.consul_server import free_port

ROW = {
    "Node": {"Node": "n"},
    "Service": {"ID": "x:n", "Address": "127.0.0.1", "Port": 7, "Meta": {"k": "v"}},
    "Checks": [{"CheckID": "x:n:ttl", "Status": "passing", "Output": ""}],
}
RIGHTS = 'service_prefix "heartmesh-" { policy = "%s" } and node_prefix "" { policy = "read" }'


class Stub:
    """An HTTP server that answers everything alike, and keeps what it was asked."""

    def __init__(self, status: int = 200, body: str | bytes = "", headers: dict[str, str] | None = None) -> None:
        self.answer = (status, body.encode() if isinstance(body, str) else body, headers or {})
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.connections: set[object] = set()
        self.hold = threading.Event()
        self.hold.set()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                stub.asked.append((self.command, self.path, dict(self.headers)))
                stub.connections.add(self.client_address)
                stub.hold.wait(60)
                status, body, headers = stub.answer
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    for name, value in ({"Content-Length": str(len(body))} | headers).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(body)

            def do_GET(self) -> None:
                self.answer()

            def do_PUT(self) -> None:
                self.answer()

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.hold.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def stubs() -> Iterator[Callable[..., Stub]]:
    made: list[Stub] = []

    def make(*args: object, **kwargs: object) -> Stub:
        made.append(Stub(*args, **kwargs))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for stub in made:
        stub.close()


def listed(rows: list[object], **headers: str) -> dict[str, object]:
    return {"body": json.dumps(rows), "headers": {"X-Consul-Index": "7"} | headers}


def test_options_have_bounds_and_descriptions() -> None:
    for bad in ({"ttl_s": 0.5}, {"deregister_after_s": 59}, {"timeout_s": 0}, {"colour": "red"}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(bad, ConsulOptions)
    for name, option in msgspec.json.schema(ConsulOptions)["$defs"]["ConsulOptions"]["properties"].items():
        assert "Trade-off" in option["description"], name


@pytest.mark.parametrize(
    "address",
    ["", "127.0.0.1:8500", "unix:///run/consul.sock", "http://", "http://h:port", "http://u:p@h", "http://h/x"],
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(MatchmakerError, match=r"consul\.address .*must be http://HOST:PORT"):
        ConsulApi(ConsulOptions(address=address))


@pytest.mark.io
def test_a_list_is_taken_apart(stubs: Callable[..., Stub]) -> None:
    stub = stubs(**listed([ROW]))
    answer = ConsulApi(ConsulOptions(address=stub.address)).instances("heartmesh-agent")
    assert (7, False) == (answer.position, answer.filtered)
    row = answer.rows[0]
    assert ("x:n", "127.0.0.1", 7) == (row.service.id, row.service.address, row.service.port)
    assert {"k": "v"} == row.service.meta
    assert [("x:n:ttl", "passing")] == [(check.check_id, check.status) for check in row.checks]


@pytest.mark.io
def test_what_is_asked(stubs: Callable[..., Stub]) -> None:
    stub = stubs(**listed([]))
    api = ConsulApi(ConsulOptions(address=stub.address, datacenter="dc7"))
    api.instances("s", position=5, wait_s=1.5)
    api.instances("s", position=5, wait_s=10_000)
    api.instances("s", here=True, id="s:n")
    api.report("s:n:ttl", Health.MAINTENANCE, "é" * 1000)
    assert [
        "/v1/health/service/s?index=5&wait=1500ms&dc=dc7",
        "/v1/health/service/s?index=5&wait=600000ms&dc=dc7",
        "/v1/health/service/s?filter=Service.ID+%3D%3D+%22s%3An%22",
        "/v1/agent/check/warn/s:n:ttl?note=" + "%C3%A9" * NOTE_CHARS_MAX,
    ] == [path for _, path, _ in stub.asked]


@pytest.mark.io
def test_a_report_is_one_request_on_a_connection_that_is_kept(stubs: Callable[..., Stub]) -> None:
    stub = stubs()
    api = ConsulApi(ConsulOptions(address=stub.address))
    for health in Health:
        assert api.report("s:n:ttl", health, "")
    verbs = [path.split("/")[4] for _, path, _ in stub.asked]
    assert ["pass", "warn", "fail", "warn"] == verbs
    assert 1 == len(stub.connections)


@pytest.mark.io
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"status": 500, "body": "No cluster leader"}, "500 No cluster leader: Consul's log says more"),
        ({"status": 429, "body": "Your IP is issuing too many"}, "429 Your IP"),
        ({"status": 400, "body": "bad"}, "400 bad"),
        (
            {"status": 403, "body": "Permission denied"},
            "Permission denied: a request without a token .* needs service",
        ),
        ({"status": 404, "body": "nothing here"}, "malformed.*: see what is at that address"),
        ({"status": 301, "headers": {"Location": "/elsewhere"}}, "redirect"),
        ({"body": "<html>"}, "malformed.*: see what is at that address"),
        ({"body": b"\xff\xfe"}, "see what is at that address"),
        ({"body": "[" * 10_000}, "see what is at that address"),
        ({"body": "null"}, "Expected `array`, got `null`"),
        ({"body": '[{"Service": 1}]'}, "Expected `object`, got `int`"),
        ({"body": "[]", "headers": {"X-Consul-Index": "soon"}}, "invalid literal"),
        ({"body": json.dumps([ROW] * (ENTRIES_MAX + 1))}, "Expected `array` of length <= 100000"),
        ({"body": "[]", "headers": {"Content-Length": "9"}}, "could not list x"),
        (
            listed([], **{"X-Consul-Results-Filtered-By-ACLs": "true"}),
            "left entries of x out: .* " + RIGHTS % "read",
        ),
    ],
)
def test_an_answer_that_is_none_is_an_error(
    stubs: Callable[..., Stub], answer: dict[str, object], message: str
) -> None:
    stub = stubs(**answer)
    with pytest.raises(MatchmakerError, match=message) as caught:
        ConsulApi(ConsulOptions(address=stub.address, timeout_s=2)).instances("x")
    assert stub.address in str(caught.value)
    assert 1 == len(stub.asked), "nothing is tried again"


@pytest.mark.io
def test_a_refused_write_names_the_right_to_write(stubs: Callable[..., Stub]) -> None:
    stub = stubs(403, "Permission denied")
    with pytest.raises(MatchmakerError, match="could not update check c: Permission denied: .*" + RIGHTS % "write"):
        ConsulApi(ConsulOptions(address=stub.address)).report("c", Health.PASSING, "")


@pytest.mark.io
def test_nobody_there_is_an_error() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(MatchmakerError, match=rf"Consul at {address} could not list x: .*refused: see that"):
        ConsulApi(ConsulOptions(address=address)).instances("x")


@pytest.mark.io
def test_silence_is_an_error_after_the_timeout_and_what_was_to_wait(stubs: Callable[..., Stub]) -> None:
    stub = stubs()
    stub.hold.clear()
    api = ConsulApi(ConsulOptions(address=stub.address, timeout_s=0.1))
    for position, least_s in ((0, 0.1), (7, 0.6)):
        begun = time.monotonic()
        with pytest.raises(MatchmakerError, match="could not list x: .*timed out"):
            api.instances("x", position=position, wait_s=0.5)
        assert time.monotonic() - begun >= least_s


@pytest.mark.io
def test_closing_ends_requests_that_wait(stubs: Callable[..., Stub]) -> None:
    stub = stubs()
    stub.hold.clear()
    api = ConsulApi(ConsulOptions(address=stub.address, timeout_s=100))
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(api.instances, "x") for _ in range(3)]
        while len(stub.asked) < 3:
            time.sleep(0.01)
        api.close()
        for future in waiting:
            with pytest.raises(MatchmakerError, match="could not list x: it was closed here"):
                future.result(30)


@pytest.mark.io
def test_closing_ends_a_request_that_has_not_even_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent, ThreadPoolExecutor(1) as threads:
        api = ConsulApi(ConsulOptions(address=f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_s=100))
        waiting = threads.submit(api.instances, "x")
        api.close()
        with pytest.raises(MatchmakerError, match="closed here"):
            waiting.result(30)


@pytest.mark.io
def test_nothing_comes_from_the_environment(stubs: Callable[..., Stub], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONSUL_HTTP_ADDR", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "from-the-environment")
    monkeypatch.setenv("CONSUL_HTTP_SSL", "true")
    stub = stubs(**listed([]))
    ConsulApi(ConsulOptions(address=stub.address)).instances("x")
    assert "X-Consul-Token" not in stub.asked[0][2]


@pytest.mark.io
def test_the_token_is_read_anew_from_its_file(
    stubs: Callable[..., Stub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", "from-the-environment")
    stub, file = stubs(**listed([])), tmp_path / "token"
    api = ConsulApi(ConsulOptions(address=stub.address, token_file=str(file)))
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        api.instances("x")
    assert ["first", "second"] == [headers["X-Consul-Token"] for _, _, headers in stub.asked]


@pytest.mark.io
@pytest.mark.parametrize("content", [b"", b"two secrets", b"a\nb", b"s" * 257, b"\xff", None])
def test_a_token_file_without_a_token_is_an_error_that_does_not_tell_it(
    stubs: Callable[..., Stub], tmp_path: Path, content: bytes | None
) -> None:
    stub, file = stubs(**listed([])), tmp_path / "token-file"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(MatchmakerError) as caught:
        ConsulApi(ConsulOptions(address=stub.address, token_file=str(file))).instances("x")
    assert "secrets" not in str(caught.value)
    assert [] == stub.asked


@pytest.mark.io
def test_files_of_tls_that_are_not_there_are_an_error(tmp_path: Path) -> None:
    missing = str(tmp_path / "ca.pem")
    with pytest.raises(MatchmakerError, match=r"ca\.pem"):
        ConsulApi(ConsulOptions(address="https://127.0.0.1:1", ca_file=missing)).instances("x")
