"""The page in Chromium: a mesh of three that changes by itself, by mouse and by keyboard, wide and narrow."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.system.agents import WITHIN_S, Agent, Fleet
from tests.system.browser import browsing

pytestmark = pytest.mark.system

WIDE, NARROW = {"width": 1200, "height": 800}, {"width": 390, "height": 844}
IMAGES = os.environ.get("SCREENSHOTS", "")
"""Where the documentation's pictures are written; empty: nowhere."""

expect.set_options(timeout=WITHIN_S * 1000)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Agents with a page each."""
    with Fleet(tmp_path, http={"http_listen": "127.0.0.1:0"}, view={"view_s": 0.5}) as fleet:
        yield fleet


def address(agent: Agent) -> str:
    host, port = agent.http_address
    return f"http://{host}:{port}/"


def keep(page: Page, name: str) -> None:
    """Write a picture for the documentation, if that is wanted."""
    if IMAGES:
        page.screenshot(path=f"{IMAGES}/{name}.png", full_page=True)


def test_the_page_shows_three_agents_at_work_and_one_that_dies(fleet: Fleet) -> None:
    a, b, c = (fleet.start(name) for name in "abc")
    with b.echo("orders"), c.echo("stock"), a.traffic("orders"), a.traffic("stock"), browsing(viewport=WIDE) as page:
        page.goto(address(a))
        for name in "abc":
            expect(page.get_by_role("button", name=f"agent {name}: serving")).to_be_visible()
        for pair in ("a – b", "a – c"):
            row = page.locator("#links tr", has_text=pair)
            expect(row).to_contain_text("persistent")
            expect(row).to_contain_text("ms")
            expect(row.locator("td").nth(3)).not_to_have_text("–")
        orders = page.locator("#topics tr", has_text="orders")
        expect(orders).to_contain_text("hot")
        expect(orders).to_contain_text("traffic@a")
        expect(orders).to_contain_text("b@b")
        keep(page, "page-wide-light")
        page.emulate_media(color_scheme="dark")
        keep(page, "page-wide-dark")
        c.kill()
        expect(page.get_by_role("button", name="agent c: silent for")).to_be_visible()
        expect(page.locator("#links tr", has_text="a – c")).to_have_count(0)
        expect(page.get_by_role("status")).to_contain_text("1 silent")
        expect(page.get_by_role("button", name="agent b: serving")).to_be_visible()
        keep(page, "page-death")


def test_the_page_says_that_its_agent_is_away_and_goes_on_when_it_is_back(fleet: Fleet) -> None:
    a = fleet.start("a")
    with browsing(viewport=WIDE) as page:
        page.goto(address(a))
        expect(page.get_by_role("status")).to_have_text("1 agent, 0 links")
        page.route("**/topology.json", lambda route: route.abort())
        expect(page.get_by_role("status")).to_contain_text("does not answer")
        page.unroute("**/topology.json")
        expect(page.get_by_role("status")).to_have_text("1 agent, 0 links")


def test_agents_are_chosen_by_mouse_and_by_keyboard(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with b.echo(), a.traffic(), browsing(viewport=WIDE) as page:
        page.goto(address(a))
        expect(page.get_by_role("heading", name="a", exact=True)).to_be_visible()
        page.get_by_role("button", name="agent b").click()
        expect(page.get_by_role("heading", name="b", exact=True)).to_be_visible()
        expect(page.locator("#apps")).to_contain_text("echo@b")
        for _ in range(9):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.getAttribute('aria-label') || ''").startswith("agent a"):
                break
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="a", exact=True)).to_be_visible()
        expect(page.get_by_role("button", name="agent a")).to_have_attribute("aria-pressed", "true")
        focused = page.evaluate_handle("document.activeElement")
        page.wait_for_timeout(1500)
        assert page.evaluate("one => one === document.activeElement", focused), "a new drawing keeps the focus"


def test_a_phone_shows_it_without_scrolling_sideways(fleet: Fleet) -> None:
    a, b = fleet.start("a"), fleet.start("b")
    with b.echo("orders"), a.traffic("orders"):
        for scheme in ("light", "dark"):
            with browsing(viewport=NARROW, color_scheme=scheme, is_mobile=True) as page:
                page.goto(address(a))
                expect(page.get_by_role("button", name="agent b: serving")).to_be_visible()
                expect(page.locator("#links tr", has_text="a – b")).to_contain_text("ms")
                assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
                back = page.evaluate("getComputedStyle(document.body).backgroundColor")
                assert {"light": "rgb(251, 251, 250)", "dark": "rgb(21, 23, 26)"}[scheme] == back
                keep(page, f"page-narrow-{scheme}")


def test_names_are_text_whatever_they_hold(fleet: Fleet) -> None:
    node = "<img><b>bold<b>&amp;"
    a = fleet.start(node, name="a")
    with browsing(viewport=WIDE) as page:
        page.goto(address(a))
        expect(page.get_by_role("heading", name=node, exact=True)).to_be_visible()
        assert 0 == page.locator("img").count()
