"""A browser of the tests' own, and visits to a page with it."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import pytest

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# What a browser says of every answer with such a status, whatever a page does about it.
_EXPECTED = re.compile(r"Failed to load resource: the server responded with a status of (401|429)")


def why_not() -> str | None:
    """Why no browser can be started here, or None."""
    found = {"playwright": find_spec("playwright"), "chromium": _CHROMIUM}
    missing = " and ".join(name for name in found if not found[name])
    return f"{missing} not found; pip install playwright, apt-get install chromium" if missing else None


@contextmanager
def chromium() -> Iterator:
    """A browser, without a window. Skips the test where there is none, and fails it where one is needed."""
    if reason := why_not():
        (pytest.fail if os.environ.get("TPI_MPI_NEED_CHROMIUM") else pytest.skip)(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def visit(browser, url: str) -> Iterator:
    """A page, visited by somebody new. Its policy may refuse nothing, and nothing may go wrong in its script."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page, wrong = context.new_page(), []
    page.set_default_timeout(10_000)
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(url)
    yield page
    context.close()
    assert [text for text in wrong if not _EXPECTED.match(text)] == []
