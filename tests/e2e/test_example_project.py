"""The example project, as a visitor uses it: a real browser before a real server."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

import pytest
from playwright.sync_api import Page, WebSocket, expect
from websockets.exceptions import ConnectionClosed

from tests.e2e.browsing import (
    EXAMPLE,
    WAIT_SECONDS,
    Cookies,
    address,
    expect_state,
    log_in,
    serve,
    wire,
)
from tests.support.project import manage

pytestmark = pytest.mark.heavy


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
    for name in ("Weather", "Echo", "Counter", "Chat"):
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
    with serve(database) as server:
        page.goto(f"{address(server)}/echo/")
        expect_state(page, "open")
    expect(page.get_by_role("button", name="Send")).to_be_disabled()
    with serve(database, server.port):
        expect_state(page, "open")
        page.get_by_label("Message").fill("back again")
        page.get_by_role("button", name="Send").click()
        expect(page.get_by_role("log")).to_contain_text("back again")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/weather/", "/echo/", "/counter/", "/chat/", "/login/"])
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


def test_whatever_a_client_sends_is_no_error_of_the_sites(
    database: str, site: str, cookies: Cookies
) -> None:
    """The words that the handlers know, with values that no page sends."""
    odd: list[Any] = [None, True, 0, -1.5, "", "a\0b", [], [[]], {}, {"": {}}, "x" * 3000, 2**63]
    words = ["city", "pause", "do", "enter", "say", "token", "ticket", "type"]
    messages = [*odd, *({word: value} for word in words for value in odd)]
    with serve(database) as server:
        for path in ("weather", "echo", "counter", "chat", "notifications"):
            for cookie in ("", cookies["alice"]):
                waiting = [json.dumps(message) for message in messages]
                while waiting:
                    with (
                        suppress(ConnectionClosed),
                        wire(address(server), f"/ws/{path}/", cookie, max_queue=None) as opened,
                    ):
                        while waiting:
                            opened.connection.send(waiting.pop())
                            opened.connection.ping(ack_on_close=True).wait(WAIT_SECONDS)
    assert "ERROR" not in server.printed
    assert "1011" not in server.printed
