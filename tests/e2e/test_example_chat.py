"""The chat of the example project, in real browsers and on bare connections."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from playwright.sync_api import Locator, Page, WebSocket, expect

from tests.e2e.browsing import (
    EXAMPLE,
    Cookies,
    NewVisitor,
    Wire,
    address,
    expect_state,
    serve,
    wire,
)
from tests.support.project import manage
from tests.support.redis_server import RedisServer

HISTORY = 50
MARKUP = "<img src=x onerror=alert(1)><script>alert(2)</script>"


@pytest.fixture
def room() -> str:
    """A room of this test alone, with a name that no URL and no HTML takes as it is."""
    return f"Tee & <b>Kuchen</b> /../?#% ☂ 𝄞 شاي {uuid.uuid4()}"


@pytest.fixture(scope="module")
def carol(database: str) -> str:
    """A third user beside alice and bob."""
    options = ["--noinput", "--username", "carol", "--email", "carol@example.com"]
    done = manage(
        EXAMPLE,
        *("createsuperuser", *options),
        DEMO_DATABASE=database,
        DJANGO_SUPERUSER_PASSWORD="demo",
    )
    assert done.returncode == 0, done.stderr
    return "carol"


def open_chat(page: Page, site: str, room: str) -> Page:
    page.goto(f"{site}/chat/?room={quote(room, safe='')}")
    expect_room(page, room)
    return page


def expect_room(page: Page, room: str) -> None:
    expect(page.get_by_label("Room", exact=True)).to_have_value(room)
    expect_state(page, "open")


def say(page: Page, text: str) -> None:
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_role("button", name="Send").click()


def items(page: Page) -> Locator:
    return page.get_by_role("log").get_by_role("listitem")


def expect_texts(page: Page, *texts: str) -> None:
    """The log shows exactly these."""
    expect(items(page).locator("span")).to_have_text(list(texts))


def stays_the_field(page: Page, text: str) -> None:
    expect(page.get_by_label("Message", exact=True)).to_have_value(text)


def frames_of(page: Page) -> list[str]:
    """What any connection of the page will receive, as it fills."""
    frames: list[str] = []

    def watch(connection: WebSocket) -> None:
        connection.on("framereceived", lambda frame: frames.append(str(frame)))

    page.on("websocket", watch)
    return frames


def delete_in_admin(page: Page, url: str) -> None:
    """Delete the first object of a list."""
    page.goto(url)
    page.get_by_role("checkbox", name="Select this object").first.check()
    page.get_by_role("combobox").select_option("delete_selected")
    # Django 6.1 calls it otherwise.
    page.get_by_role("button", name="Run").or_(page.get_by_role("button", name="Go")).click()
    page.get_by_role("button", name="Yes").click()
    expect(page.get_by_text("Successfully deleted")).to_be_visible()


@contextmanager
def entered(site: str, room: str, cookie: str = "") -> Iterator[tuple[Wire, list[dict[str, Any]]]]:
    """A bare connection that has entered a room, and the history it got."""
    with wire(site, "/ws/chat/", cookie) as connection:
        connection.send(enter=room)
        yield connection, connection.receive("history")["history"]


def refusal(connection: Wire, text: str) -> str:
    connection.send(say=text)
    reason: str = connection.receive("refused")["refused"]
    return reason


@pytest.mark.heavy
def test_messages_reach_all_in_the_room(new_visitor: NewVisitor, site: str, room: str) -> None:
    alice = open_chat(new_visitor("alice"), site, room)
    bob = open_chat(new_visitor("bob"), site, room)
    reader = open_chat(new_visitor(), site, room)
    say(alice, "hello")
    expect_texts(bob, "hello")
    say(bob, "hi")
    for page in (alice, bob, reader):
        expect_texts(page, "hello", "hi")
        expect(items(page).locator("strong")).to_have_text(["alice", "bob"])


@pytest.mark.heavy
def test_private_messages_reach_all_tabs_of_both_and_nobody_else(
    new_visitor: NewVisitor, site: str, room: str, carol: str
) -> None:
    others = [new_visitor(carol), new_visitor()]
    frames = [frames_of(page) for page in others]
    open_chat(others[0], site, room)
    open_chat(others[1], site, room)
    alice = open_chat(new_visitor("alice"), site, room)
    bob = open_chat(new_visitor("bob"), site, room)
    elsewhere = open_chat(bob.context.new_page(), site, f"not {room}")
    tab = open_chat(alice.context.new_page(), site, room)
    say(alice, "/pm bob the password is 1234")
    for page in (alice, tab, bob, elsewhere):
        expect_texts(page, "the password is 1234")
    expect(items(tab).locator("strong")).to_have_text("you → bob")
    expect(items(elsewhere).locator("strong")).to_have_text("alice → you")
    # What alice says next comes after it, and so would the private message have come before.
    say(alice, "hello everybody")
    for page in others:
        expect_texts(page, "hello everybody")
    for received in frames:
        assert any("hello everybody" in frame for frame in received)
        assert not any("1234" in frame for frame in received)
    bob.reload()
    expect_texts(bob, "hello everybody")  # the private message is not kept


@pytest.mark.heavy
def test_private_message_to_nobody_is_answered_and_given_back(
    new_visitor: NewVisitor, site: str, room: str
) -> None:
    page = open_chat(new_visitor("alice"), site, room)
    say(page, "/pm nobody hello")
    expect(page.get_by_role("alert")).to_contain_text("no user “nobody”")
    stays_the_field(page, "/pm nobody hello")
    expect(items(page)).to_have_count(0)


@pytest.mark.heavy
def test_private_message_to_oneself_comes_once(site: str, cookies: Cookies) -> None:
    with entered(site, "", cookies["alice"]) as (alice, _):
        alice.send(say="/pm alice 1")
        alice.send(say="/pm alice 2")
        assert [alice.receive("private")["private"]["text"] for _ in range(2)] == ["1", "2"]


@pytest.mark.heavy
def test_markup_in_names_and_messages_is_text(new_visitor: NewVisitor, site: str) -> None:
    room = f"{MARKUP} {uuid.uuid4().hex[:8]}"
    alice = open_chat(new_visitor("alice"), site, room)
    bob = open_chat(new_visitor("bob"), site, room)
    say(alice, MARKUP)
    say(alice, f"/pm bob {MARKUP}")
    say(alice, f"/pm {MARKUP.replace(' ', '')} hello")
    expect(alice.get_by_role("alert")).to_contain_text("<img")
    for page in (alice, bob):
        expect_texts(page, MARKUP, MARKUP)
        assert page.locator("#chat img, #chat script").count() == 0
        expect(page.locator("#rooms option:checked")).to_have_text(room)


@pytest.mark.heavy
def test_opening_shows_the_last_messages_then_live_ones(
    page: Page, site: str, room: str, cookies: Cookies
) -> None:
    with entered(site, room, cookies["bob"]) as (bob, _):
        for number in range(HISTORY + 10):
            bob.send(say=f"message {number}")
            bob.receive("said")
        open_chat(page, site, room)
        last = [f"message {number}" for number in range(10, HISTORY + 10)]
        expect_texts(page, *last)
        bob.send(say="live")
        expect_texts(page, *last, "live")


@pytest.mark.heavy
def test_nothing_falls_between_history_and_live_messages(
    site: str, room: str, cookies: Cookies
) -> None:
    count = 60

    def write() -> None:
        with entered(site, room, cookies["alice"]) as (alice, _):
            for number in range(count):
                alice.send(say=str(number))
            for _ in range(count):
                alice.receive("said")

    def read() -> list[int]:
        """Enter while alice writes; the numbers that came, as the page would show them."""
        with wire(site, "/ws/chat/", cookies["bob"]) as bob:
            bob.send(enter=room)
            texts: dict[int, str] = {}
            while str(count - 1) not in texts.values():
                message = bob.receive("message", "history")
                for one in message.get("history", [message.get("message")]):
                    texts[one["id"]] = one["text"]
        return [int(texts[key]) for key in sorted(texts)]

    with ThreadPoolExecutor(4) as threads:
        writing = threads.submit(write)
        readings = [threads.submit(read) for _ in range(12)]
        writing.result()
    for reading in readings:
        numbers = reading.result()
        assert numbers == list(range(numbers[0], count))


@pytest.mark.heavy
def test_rooms_are_made_on_the_first_visit_and_offered_to_all(
    new_visitor: NewVisitor, site: str, room: str
) -> None:
    bob = open_chat(new_visitor("bob"), site, "Lobby")
    alice = open_chat(new_visitor("alice"), site, "Lobby")
    alice.get_by_label("New room").fill(room)
    alice.get_by_role("button", name="Open").click()
    expect_room(alice, room)
    say(alice, "the first one here")
    expect_texts(alice, "the first one here")
    bob.get_by_label("Room", exact=True).select_option(room)
    expect_texts(bob, "the first one here")


@pytest.mark.heavy
def test_a_room_that_was_left_is_not_heard_any_more(
    new_visitor: NewVisitor, site: str, room: str, cookies: Cookies
) -> None:
    other = f"other {room}"
    with entered(site, other, cookies["bob"]) as (bob, _):
        page = open_chat(new_visitor("alice"), site, room)
        say(page, "here")
        expect_texts(page, "here")
        page.get_by_label("Room", exact=True).select_option(other)
        expect_room(page, other)
        expect_texts(page)
        bob.send(enter=room)
        bob.receive("history")
        bob.send(say="not to be heard there")
        bob.receive("said")
        bob.send(enter=other)
        bob.receive("history")
        bob.send(say="to be heard")
        expect_texts(page, "to be heard")
        page.go_back()
        expect_room(page, room)
        expect_texts(page, "here", "not to be heard there")


@pytest.mark.heavy
def test_connection_leaves_the_topic_of_a_room_with_the_room(
    site: str, room: str, cookies: Cookies
) -> None:
    with entered(site, room, cookies["bob"]) as (bob, _), entered(site, room) as (visitor, _):
        bob.send(say="to all in the room")
        assert visitor.receive("message")["message"]["text"] == "to all in the room"
        visitor.send(enter="")
        visitor.receive("history")
        bob.send(say="in the room")
        bob.send(enter="")
        bob.send(say=f"in the lobby of {room}")
        assert visitor.receive("message")["message"]["text"] == f"in the lobby of {room}"


@pytest.mark.heavy
def test_page_comes_back_after_a_restart_without_doubles(
    new_visitor: NewVisitor, database: str, room: str, cookies: Cookies
) -> None:
    with serve(database) as server:
        site = address(server)
        alice = open_chat(new_visitor("alice"), site, room)
        bob = open_chat(new_visitor("bob"), site, room)
        say(alice, "before")
        say(alice, "/pm bob psst")
        expect_texts(bob, "before", "psst")
    for page in (alice, bob):
        expect(page.get_by_role("button", name="Send")).to_be_disabled()
    with serve(database, server.port):
        with entered(site, room, cookies["bob"]) as (other, _):
            other.send(say="maybe while alice was away")
            other.receive("said")
        for page in (alice, bob):
            expect_state(page, "open")
            expect_texts(page, "before", "psst", "maybe while alice was away")
        say(alice, "after")
        expect_texts(bob, "before", "psst", "maybe while alice was away", "after")


@pytest.mark.heavy
def test_page_tells_what_it_could_not_catch_up_with(
    new_visitor: NewVisitor, database: str, room: str, cookies: Cookies
) -> None:
    with serve(database) as server:
        site = address(server)
        page = open_chat(new_visitor("alice"), site, room)
        say(page, "before")
        expect_texts(page, "before")
    page.context.set_offline(True)
    with serve(database, server.port):
        with entered(site, room, cookies["bob"]) as (bob, _):
            for number in range(HISTORY + 1):
                bob.send(say=str(number))
                bob.receive("said")
        page.context.set_offline(False)
        missed = [str(number) for number in range(1, HISTORY + 1)]
        expect_texts(page, "before", "Earlier messages are not shown.", *missed)


@pytest.mark.heavy
def test_visitors_who_are_not_logged_in_read_only(
    new_visitor: NewVisitor, site: str, room: str
) -> None:
    alice = open_chat(new_visitor("alice"), site, room)
    reader = open_chat(new_visitor(), site, room)
    say(alice, "hello")
    expect_texts(reader, "hello")
    expect(reader.get_by_role("button", name="Send")).to_have_count(0)
    main = reader.get_by_role("main")
    expect(main).to_contain_text("You may read.")
    main.get_by_role("link", name="Log in").click()
    reader.get_by_label("Name").fill("bob")
    reader.get_by_label("Password").fill("demo")
    main.get_by_role("button", name="Log in").click()
    expect_room(reader, room)
    say(reader, "hi")
    expect_texts(alice, "hello", "hi")


@pytest.mark.heavy
def test_what_visitors_send_all_the_same_is_refused(site: str, room: str) -> None:
    with entered(site, "") as (visitor, history):
        assert "Log in" in refusal(visitor, "hello")
        assert "Log in" in refusal(visitor, "/pm bob hello")
        visitor.send(enter=room)
        assert "no room" in visitor.receive("error")["error"]
    with entered(site, "") as (visitor, later):
        assert [message["id"] for message in later] == [message["id"] for message in history]


@pytest.mark.heavy
def test_unknown_room_leads_visitors_to_the_lobby(page: Page, site: str, room: str) -> None:
    page.goto(f"{site}/chat/?{urlencode({'room': room})}")
    expect(page.get_by_role("alert")).to_contain_text(f"no room “{room}”")
    expect_room(page, "Lobby")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x" * 1001, "at most 1000"),
        ("  ", "nothing"),
        ("a\0b", "NUL"),
        ("/pm", "needs a name"),
        ("/pm bob", "needs a name"),
        ("/pm bobby hello", "no user “bobby”"),
        ("/pn bob secret", "no command /pn"),
    ],
)
def test_what_cannot_be_said_is_refused_and_not_stored(
    site: str, room: str, cookies: Cookies, text: str, reason: str
) -> None:
    with entered(site, room, cookies["alice"]) as (alice, _):
        assert reason in refusal(alice, text)
    with entered(site, room) as (_, history):
        assert history == []


@pytest.mark.heavy
def test_longest_message_passes_in_any_script(site: str, room: str, cookies: Cookies) -> None:
    with entered(site, room, cookies["alice"]) as (alice, _):
        alice.send(say="𝄞" * 1000)
        assert alice.receive("message")["message"]["text"] == "𝄞" * 1000


@pytest.mark.heavy
@pytest.mark.parametrize(("name", "reason"), [("x" * 101, "at most 100"), ("a\0b", "NUL")])
def test_what_cannot_be_a_room_is_told(site: str, cookies: Cookies, name: str, reason: str) -> None:
    with entered(site, "", cookies["alice"]) as (alice, _):
        alice.send(enter=name)
        assert reason in alice.receive("error")["error"]


@pytest.mark.heavy
def test_chat_across_processes_catches_up_after_a_fault_of_redis(
    database: str, room: str, cookies: Cookies
) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(RedisServer())
        one = stack.enter_context(serve(database, DEMO_BROADCAST=redis.url))
        two = serve(database, DEMO_BROADCAST=redis.url)
        stack.callback(two.stop)  # it may log the failure, with a traceback
        alice, _ = stack.enter_context(entered(address(one), room, cookies["alice"]))
        bob, _ = stack.enter_context(entered(address(two), room, cookies["bob"]))
        alice.send(say="hello")
        assert bob.receive("message")["message"]["text"] == "hello"
        bob.send(say="/pm alice psst")
        assert alice.receive("private")["private"]["text"] == "psst"
        bob.receive("said")
        redis.kill()
        bob.send(say="/pm alice lost")
        assert "could not be sent" in bob.receive("refused")["refused"]
        bob.send(say="stored, but not broadcast")
        bob.receive("said")
        redis.start()
        told = [alice.receive("history", "error"), alice.receive("history", "error")]
        history, error = sorted(told, key=lambda message: "error" in message)
        assert [message["text"] for message in history["history"]] == [
            "hello",
            "stored, but not broadcast",
        ]
        assert "Private messages" in error["error"]
        bob.receive("history")
        alice.send(say="again")
        assert bob.receive("message")["message"]["text"] == "again"


def test_what_the_admin_deletes_goes_from_the_pages(
    new_visitor: NewVisitor, site: str, room: str
) -> None:
    bob = open_chat(new_visitor("bob"), site, room)
    say(bob, "keep me")
    say(bob, "delete me")
    expect_texts(bob, "keep me", "delete me")
    delete_in_admin(new_visitor("alice"), f"{site}/admin/chat/message/?q=delete+me")
    expect_texts(bob, "keep me")


@pytest.mark.heavy
def test_room_that_is_deleted_is_told(new_visitor: NewVisitor, site: str, room: str) -> None:
    bob = open_chat(new_visitor("bob"), site, room)
    query = urlencode({"q": room[-36:]})
    delete_in_admin(new_visitor("alice"), f"{site}/admin/chat/room/?{query}")
    say(bob, "anybody here?")
    expect(bob.get_by_role("alert")).to_contain_text("is no more")
    stays_the_field(bob, "anybody here?")


@pytest.mark.heavy
def test_chat_fits_a_narrow_screen(new_visitor: NewVisitor, site: str, room: str) -> None:
    page = new_visitor("alice")
    page.set_viewport_size({"width": 320, "height": 640})
    open_chat(page, site, room)
    say(page, "a long word: " + "x" * 200)
    expect(items(page)).to_have_count(1)
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    assert page.evaluate(
        "[...document.querySelectorAll('#chat button, #chat select')].every("
        "e => e.getBoundingClientRect().right <= e.closest('#chat').getBoundingClientRect().right)"
    )
