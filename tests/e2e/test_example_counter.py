"""The counter of the example project, in real browsers and on bare connections."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

from tests.e2e.browsing import EXAMPLE, NewVisitor, address, expect_state, serve, wire
from tests.support.project import manage
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.heavy

CONNECTIONS = 6
INCREMENTS = 15  # on each


def open_counter(page: Page, site: str) -> Page:
    page.goto(f"{site}/counter/")
    expect_state(page, "open")
    return page


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def expect_value(page: Page, value: int) -> None:
    expect(page.locator("#value")).to_have_text(str(value))


@pytest.fixture
def alice(new_visitor: NewVisitor, site: str) -> Page:
    """Alice's page, at zero."""
    page = open_counter(new_visitor("alice"), site)
    press(page, "Reset")
    expect_value(page, 0)
    return page


def test_an_increment_shows_in_all_tabs_of_the_user(
    alice: Page, new_visitor: NewVisitor, site: str
) -> None:
    tab = open_counter(alice.context.new_page(), site)
    other_browser = open_counter(new_visitor("alice"), site)
    press(alice, "Increment")
    press(alice, "Increment")
    press(tab, "Increment")
    for page in (alice, tab, other_browser):
        expect_value(page, 3)


def test_a_reset_shows_in_all_tabs_of_the_user(alice: Page, site: str) -> None:
    tab = open_counter(alice.context.new_page(), site)
    press(alice, "Increment")
    expect_value(tab, 1)
    press(alice, "Reset")
    expect_value(tab, 0)


def test_a_tab_that_joins_later_is_in_step(alice: Page, site: str) -> None:
    press(alice, "Increment")
    expect_value(alice, 1)
    expect_value(open_counter(alice.context.new_page(), site), 1)


def test_users_and_visitors_have_counters_of_their_own(
    alice: Page, new_visitor: NewVisitor, site: str
) -> None:
    others = [open_counter(new_visitor("bob"), site), open_counter(new_visitor(), site)]
    for page in others:
        press(page, "Reset")
        expect_value(page, 0)
    for _ in range(3):
        press(alice, "Increment")
    expect_value(alice, 3)
    for number, page in enumerate(others, start=1):
        for _ in range(number):
            press(page, "Increment")
        expect_value(page, number)


def test_visitors_who_are_not_logged_in_share_one(new_visitor: NewVisitor, site: str) -> None:
    one, other = open_counter(new_visitor(), site), open_counter(new_visitor(), site)
    expect(one.locator("#you")).to_have_text("all visitors who are not logged in")
    press(one, "Reset")
    expect_value(other, 0)
    press(one, "Increment")
    press(other, "Increment")
    for page in (one, other):
        expect_value(page, 2)


def test_page_comes_back_with_the_value_after_a_restart(
    new_visitor: NewVisitor, database: str
) -> None:
    with serve(database) as server:
        page = open_counter(new_visitor("bob"), address(server))
        press(page, "Reset")
        expect_value(page, 0)
        press(page, "Increment")
        expect_value(page, 1)
    expect(page.get_by_role("button", name="Increment")).to_be_disabled()
    with serve(database, server.port):
        expect_state(page, "open")
        press(page, "Increment")
        expect_value(page, 2)


def test_a_value_that_arrives_late_is_not_shown(page: Page, site: str) -> None:
    def answer(route: WebSocketRoute) -> None:
        for value, version in ((7, 2), (6, 1), (8, 3), (8, 3), (5, 0)):
            route.send(json.dumps({"value": value, "version": version}))
        route.send(json.dumps({"you": "the end"}))

    page.route_web_socket("**/ws/counter/", answer)
    page.goto(f"{site}/counter/")
    expect(page.locator("#you")).to_have_text("the end")
    assert page.locator("#value").text_content() == "8"


def test_no_concurrent_increment_is_lost(site: str) -> None:
    def increment(_: int) -> None:
        with wire(site, "/ws/counter/") as connection:
            for _ in range(INCREMENTS):
                connection.send(do="increment")
            for _ in range(INCREMENTS):
                connection.receive("value")

    with wire(site, "/ws/counter/") as watching:
        watching.receive("value")
        watching.send(do="reset")
        assert watching.receive("value")["value"] == 0
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            list(threads.map(increment, range(CONNECTIONS)))
        seen = [watching.receive("value") for _ in range(CONNECTIONS * INCREMENTS)]
    values = [message["value"] for message in seen]
    assert sorted(values) == list(range(1, CONNECTIONS * INCREMENTS + 1))
    with wire(site, "/ws/counter/") as late:
        assert late.receive("value")["value"] == CONNECTIONS * INCREMENTS


def test_other_processes_catch_up_after_a_fault_of_redis(database: str) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        one = stack.enter_context(serve(database, DEMO_BROADCAST=redis.url))
        two = serve(database, DEMO_BROADCAST=redis.url)
        stack.callback(two.stop)  # it may log the failure, with a traceback
        near = stack.enter_context(wire(address(one), "/ws/counter/"))
        far = stack.enter_context(wire(address(two), "/ws/counter/"))
        for connection in (near, far):
            connection.receive("value")
        far.send(do="reset")
        assert near.receive("value")["value"] == 0
        far.receive("value")
        redis.kill()
        far.send(do="increment")
        far.send(do="explode")
        far.receive("error")  # so the increment is done, and nobody was told of it
        redis.start()
        assert near.receive("value")["value"] == 1
        assert far.receive("value")["value"] == 1


def test_what_is_no_command_is_answered(site: str) -> None:
    with wire(site, "/ws/counter/") as connection:
        connection.send(do="explode")
        assert "increment" in connection.receive("error")["error"]


def test_migrations_are_complete(database: str) -> None:
    done = manage(EXAMPLE, "makemigrations", "--check", DEMO_DATABASE=database)
    assert done.returncode == 0, done.stdout
