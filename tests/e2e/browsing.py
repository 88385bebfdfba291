"""Visits to the example project: its server, a real browser, and connections without one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, build_opener

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Dialog,
    Page,
    Request,
    expect,
    sync_playwright,
)
from websockets.sync.client import ClientConnection, connect

from tests import ROOT
from tests.support.project import Uvicorn, manage
from tests.support.untraced import untraced

EXAMPLE = ROOT / "example_project"
CHROMIUM = "/usr/bin/chromium"
CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOST = "127.0.0.1"
WAIT_SECONDS = 20.0  # a busy machine is no failure

expect.set_options(timeout=WAIT_SECONDS * 1000)

NewVisitor = Callable[..., Page]  # new_visitor(), new_visitor("alice")


def serve(database: str, port: int = 0, **more: str) -> Uvicorn:
    return Uvicorn(EXAMPLE, "demo.asgi:application", port, DEMO_DATABASE=database, **more)


def address(server: Uvicorn) -> str:
    return f"http://{HOST}:{server.port}"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database of its own, made as `make demo` makes it."""
    name = str(tmp_path_factory.mktemp("demo") / "db.sqlite3")
    for command in (["migrate", "--verbosity", "0"], ["createdemousers"]):
        done = manage(EXAMPLE, *command, DEMO_DATABASE=name)
        assert done.returncode == 0, done.stderr
    return name


@pytest.fixture(scope="module")
def site(database: str) -> Iterator[str]:
    """The address of the served project."""
    with serve(database) as server:
        yield address(server)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.fail(f"{CHROMIUM} is missing: apt-get install chromium")
    with untraced(), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


class Cookies:
    """The Cookie headers of users of one database, who are logged in when first asked for.

    They are good for every server that uses the database: hashing a password takes long.
    """

    def __init__(self, site: str) -> None:
        self._site = site
        self._headers: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        if name not in self._headers:
            self._headers[name] = self._log_in(name)
        return self._headers[name]

    def _log_in(self, name: str) -> str:
        jar = CookieJar()
        opener = build_opener(HTTPCookieProcessor(jar))
        url = f"{self._site}/login/"
        opener.open(url, timeout=WAIT_SECONDS).close()
        [token] = [cookie.value for cookie in jar if cookie.name == "csrftoken"]
        form = {"csrfmiddlewaretoken": token, "username": name, "password": "demo"}
        opener.open(url, urlencode(form).encode(), timeout=WAIT_SECONDS).close()
        assert "sessionid" in [cookie.name for cookie in jar]
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in jar)


@pytest.fixture(scope="module")
def cookies(site: str) -> Cookies:
    return Cookies(site)


@pytest.fixture
def new_visitor(browser: Browser, cookies: Cookies) -> Iterator[NewVisitor]:
    """Gives a page of somebody who comes for the first time, each in a context of its own.

    Nobody is logged in, or the user whose name is given.

    It fails the test for whatever the browser complains of on any page of the context: an
    exception, a blocked or missing file, a breach of the Content-Security-Policy, a dialog.
    (Chromium also complains of a connection that is lost, which the tests of the reconnect want.)
    """
    complaints: list[str] = []
    contexts = []

    def on_dialog(dialog: Dialog) -> None:
        complaints.append(f"a dialog: {dialog.message}")
        dialog.dismiss()

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error":
            complaints.append(message.text)

    def on_request(request: Request) -> None:
        if not request.url.startswith(f"http://{HOST}:"):
            complaints.append(f"a request to {request.url}")

    def new(name: str | None = None) -> Page:
        context = browser.new_context()
        contexts.append(context)
        for cookie in cookies[name].split("; ") if name else ():
            key, _, value = cookie.partition("=")
            context.add_cookies([{"name": key, "value": value, "domain": HOST, "path": "/"}])
        context.on("weberror", lambda error: complaints.append(str(error.error)))
        context.on("console", on_console)
        context.on("dialog", on_dialog)
        context.on("request", on_request)
        return context.new_page()

    yield new
    for context in contexts:
        context.close()
    assert [text for text in complaints if "WebSocket connection to" not in text] == []


@pytest.fixture
def page(new_visitor: NewVisitor) -> Page:
    return new_visitor()


def log_in(page: Page, site: str, name: str, password: str = "demo", then: str = "/echo/") -> None:
    page.goto(f"{site}/login/?{urlencode({'next': then})}")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("main").get_by_role("button", name="Log in").click()


def expect_state(page: Page, state: str) -> None:
    expect(page.get_by_role("status")).to_have_attribute("data-state", state)


class Wire:
    """A connection to a handler of the project, as a page has one."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, **message: Any) -> None:
        self.connection.send(json.dumps(message))

    def receive(self, *keys: str) -> dict[str, Any]:
        """The next message that has one of these keys; those before it are skipped."""
        while True:
            message: dict[str, Any] = json.loads(self.connection.recv(WAIT_SECONDS))
            if any(key in message for key in keys):
                return message


@contextmanager
def wire(site: str, path: str, cookie: str = "", **options: Any) -> Iterator[Wire]:
    headers = {"Cookie": cookie} if cookie else {}
    url = site.replace("http", "ws", 1) + path
    # No proxy: the environment may name one, and the server is on this machine.
    with connect(
        url, additional_headers=headers, open_timeout=WAIT_SECONDS, proxy=None, **options
    ) as connection:
        yield Wire(connection)
