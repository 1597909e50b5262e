"""Consul's own UI in a real browser: what an operator sees. ``SCREENSHOTS`` names where the pictures are kept."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from mesh.cli.wordcount import TALLY, WORDS
from mesh.matchmaker.names import FLEET_DEFAULT, app_service, topic_service
from mesh.types import TopicKey
from tests.consul_server import ConsulServer, free_port
from tests.system.agents import until
from tests.system.browser import chromium_page
from tests.system.test_topology import Stage

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
SIZE = (1400, 720)
SENDER = app_service(FLEET_DEFAULT, "", "sender")
WORDS_SERVICE, TALLY_SERVICE = (topic_service(FLEET_DEFAULT, TopicKey("", topic)) for topic in (WORDS, TALLY))


@pytest.fixture
def page_port() -> int:
    """Where an agent of the test will show its page."""
    return free_port()


@pytest.fixture
def stage(tmp_path: Path, page_port: int) -> Iterator[Stage]:
    """A fleet at a development Consul, whose dashboard link is that of consul/dashboard.hcl on another port."""
    template = tmp_path / "dashboard.hcl"
    template.write_text((ROOT / "consul/dashboard.hcl").read_text().replace("7442", str(page_port)))
    with ConsulServer(tmp_path / "consul", base=[ROOT / "consul/dev/server.hcl", template]) as consul:
        made = Stage(consul, tmp_path)
        yield made
        made.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return Path(os.environ.get("SCREENSHOTS") or tmp_path)


def shot(page: Page, pictures: Path, name: str) -> None:
    page.wait_for_timeout(500)  # for what moves in to stand still
    page.screenshot(path=str(pictures / f"{name}.png"))


def test_an_operator_sees_services_who_calls_whom_and_what_is_broken(
    stage: Stage, page_port: int, pictures: Path
) -> None:
    page_at = {"http_listen": f"127.0.0.1:{page_port}"}
    a = stage.agent("anna", keeper=True, health={"app_silent_s": 2.0}, http=page_at)
    b = stage.agent("bert", health={"app_silent_s": 2.0})
    tally = stage.program(b, "tally", serves=TALLY)
    stage.program(b, "words", serves=WORDS, calls=TALLY)
    stage.program(a, "sender", calls=WORDS)
    until(lambda: stage.ends(WORDS_SERVICE) == ({SENDER}, {TALLY_SERVICE}), "the edges are drawn")
    ui = f"{stage.consul.address}/ui/dc1/services"
    with chromium_page(viewport={"width": SIZE[0], "height": SIZE[1]}) as page:
        page.goto(ui)
        for service in ("heartmesh-agent", SENDER, WORDS_SERVICE, TALLY_SERVICE):
            expect(page.get_by_text(service, exact=True).first).to_be_visible()
        shot(page, pictures, "consul-services")

        page.goto(f"{ui}/{WORDS_SERVICE}/topology")
        expect(page.locator("#downstream-container").get_by_text(SENDER)).to_be_visible()
        expect(page.locator("#upstream-container").get_by_text(TALLY_SERVICE)).to_be_visible()
        expect(page.locator("#downstream-lines path[data-permission=allow]")).to_have_count(1)
        expect(page.locator("#upstream-lines path[data-permission=allow]")).to_have_count(1)
        expect(page.get_by_text("* (All Services)")).to_have_count(0)
        # The UI draws its lines once, maybe before all cards stand, and anew when the window's size changes.
        page.set_viewport_size({"width": SIZE[0] - 1, "height": SIZE[1]})
        page.wait_for_timeout(500)
        page.set_viewport_size({"width": SIZE[0], "height": SIZE[1]})
        shot(page, pictures, "consul-topology")

        link = page.get_by_role("link", name="Open dashboard").first
        assert str(link.get_attribute("href")).endswith(f"/?service={WORDS_SERVICE}")
        with page.context.expect_page() as opened:
            link.click()
        expect(opened.value).to_have_title("heartmesh")
        # An agent asks the others only from when somebody looks, and the page asks it anew every two seconds.
        expect(opened.value.get_by_role("button", name="agent bert: serving")).to_be_visible(timeout=20_000)
        cell = opened.value.get_by_role("cell", name="words", exact=True)
        words = opened.value.locator("#topics tr").filter(has=cell)
        for side in ("sender@anna", "@bert"):
            expect(words).to_contain_text(side)

        tally.send_signal(signal.SIGSTOP)
        page.goto(f"{ui}/{TALLY_SERVICE}/instances")
        page.get_by_text(f"{TALLY_SERVICE}:bert:0").first.click()
        failing = page.get_by_text("its app is silent", exact=False)
        expect(failing).to_be_visible()
        shot(page, pictures, "consul-critical")
