"""A headless Chromium, Debian's, driven by Playwright; it asks nobody but whom a page is from."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Page, sync_playwright

__all__ = ["chromium_page"]

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
def chromium_page(width: int, height: int, within_s: float = 30.0) -> Iterator[Page]:
    """Open a page of this size in pixels; raises RuntimeError if there is no Chromium."""
    program = shutil.which("chromium")
    if program is None:
        raise RuntimeError("no chromium on PATH: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(within_s * 1000)
            yield page
        finally:
            browser.close()
