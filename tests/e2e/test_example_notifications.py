"""The admin notifications of the example project: two processes of the site, one Redis, and a front
end on a port of its own, in real browsers."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from email.message import Message
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page, WebSocket, expect

from tests.e2e.browsing import (
    EXAMPLE,
    HOST,
    WAIT_SECONDS,
    Cookies,
    NewVisitor,
    Wire,
    address,
    expect_state,
    log_in,
    serve,
    wire,
)
from tests.support.project import Uvicorn, environment
from tests.support.redis_server import RedisServer, free_port
from tests.support.servers import START_SECONDS, TROUBLE, Lines

pytestmark = pytest.mark.heavy


@dataclass
class FrontEnd:
    url: str
    output: Lines


@contextmanager
def front_end_at(port: int, site: str) -> Iterator[FrontEnd]:
    """Served as `make demo` serves it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "front_end", "--port", str(port), "--site", site],
        cwd=EXAMPLE,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdout is not None
    output = Lines(process.stdout)
    try:
        running = output.wait_for(lambda lines: any("running" in line for line in lines), 20)
        assert running, output.lines
        yield FrontEnd(f"http://{HOST}:{port}", output)
    finally:
        process.kill()
        process.wait(START_SECONDS)
        output.close()
    assert not TROUBLE.search("\n".join(output.lines)), output.lines


@dataclass
class Running:
    """One process of the site has the admin, the other one the sockets of the front end."""

    one: Uvicorn
    two: Uvicorn
    front_end: FrontEnd

    @property
    def printed(self) -> str:
        return "\n".join([self.one.printed, self.two.printed, *self.front_end.output.lines])


@pytest.fixture(scope="module")
def running(database: str) -> Iterator[Running]:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        port = free_port()
        more = {"DEMO_BROADCAST": redis.url, "DEMO_FRONT_END": f"http://{HOST}:{port}"}
        one, two = (stack.enter_context(serve(database, 0, **more)) for _ in range(2))
        yield Running(one, two, stack.enter_context(front_end_at(port, address(two))))


@pytest.fixture(scope="module")
def site(running: Running) -> str:
    return address(running.one)


class Admin:
    """What alice does in the admin of the first process."""

    def __init__(self, site: str, database: str, cookie: str) -> None:
        self.site = site
        self.database = database
        self.cookie = cookie
        [self._csrf] = [c[10:] for c in cookie.split("; ") if c.startswith("csrftoken=")]

    def post(self, path: str, **form: Any) -> None:
        data = urlencode({"csrfmiddlewaretoken": self._csrf, **form}, doseq=True).encode()
        url = f"{self.site}/admin/{path}/"
        request = Request(url, data, headers={"Cookie": self.cookie})
        with urlopen(request, timeout=WAIT_SECONDS) as answer:
            page = answer.read().decode()
            assert answer.url != url or "errornote" not in page, page
            assert "/login/" not in answer.url

    def id_of(self, query: str, *values: Any) -> int:
        with closing(sqlite3.connect(self.database)) as connection:
            [(found,)] = connection.execute(f"select id from {query}", values).fetchall()
        return int(found)

    def add_room(self, name: str) -> None:
        self.post("chat/room/add", name=name)

    def delete_rooms(self, *names: str) -> None:
        rooms = [self.id_of("chat_room where name = ?", name) for name in names]
        more = {"action": "delete_selected", "_selected_action": rooms, "post": "yes"}
        self.post("chat/room", **more)

    def change_bob(self, *codenames: str, **more: Any) -> None:
        """bob has exactly these permissions from now on."""
        form = {
            "username": "bob",
            "is_active": "on",
            "date_joined_0": "2026-01-01",
            "date_joined_1": "12:00:00",
            "user_permissions": self.permissions(*codenames),
        }
        self.post(
            f"auth/user/{self.id_of('auth_user where username = ?', 'bob')}/change", **form, **more
        )

    def permissions(self, *codenames: str) -> list[int]:
        return [self.id_of("auth_permission where codename = ?", name) for name in codenames]

    def save_group(self, name: str, *codenames: str) -> int:
        """The group has exactly these permissions; it is made if need be."""
        with closing(sqlite3.connect(self.database)) as connection:
            query = "select id from auth_group where name = ?"
            found = connection.execute(query, [name]).fetchone()
        path = f"auth/group/{found[0]}/change" if found else "auth/group/add"
        self.post(path, name=name, permissions=self.permissions(*codenames))
        return self.id_of("auth_group where name = ?", name)


@pytest.fixture
def admin(site: str, database: str, cookies: Cookies) -> Admin:
    return Admin(site, database, cookies["alice"])


@pytest.fixture
def name() -> str:
    return f"<i>{uuid.uuid4()}</i>"


def open_front_end(page: Page, running: Running, name: str) -> Page:
    page.goto(running.front_end.url)
    expect_logged_in(page, name)
    return page


def expect_logged_in(page: Page, name: str) -> None:
    expect_state(page, "open")
    expect(page.locator("#you")).to_have_text(name)
    expect(page.locator("#panel")).not_to_have_class("panel stale")


def expect_entry(page: Page, text: str, count: int = 1) -> None:
    """The log of the page has an entry with this text, or so many, or none."""
    expect(page.get_by_role("log").get_by_role("listitem").filter(has_text=text)).to_have_count(
        count
    )


def expect_may_view(page: Page, names: str) -> None:
    expect(page.locator("#may-view")).to_have_text(names)


def token_of(site: str, cookie: str, **headers: str) -> tuple[str | None, Message]:
    request = Request(f"{site}/notifications/token/", headers={"Cookie": cookie, **headers})
    with urlopen(request, timeout=WAIT_SECONDS) as answer:
        return json.load(answer)["token"], answer.headers


@contextmanager
def connected(running: Running, cookie: str) -> Iterator[tuple[Wire, list[str]]]:
    """A bare connection to the second process; what may be viewed with it."""
    token, _ = token_of(address(running.one), cookie)
    with wire(address(running.two), "/ws/notifications/") as connection:
        connection.send(token=token)
        yield connection, connection.receive("may_view")["may_view"]


def test_what_is_done_in_the_admin_of_one_process_appears_on_a_page_of_the_other(
    new_visitor: NewVisitor, running: Running, site: str, admin: Admin, name: str
) -> None:
    admin.change_bob("view_room", "view_group")
    bob = open_front_end(new_visitor("bob"), running, "bob")
    alice = new_visitor("alice")
    alice.goto(f"{site}/admin/chat/room/add/")
    alice.get_by_label("Name").fill(name)
    alice.get_by_role("button", name="Save", exact=True).click()
    expect_entry(bob, f"aliceadded room “{name}”")
    admin.save_group(name)
    admin.save_group(name)
    expect_entry(bob, f"aliceadded group “{name}”")
    expect_entry(bob, f"alicechanged group “{name}”")
    room = admin.id_of("chat_room where name = ?", name)
    alice.goto(f"{site}/admin/chat/room/{room}/delete/")
    alice.get_by_role("button", name="Yes").click()
    expect_entry(bob, f"alicedeleted room “{name}”")


def test_several_deletions_at_once_appear_each(
    new_visitor: NewVisitor, running: Running, admin: Admin, name: str
) -> None:
    admin.change_bob("view_room")
    bob = open_front_end(new_visitor("bob"), running, "bob")
    names = [f"{name} {number}" for number in range(3)]
    for each in names:
        admin.add_room(each)
    admin.delete_rooms(*names)
    for each in names:
        expect_entry(bob, f"alicedeleted room “{each}”")


def test_page_is_not_sent_what_its_user_may_not_view(
    new_visitor: NewVisitor, running: Running, admin: Admin, name: str
) -> None:
    admin.change_bob("view_group")
    frames: list[str] = []

    def watch(connection: WebSocket) -> None:
        connection.on("framereceived", lambda frame: frames.append(str(frame)))

    page = new_visitor("bob")
    page.on("websocket", watch)
    open_front_end(page, running, "bob")
    expect_may_view(page, "groups")
    admin.add_room(f"room {name}")
    admin.save_group(f"group {name}")  # comes after it
    expect_entry(page, f"added group “group {name}”")
    assert any("group <i>" in frame for frame in frames)
    assert not any("room" in frame for frame in frames)


def test_permission_that_is_given_or_taken_takes_effect_on_an_open_page(
    new_visitor: NewVisitor, running: Running, admin: Admin, name: str
) -> None:
    admin.change_bob()
    sockets: list[str] = []
    page = new_visitor("bob")
    page.on("websocket", lambda connection: sockets.append(connection.url))
    open_front_end(page, running, "bob")
    expect_may_view(page, "nothing")
    admin.add_room(f"before {name}")
    admin.change_bob("view_room")
    expect_may_view(page, "rooms")
    expect_entry(page, f"before {name}")  # as one of the recent ones
    admin.add_room(f"meanwhile {name}")
    expect_entry(page, f"meanwhile {name}")
    admin.change_bob("view_group")
    admin.add_room(f"after {name}")
    admin.save_group(f"group {name}")
    expect_entry(page, f"group {name}")
    expect_may_view(page, "groups")
    expect_entry(page, "room", 0)
    assert len(sockets) == 1


def in_group(admin: Admin, group: int) -> None:
    admin.change_bob(groups=[group])


def as_superuser(admin: Admin, group: int) -> None:
    admin.change_bob(is_superuser="on")


def by_the_group(admin: Admin, group: int) -> None:
    admin.change_bob(groups=[group])
    admin.save_group("readers")
    admin.save_group("readers", "view_room")


def not_in_group(admin: Admin, group: int) -> None:
    admin.change_bob()


def group_has_less(admin: Admin, group: int) -> None:
    admin.save_group("readers")


def group_is_deleted(admin: Admin, group: int) -> None:
    admin.post(f"auth/group/{group}/delete", post="yes")


@pytest.mark.parametrize(
    ("give", "take"),
    [
        (in_group, not_in_group),
        (as_superuser, not_in_group),
        (by_the_group, group_has_less),
        (in_group, group_is_deleted),
    ],
)
def test_each_way_to_give_and_take_permissions_is_noticed(
    running: Running,
    admin: Admin,
    cookies: Cookies,
    give: Callable[[Admin, int], None],
    take: Callable[[Admin, int], None],
) -> None:
    admin.change_bob()
    group = admin.save_group("readers", "view_room")
    with connected(running, cookies["bob"]) as (connection, may_view):
        assert may_view == []
        give(admin, group)
        while "rooms" not in connection.receive("may_view")["may_view"]:
            pass
        take(admin, group)
        while "rooms" in connection.receive("may_view")["may_view"]:
            pass


def test_log_out_of_the_site_ends_the_page_until_the_next_log_in(
    page: Page, new_visitor: NewVisitor, running: Running, site: str, admin: Admin, name: str
) -> None:
    admin.change_bob("view_room")
    admin.add_room(name)
    log_in(page, site, "bob", then="/notifications/")
    with page.context.expect_page() as opened:
        page.get_by_role("link", name="Open the front end").click()
    front_end = opened.value
    expect(front_end).to_have_url(f"{running.front_end.url}/")
    expect_logged_in(front_end, "bob")
    expect_entry(front_end, name)
    other = open_front_end(new_visitor("alice"), running, "alice")
    page.get_by_role("button", name="Log out").click()
    expect_state(front_end, "closed")
    expect(front_end.get_by_role("alert")).to_contain_text("not logged in")
    expect_entry(front_end, name, 0)
    front_end.get_by_role("button", name="Connect again").click()
    expect_state(front_end, "closed")
    log_in(page, site, "bob", then="/notifications/")
    expect(page.locator("#who")).to_have_text("bob")
    front_end.get_by_role("button", name="Connect again").click()
    expect_logged_in(front_end, "bob")
    expect_state(other, "open")


def test_visitors_are_told_to_log_in(page: Page, running: Running, site: str) -> None:
    page.goto(running.front_end.url)
    expect_state(page, "closed")
    expect(page.get_by_role("alert")).to_contain_text("not logged in")
    link = page.get_by_role("link", name="Log in there")
    expect(link).to_have_attribute("href", f"{address(running.two)}/login/?next=/notifications/")
    page.goto(site)
    page.get_by_role("main").get_by_role("link", name="Notifications").click()
    page.get_by_role("main").get_by_role("link", name="Log in").click()
    expect(page).to_have_url(f"{site}/login/?next=/notifications/")


def test_page_reconnects_by_itself_with_a_new_token(
    new_visitor: NewVisitor, running: Running, database: str
) -> None:
    with ExitStack() as stack:
        port = free_port()
        more = {"DEMO_FRONT_END": f"http://{HOST}:{port}"}
        with serve(database, 0, **more) as server:
            front_end = stack.enter_context(front_end_at(port, address(server)))
            page = new_visitor("alice")
            sent: list[str] = []

            def watch(connection: WebSocket) -> None:
                connection.on("framesent", lambda frame: sent.append(str(frame)))

            page.on("websocket", watch)
            page.goto(front_end.url)
            expect_logged_in(page, "alice")
        expect_state(page, "waiting")
        with serve(database, server.port, **more):
            expect_logged_in(page, "alice")
    tokens = {json.loads(frame)["token"] for frame in sent}
    assert len(sent) >= 2
    assert None not in tokens


def test_token_is_in_the_first_message_and_nowhere_else(
    new_visitor: NewVisitor, running: Running
) -> None:
    page = new_visitor("alice")
    sent: list[str] = []
    urls: list[str] = []

    def watch(connection: WebSocket) -> None:
        urls.append(connection.url)
        connection.on("framesent", lambda frame: sent.append(str(frame)))

    page.on("websocket", watch)
    page.on("request", lambda request: urls.append(request.url))
    open_front_end(page, running, "alice")
    [frame] = sent
    token = json.loads(frame)["token"]
    assert not any(token in url for url in urls)
    assert token not in running.printed
    assert "/ws/notifications/" in running.two.printed
    assert "GET /front_end.js" in running.printed


def test_token_can_be_read_by_the_front_end_alone(
    running: Running, site: str, cookies: Cookies
) -> None:
    def allowed(origin: str) -> str | None:
        token, headers = token_of(site, cookies["bob"], Origin=origin)
        assert token
        assert headers["Cache-Control"] == "no-store"
        assert "Origin" in headers["Vary"]
        return headers.get("Access-Control-Allow-Origin")

    assert allowed(running.front_end.url) == running.front_end.url
    assert allowed("http://127.0.0.1:1") is None
    assert token_of(site, "", Origin=running.front_end.url)[0] is None


def test_a_name_that_is_a_secret_is_not_told(
    new_visitor: NewVisitor, running: Running, admin: Admin
) -> None:
    page = open_front_end(new_visitor("alice"), running, "alice")
    bob = admin.id_of("auth_user where username = ?", "bob")
    admin.post("authtoken/tokenproxy/add", user=bob)
    with closing(sqlite3.connect(admin.database)) as connection:
        query = "select key from authtoken_token where user_id = ?"
        [(key,)] = connection.execute(query, [bob]).fetchall()
    expect_entry(page, "added Token")
    assert key not in page.content()
    admin.post(f"authtoken/tokenproxy/{bob}/delete", post="yes")
    expect_entry(page, "deleted Token")
    page.reload()
    expect_entry(page, "deleted Token")
    assert key not in page.content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_a_narrow_screen(
    new_visitor: NewVisitor, running: Running, site: str, scheme: str
) -> None:
    page = new_visitor("bob")
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": 320, "height": 640})
    for url in (running.front_end.url, f"{site}/notifications/"):
        page.goto(url)
        assert page.evaluate("document.documentElement.scrollWidth") == 320
