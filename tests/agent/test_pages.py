"""What an agent answers over HTTP: health, readiness, metrics, the fleet; and to whom."""

import base64
from email.message import Message
from http import HTTPStatus
from pathlib import Path

import pytest
from msgspec import json

from mesh.agent.http import Request, Response
from mesh.agent.pages import Pages, read_token, reasons
from mesh.core.catalogue import Health
from mesh.core.health import agent_health
from mesh.core.report import vitals
from tests.core.fabric import lone_node

TOKEN = "correct horse battery".replace(" ", "-")
HEALTHY = {"reachable": True, "registered": 1, "to_register": 1, "problem": ""}


class Clock:
    """A clock that stands."""

    now = 5.0

    def __call__(self) -> float:
        return self.now


def pages(token: str = "") -> Pages:
    one = lone_node()
    one.facts.update(matchmaker=HEALTHY)
    return Pages(one, lambda: {"descriptors": (10, 100)}, token, Clock())


def get(shown: Pages, path: str, host: str = "127.0.0.1:7442", authorization: str = "", after: str = "") -> Response:
    headers = Message()
    headers["Host"] = host
    if authorization:
        headers["Authorization"] = authorization
    return shown.answer(Request(path, {"after": after} if after else {}, headers))


def test_an_agent_whose_loop_turns_is_healthy() -> None:
    assert (HTTPStatus.OK, b"ok\n") == (get(pages(), "/healthz").status, get(pages(), "/healthz").body)


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"matchmaker": {}}, "the matchmaker does not answer: not yet"),
        (
            {"matchmaker": HEALTHY | {"reachable": False, "problem": "refused"}},
            "the matchmaker does not answer: refused",
        ),
        ({"matchmaker": HEALTHY | {"to_register": 3}}, "1 of 3 entries are registered"),
        ({"lasting_lag_ms": 6000.0}, "its loop lags 6.0 s: too much load for this machine"),
        ({"descriptors": 99, "descriptors_max": 100}, "99 of 100 open files are in use: raise LimitNOFILE"),
    ],
)
def test_an_agent_that_is_not_ready_says_why(facts: dict[str, object], why: str) -> None:
    shown = pages()
    assert HTTPStatus.OK == get(shown, "/readyz").status
    shown = pages()
    shown.node.facts.update(facts)
    answer = get(shown, "/readyz")
    assert (HTTPStatus.SERVICE_UNAVAILABLE, f"{why}\n".encode()) == (answer.status, answer.body)


def test_an_agent_whose_check_only_warns_is_ready() -> None:
    shown = pages()
    shown.node.facts.update(lasting_lag_ms=1500.0)
    assert Health.WARNING == agent_health(vitals(shown.node.state, shown.node.options, shown.node.facts)).health
    assert [] == reasons(shown.node)


def test_a_draining_agent_is_not_ready() -> None:
    shown = pages()
    shown.node.state.draining = True
    assert ["draining: 0 unfinished"] == reasons(shown.node)


def test_metrics_have_the_limits_of_the_core_and_of_the_shell() -> None:
    answer = get(pages(), "/metrics")
    assert b'heartmesh_limit_used{limit="descriptors"} 10.0\n' in answer.body
    assert b'heartmesh_limit_max{limit="links_max"} 256.0\n' in answer.body
    assert answer.kind.startswith("text/plain")


def test_who_asks_for_the_topology_looks_at_the_fleet() -> None:
    shown = pages()
    answer = get(shown, "/topology.json")
    assert (HTTPStatus.OK, "application/json") == (answer.status, answer.kind)
    assert ["b"] == [node["node"] for node in json.decode(answer.body)["nodes"]]
    assert 5.0 == shown.node.state.views.looked_at
    assert [] == json.decode(get(shown, "/topology.json", after="b").body)["nodes"]


def test_many_readers_within_a_moment_get_one_answer() -> None:
    shown, clock = pages(), Clock()
    shown.clock = clock
    first = get(shown, "/topology.json")
    clock.now += 0.4
    assert first is get(shown, "/topology.json")
    clock.now += 0.2
    assert first is not get(shown, "/topology.json")
    assert 1 == len(shown.kept)


def test_the_page_loads_nothing_from_elsewhere() -> None:
    page = get(pages(), "/")
    assert "text/html; charset=utf-8" == page.kind
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    for path in ("/", "/page.js", "/page.css"):
        body = get(pages(), path).body
        assert b"://" not in body.replace(b"http://www.w3.org/2000/svg", b""), path


def test_there_is_nothing_else() -> None:
    answer = get(pages(), "/etc/passwd")
    assert (HTTPStatus.NOT_FOUND, b"here is only / /healthz /metrics /readyz /topology.json\n") == (
        answer.status,
        answer.body,
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:7442", "[::1]:7442", "[::1]", "localhost:7442", ""])
def test_this_machine_may_be_asked_by_its_own_names(host: str) -> None:
    assert HTTPStatus.OK == get(pages(), "/healthz", host).status


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7442", "localhost.evil.example", "127.0.0.1.evil"])
def test_a_name_from_elsewhere_that_points_here_is_told_nothing(host: str) -> None:
    assert HTTPStatus.MISDIRECTED_REQUEST == get(pages(), "/topology.json", host).status


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("shown", [f"Bearer {TOKEN}", f"bearer  {TOKEN}", basic("me", TOKEN), basic("", TOKEN)])
def test_a_token_opens_by_any_name(shown: str) -> None:
    assert HTTPStatus.OK == get(pages(TOKEN), "/metrics", "node7.example", shown).status


@pytest.mark.parametrize(
    "shown", ["", "Bearer", "Bearer x", f"Token {TOKEN}", basic(TOKEN, "x"), "Basic ?", "Basic YWJj", "Bearer \xe9"]
)
def test_without_the_token_nothing_is_told(shown: str) -> None:
    for path in ("/", "/healthz", "/metrics", "/nowhere"):
        answer = get(pages(TOKEN), path, authorization=shown)
        assert HTTPStatus.UNAUTHORIZED == answer.status
        assert "Basic" in answer.headers["WWW-Authenticate"]


def test_a_token_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    assert TOKEN == read_token(str(path))


@pytest.mark.parametrize("content", ["", "short", "two words are no token", "x" * 5000, "kätzchen-kätzchen"])
def test_a_bad_token_says_what_is_wrong(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(ValueError, match="http_token_file"):
        read_token(str(path))
    with pytest.raises(ValueError, match="cannot be read"):
        read_token(str(tmp_path / "absent"))
