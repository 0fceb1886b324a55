"""Fixtures that drive pages with a Chromium; a folder of tests that does imports them in its conftest.py."""

import os
import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Dialog, Page, expect, sync_playwright

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SWITCHES = (  # no sandbox: root has none, and the pages are our own; the rest keeps it from calling home
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)

expect.set_options(timeout=10_000)  # as patient as wait_until


@pytest.fixture(scope="module")  # not of the session: the loop it runs would be in the way of asynchronous tests
def browser() -> Iterator[Browser]:
    """A Chromium for the tests of this file. Where there is none they are skipped, or fail under CI."""
    if CHROMIUM is None:
        words = "there is no Chromium to drive the page with. On Debian: apt install chromium"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(words)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES.split())
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab of a fresh profile. A dialog, an exception or a line of the console's, other than a status, fails."""
    context = browser.new_context()
    page = context.new_page()
    mishaps: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        mishaps.append(dialog.message)
        dialog.dismiss()

    page.on("console", lambda line: mishaps.append(line.text))
    page.on("pageerror", lambda error: mishaps.append(str(error)))
    page.on("dialog", dismiss)
    yield page
    context.close()
    assert [text for text in mishaps if not text.startswith("Failed to load resource: ")] == []
