"""The counter of the example project with a token of Django REST framework, in real browsers."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, WebSocket, expect
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from tests.e2e.browsing import WAIT_SECONDS, NewVisitor, address, expect_state, serve
from tests.support.project import Uvicorn

pytestmark = pytest.mark.heavy

PATH = "/counter/token/"


@pytest.fixture(scope="module")
def server(database: str) -> Iterator[Uvicorn]:
    with serve(database) as server:
        yield server


@pytest.fixture(scope="module")
def site(server: Uvicorn) -> str:
    return address(server)


def open_page(page: Page, site: str, path: str = PATH) -> Page:
    page.goto(f"{site}{path}")
    expect_state(page, "open")
    expect(page.get_by_role("button", name="Increment")).to_be_enabled()
    return page


def open_with_token(page: Page, site: str, path: str = PATH) -> str:
    """The token that the site gave to the page."""
    with page.expect_response(f"**{PATH}key/") as answer:
        open_page(page, site, path)
    token: str = answer.value.json()["token"]
    return token


def you_are(site: str, query: str = "", *offered: str) -> str | None:
    """For whom the counter takes a client that brings no cookie."""
    with connect(
        f"{site.replace('http', 'ws', 1)}/ws/counter/{query}",
        subprotocols=[Subprotocol(name) for name in offered] or None,
        open_timeout=WAIT_SECONDS,
        proxy=None,
    ) as connection:
        you: str | None = json.loads(connection.recv(WAIT_SECONDS))["you"]
        return you


def test_page_shares_the_counter_with_a_page_of_the_session(
    new_visitor: NewVisitor, site: str
) -> None:
    by_token = open_page(new_visitor("alice"), site)
    by_session = open_page(by_token.context.new_page(), site, "/counter/")
    by_token.get_by_role("button", name="Reset").click()
    for page, value in ((by_token, "1"), (by_session, "2")):
        page.get_by_role("button", name="Increment").click()
        for each in (by_token, by_session):
            expect(each.locator("#value")).to_have_text(value)


def test_token_logs_in_without_a_session(new_visitor: NewVisitor, database: str) -> None:
    with serve(database) as server:
        page = open_page(new_visitor("bob"), address(server))
    page.context.clear_cookies()
    with serve(database, server.port):
        expect_state(page, "open")
        expect(page.get_by_role("button", name="Increment")).to_be_enabled()
        expect(page.locator("#you")).to_have_text("bob")


def test_visitors_are_told_how_to_log_in(page: Page, site: str) -> None:
    sockets: list[WebSocket] = []
    page.on("websocket", lambda socket: sockets.append(socket))
    page.goto(f"{site}{PATH}")
    main = page.get_by_role("main")
    expect(main).to_contain_text("You are not logged in")
    main.get_by_role("link", name="Log in").click()
    assert sockets == []
    page.get_by_label("Name").fill("bob")
    page.get_by_label("Password").fill("demo")
    main.get_by_role("button", name="Log in").click()
    expect(page.locator("#you")).to_have_text("bob")


def test_visitors_get_no_token(page: Page, site: str) -> None:
    page.goto(f"{site}/login/")  # for the cookie
    [cookie] = page.context.cookies()
    headers = {"X-CSRFToken": cookie["value"]}
    answer = page.context.request.post(f"{site}{PATH}key/", headers=headers)
    assert (answer.status, answer.json()) == (401, {"error": "log in first"})


def test_connection_ends_when_the_token_is_revoked(new_visitor: NewVisitor, site: str) -> None:
    page = new_visitor("bob")
    token = open_with_token(page, site)
    assert you_are(site, "", f"Token.{token}") == "bob"
    page.get_by_role("button", name="Revoke").click()
    expect_state(page, "closed")
    expect(page.get_by_role("alert")).to_contain_text("not valid any more")
    with pytest.raises(InvalidStatus) as refused:
        you_are(site, "", f"Token.{token}")
    assert refused.value.response.status_code == 401
    with page.expect_response(f"**{PATH}key/") as answer:
        page.get_by_role("link", name="Reload").click()
    assert answer.value.json()["token"] != token
    expect_state(page, "open")
    expect(page.locator("#you")).to_have_text("bob")


def test_token_in_the_url_is_ignored_where_it_is_switched_off(
    new_visitor: NewVisitor, site: str
) -> None:
    page = new_visitor("alice")
    with page.expect_websocket() as opening:
        token = open_with_token(page, site, f"{PATH}?by=url")
    assert "?" not in opening.value.url
    expect(page.get_by_role("main")).to_contain_text("switched off")
    assert you_are(site, f"?token={token}") is None
    assert you_are(site, "", f"Token.{token}") == "alice"


def test_token_in_the_url_where_it_is_switched_on(new_visitor: NewVisitor, database: str) -> None:
    with serve(database, DEMO_TOKEN_IN_URL="1") as server:
        site = address(server)
        page = open_page(new_visitor("alice"), site)
        with page.expect_websocket() as opening:
            page.get_by_role("link", name="?token=").click()
        assert "?token=" in opening.value.url
        expect(page.locator("#you")).to_have_text("alice")
        assert you_are(site, "?" + opening.value.url.partition("?")[2]) == "alice"


def test_log_keeps_no_token(new_visitor: NewVisitor, database: str) -> None:
    with serve(database) as server:
        page = new_visitor("bob")
        site = address(server)
        token = open_with_token(page, site)
        with pytest.raises(InvalidStatus):
            you_are(site, "", f"Token.{token}x")
        page.get_by_role("button", name="Revoke").click()
        expect_state(page, "closed")
    assert "/ws/counter/" in server.printed
    assert "refused with 401" in server.printed
    assert token not in server.printed


@pytest.mark.parametrize("name", [None, "bob"])
def test_page_fits_a_narrow_screen(new_visitor: NewVisitor, site: str, name: str | None) -> None:
    page = new_visitor(name)
    page.set_viewport_size({"width": 320, "height": 640})
    page.goto(f"{site}{PATH}")
    assert page.evaluate("document.documentElement.scrollWidth") == 320
