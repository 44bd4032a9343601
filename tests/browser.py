"""A real Chromium without a window, and visits to a page that note all that went wrong."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

ARTIFACTS = Path(__file__).resolve().parents[1] / ".artifacts"  # screenshots, to be looked at

DESKTOP = {"viewport": {"width": 1280, "height": 900}}
SLOW = 60_000  # ms for what waits for the pipeline, on a machine with other work

# Run in a page whose only audio element is in no document: it is `window.sound` once it plays.
LISTEN = """() => {
    const play = HTMLMediaElement.prototype.play;
    HTMLMediaElement.prototype.play = function () {
        window.sound = this;
        return play.call(this);
    };
}"""

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Its path; installs Debian's where we may."""
    path = _look()
    if path is None and os.getuid() == 0 and shutil.which("apt-get"):
        quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True}
        subprocess.run(["apt-get", "update"], **quiet)
        install = ["apt-get", "install", "-y", "--no-install-recommends"]
        subprocess.run([*install, "chromium", "fonts-dejavu-core"], **quiet)
        path = _look()
    return path


def _look() -> str | None:
    return next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def running() -> Iterator[Browser]:
    """A browser, without which CI fails; while it runs, its thread has a running event loop."""
    path = find_chromium()
    if path is None:
        missing = "no Chromium here, and none could be installed"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    with sync_playwright() as playwright:
        # Chromium's sandbox refuses to run as root
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@dataclass
class Visit:
    """One tab, and what it did.

    Attributes
    ----------
    page : Page
    problems : list of str
        What the console says is wrong: exceptions, breaches of the content security policy,
        requests that failed.
    urls : list of str
        Of all requests.
    """

    page: Page
    problems: list[str] = field(default_factory=list)
    urls: list[str] = field(default_factory=list)

    def screenshot(self, name: str) -> None:
        ARTIFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=ARTIFACTS / f"{name}.png", full_page=True)

    def expect_problems(self, *parts: str) -> None:
        """Take note of problems that belong to a test, one for each part of a message."""
        for part in parts:
            found = next((problem for problem in self.problems if part in problem), None)
            assert found, f"no {part!r} in {self.problems}"
            self.problems.remove(found)


def visit(context: BrowserContext, url: str) -> Visit:
    """Open a page in a new tab."""
    made = Visit(context.new_page())
    made.page.set_default_timeout(10_000)

    def told(message) -> None:
        if message.type in ("error", "warning"):
            made.problems.append(message.text)

    made.page.on("console", told)
    made.page.on("pageerror", lambda error: made.problems.append(str(error)))
    made.page.on("request", lambda request: made.urls.append(request.url))
    made.page.goto(url)
    return made


def foreign(urls: list[str], own: str) -> list[str]:
    """Those that lead to other hosts."""
    return [
        url
        for url in urls
        if urlsplit(url).scheme not in ("blob", "data")
        and urlsplit(url).netloc != urlsplit(own).netloc
    ]


def choose(page, path: Path) -> None:
    page.set_input_files("#file", path)
    page.click("#go")


def until(page, condition: str) -> None:
    """Wait until something is true; Playwright's own waiting needs `eval`, which is forbidden."""
    deadline = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"still not so: {condition}"
        page.wait_for_timeout(30)
