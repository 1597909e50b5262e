"""Chromium without a screen, driven by Playwright; it talks to loopback and to nobody else."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Page, sync_playwright

__all__ = ["browsing", "chromium_page"]

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium_page(**options: Any) -> Iterator[Page]:
    """Open a page of a new browser; ``options`` are Playwright's for it."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "this test needs Chromium: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield browser.new_page(**options)
        finally:
            browser.close()


@contextmanager
def browsing(**options: Any) -> Iterator[Page]:
    """Open a page of ours; what its scripts raise, and requests to elsewhere, fail the test at its end."""
    problems: list[str] = []
    with chromium_page(**options) as page:
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda told: problems.append(told.text) if told.type == "error" else None)
        page.on("request", lambda asked: problems.append(asked.url) if "//127.0.0.1:" not in asked.url else None)
        yield page
    # That an agent does not answer is told to the console, and is not the page's fault.
    assert [] == [one for one in problems if not one.startswith(("data:", "Failed to load resource"))]
