"""A real server with a worker beside it, and a real browser before it."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright
from served import Look, Served

PATIENCE_MS = 240_000
FLAGS = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
SAYS_WHERE = re.compile(r"autotune serves on (http://\S+)")


expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium or Chrome is installed here, and nothing else can show what its pages do")
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of `autotune serve` with everything of its own."""
    folder: Path = tmp_path_factory.mktemp("server")
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE_")}
    words = [sys.executable, "-P", "-m", "autotune", "serve", "--port", "0", "--executor", "local"]
    with subprocess.Popen(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        match = SAYS_WHERE.fullmatch(process.stdout.readline().strip())
        assert match is not None
        yield match[1]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.fixture(scope="session")
def browser(chromium: str) -> Iterator[Browser]:
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium, args=list(FLAGS)) as browser,
    ):
        yield browser


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    for name in ("AUTOTUNE_TOKEN", "AUTOTUNE_HOSTS", "AUTOTUNE_FACTORIES", "AUTOTUNE_RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    served = Served(f"sqlite:///{tmp_path / 'jobs.db'}")
    served.start()
    yield served
    served.stop()


@pytest.fixture
def look(browser: Browser, served: Served) -> Iterator[Look]:
    """Open a page; in the end none may have raised, or been kept from what it wanted."""
    wrong: list[str] = []
    with browser.new_context() as context:

        def look(path: str) -> Page:
            page = context.new_page()
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on("console", lambda said: "Content Security" in said.text and wrong.append(said.text))
            page.goto(served.url + path)
            return page

        yield look
    assert wrong == []


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True) as context:
        context.set_default_timeout(PATIENCE_MS)
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """Fails a test in which a page's script failed or asked for something from elsewhere."""
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(f"script: {error}"))
    page.on("console", lambda said: wrong.append(f"console: {said.text}") if _is_fault(said) else None)
    page.on(
        "request",
        lambda asked: wrong.append(f"asked {asked.url}") if not _is_own(asked.url) else None,
    )
    yield page
    assert wrong == []


def _is_fault(said: ConsoleMessage) -> bool:
    """Not a refusal (status 4xx), of which a browser makes an error too."""
    return said.type == "error" and "status of 4" not in said.text


def _is_own(url: str) -> bool:
    return url.startswith(("http://127.0.0.1:", "data:", "blob:"))
