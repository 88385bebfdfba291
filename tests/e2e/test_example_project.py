"""The example project, as a visitor uses it: a real browser before a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, WebSocket, expect, sync_playwright

from tests.e2e.project import Uvicorn, manage
from tests.e2e.servers import ROOT

EXAMPLE = ROOT / "example_project"
APPLICATION = "demo.asgi:application"
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

expect.set_options(timeout=20_000)  # milliseconds; a busy machine is no failure


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
    with Uvicorn(EXAMPLE, APPLICATION, DEMO_DATABASE=database) as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.fail(f"{CHROMIUM} is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page of a visitor who comes for the first time.

    It fails the test for whatever the browser complains of: an exception, a blocked or missing
    file, a breach of the Content-Security-Policy. (Chromium also complains of a connection that
    is lost, which the test of the reconnect wants.)
    """
    complaints: list[str] = []
    strangers: list[str] = []
    context = browser.new_context()
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda message: complaints.append(message.text) if message.type == "error" else None,
    )
    page.on(
        "request",
        lambda request: (
            None if request.url.startswith("http://127.0.0.1:") else strangers.append(request.url)
        ),
    )
    yield page
    context.close()
    assert [text for text in complaints if "WebSocket connection to" not in text] == []
    assert strangers == []


def log_in(page: Page, site: str, name: str, password: str = "demo") -> None:
    page.goto(f"{site}/login/?next=/echo/")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("main").get_by_role("button", name="Log in").click()


def expect_state(page: Page, state: str) -> None:
    expect(page.get_by_role("status")).to_have_attribute("data-state", state)


def next_forecast(connection: WebSocket, city: str) -> dict[str, object]:
    """The next message of the server with a forecast for this city."""

    def is_forecast(frame: str | bytes) -> bool:
        return bool(json.loads(frame).get("city") == city)

    message: dict[str, object] = json.loads(
        connection.wait_for_event("framereceived", is_forecast, timeout=20_000)
    )
    return message


def test_index_leads_to_each_demo(page: Page, site: str) -> None:
    page.goto(site)
    for name in ("Weather", "Echo"):
        page.get_by_role("main").get_by_role("link", name=name).click()
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
        expect_state(page, "open")
        page.get_by_role("link", name="django-ws", exact=True).click()


def test_weather_is_pushed_and_changes(page: Page, site: str) -> None:
    with page.expect_websocket() as opening:
        page.goto(f"{site}/weather/")
    first = next_forecast(opening.value, "Berlin")
    second = next_forecast(opening.value, "Berlin")
    assert first["now"] != second["now"]
    assert first["hours"] != second["hours"]


def test_weather_page_shows_each_forecast(page: Page, site: str) -> None:
    page.goto(f"{site}/weather/")
    expect(page.locator("#count")).to_have_text("1")
    before = page.locator("#at").get_attribute("datetime")
    expect(page.locator("#temperature")).to_have_text(re.compile(r"^-?\d+\.\d$"))
    expect(page.locator("#hours li")).to_have_count(6)
    expect(page.locator("#count")).to_have_text("2")
    assert page.locator("#at").get_attribute("datetime") != before


def test_weather_of_another_city_takes_the_place_of_the_first(page: Page, site: str) -> None:
    with page.expect_websocket() as opening:
        page.goto(f"{site}/weather/")
    next_forecast(opening.value, "Berlin")
    received: list[str] = []
    page.get_by_label("City").select_option("Oslo")
    next_forecast(opening.value, "Oslo")
    opening.value.on("framereceived", lambda frame: received.append(json.loads(frame)["city"]))
    next_forecast(opening.value, "Oslo")
    next_forecast(opening.value, "Oslo")
    assert set(received) == {"Oslo"}


def test_weather_goes_on_after_a_pause(page: Page, site: str) -> None:
    with page.expect_websocket() as opening:
        page.goto(f"{site}/weather/")
    next_forecast(opening.value, "Berlin")
    pause = page.get_by_role("button", name="Pause")
    pause.click()
    expect(pause).to_have_attribute("aria-pressed", "true")
    with opening.value.expect_event(
        "framereceived", lambda frame: "city" in json.loads(frame), timeout=20_000
    ):
        pause.click()
    expect(pause).to_have_attribute("aria-pressed", "false")


def test_echo_gives_back_what_was_typed_as_text(page: Page, site: str) -> None:
    page.goto(f"{site}/echo/")
    expect_state(page, "open")
    for text in ("hello", "<b>not bold</b>", "äöü ☂ 𝄞"):
        page.get_by_label("Message").fill(text)
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("log").get_by_role("listitem").last).to_contain_text(text)
    expect(page.get_by_role("log").get_by_role("listitem")).to_have_count(3)


def test_handler_knows_who_is_logged_in(page: Page, site: str) -> None:
    log_in(page, site, "alice")
    expect(page).to_have_url(f"{site}/echo/")
    expect(page.locator("#you")).to_have_text("alice")
    expect(page.locator("#who")).to_have_text("alice")


def test_handler_knows_nobody_after_the_log_out(page: Page, site: str) -> None:
    log_in(page, site, "bob")
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(f"{site}/")
    page.goto(f"{site}/echo/")
    expect(page.locator("#you")).to_have_text("a visitor who is not logged in")


def test_wrong_password_is_told(page: Page, site: str) -> None:
    log_in(page, site, "alice", password="wrong")
    expect(page.get_by_role("alert")).to_contain_text("do not match")


def test_page_reconnects_by_itself_after_a_restart(page: Page, database: str) -> None:
    with Uvicorn(EXAMPLE, APPLICATION, DEMO_DATABASE=database) as server:
        page.goto(f"http://127.0.0.1:{server.port}/echo/")
        expect_state(page, "open")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    with Uvicorn(EXAMPLE, APPLICATION, port=server.port, DEMO_DATABASE=database):
        expect_state(page, "open")
        page.get_by_label("Message").fill("back again")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("log")).to_contain_text("back again")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/weather/", "/echo/", "/login/"])
def test_page_fits_a_narrow_screen(page: Page, site: str, path: str, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 320, "height": 640})
    page.goto(f"{site}{path}")
    assert page.evaluate("document.documentElement.scrollWidth") == 320


def test_demo_users_are_created_once(database: str) -> None:
    again = manage(EXAMPLE, "createdemousers", DEMO_DATABASE=database)
    assert (again.returncode, again.stdout.splitlines()) == (
        0,
        ["alice: is there already", "bob: is there already"],
    )


def test_demo_users_are_refused_without_debug(database: str) -> None:
    done = manage(
        EXAMPLE,
        "createdemousers",
        DEMO_DATABASE=database,
        DEMO_DEBUG="0",
        DEMO_SECRET_KEY="a real one",
    )
    assert done.returncode == 1
    assert "DEBUG is off" in done.stderr


def test_demo_key_is_refused_without_debug() -> None:
    done = manage(EXAMPLE, "check", DEMO_DEBUG="0", DEMO_SECRET_KEY="")
    assert done.returncode == 1
    assert "set DEMO_SECRET_KEY" in done.stderr


def test_system_checks_find_nothing(database: str) -> None:
    done = manage(EXAMPLE, "check", "--fail-level", "WARNING", DEMO_DATABASE=database)
    assert done.returncode == 0, done.stderr
