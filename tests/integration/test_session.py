"""What a connection saves in its session undoes nothing that pages have saved meanwhile."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as django_settings
from django.contrib.auth import SESSION_KEY, alogin, alogout, get_user_model, login
from django.contrib.auth.models import User
from django.contrib.sessions.backends import cached_db, file
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.contrib.sessions.models import Session
from django.core.cache import caches
from django.db import connection, connections
from django.test import Client
from django.test.utils import CaptureQueriesContext
from pytest_django import Settings

from django_ws.exceptions import SessionError
from django_ws.session import connection_session
from django_ws.testing import WebSocketClient
from tests.session_engines import own, own_database
from tests.support.asgi_peer import PATH, client, route, the_handler, until
from tests.support.handlers import Quiet

pytestmark = pytest.mark.django_db(transaction=True)

DJANGOS = ["db", "cached_db", "cache", "file"]
SIGNED = "django.contrib.sessions.backends.signed_cookies"


ENGINES = {
    **{name: f"django.contrib.sessions.backends.{name}" for name in DJANGOS},
    "own": own.__name__,
    "own database": own_database.__name__,
}


def use(engine: str, settings: Any, tmp_path: Path) -> None:
    settings.SESSION_FILE_PATH = str(tmp_path)
    if "_storage_path" in vars(file.SessionStore):  # Django asks for the setting once
        delattr(file.SessionStore, "_storage_path")
    settings.SESSION_ENGINE = ENGINES[engine]


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, settings: Settings, tmp_path: Path) -> Any:
    """Each engine that keeps sessions on the server, with none yet."""
    use(request.param, settings, tmp_path)
    own.rows.clear()
    caches["default"].clear()
    return request.param


def page(key: str) -> SessionBase:
    """The session as a page finds it."""
    store: SessionBase = import_module(django_settings.SESSION_ENGINE).SessionStore(key)
    return store


def changed_by_page(key: str, **data: Any) -> None:
    """None stands for removing."""
    session = page(key)
    for name, value in data.items():
        if value is None:
            del session[name]
        else:
            session[name] = value
    session.save()


def new_session(**data: Any) -> dict[str, str]:
    """A visitor's, with a cookie for it."""
    session = import_module(django_settings.SESSION_ENGINE).SessionStore()
    session.update(data)
    session.save()
    return {"sessionid": str(session.session_key)}


def data_of(key: str) -> dict[str, Any]:
    return dict(page(key).items())


class Api:
    """The session of a socket through its sync methods, in a thread, or its async ones."""

    def __init__(self, name: str) -> None:
        self.is_async = name == "async"

    async def __call__(self, name: str, *args: Any) -> Any:
        session = the_handler().request.session
        if self.is_async:
            return await getattr(session, f"a{name}")(*args)
        sync_name = "__setitem__" if name == "set" else name
        return await sync_to_async(getattr(session, sync_name))(*args)


@pytest.fixture(params=["async", "sync"])
def api(request: pytest.FixtureRequest) -> Api:
    return Api(request.param)


change_on_page = sync_to_async(changed_by_page)
stored = sync_to_async(data_of)


async def test_a_page_keeps_what_it_has_changed_meanwhile(engine: str, api: Api) -> None:
    cookies = await sync_to_async(new_session)(cart=1, colour="red")
    key = cookies["sessionid"]
    async with client(Quiet, cookies=cookies):
        await change_on_page(key, cart=2, new=True)
        await api("set", "seen", 7)
        await api("save")
        assert await stored(key) == {"cart": 2, "colour": "red", "new": True, "seen": 7}
        await change_on_page(key, cart=3)
        await api("update", {"seen": 8})
        await api("save")
        assert await stored(key) == {"cart": 3, "colour": "red", "new": True, "seen": 8}


async def test_what_is_removed_is_removed_and_nothing_else(engine: str, api: Api) -> None:
    cookies = await sync_to_async(new_session)(cart=1, colour="red", size=4)
    key = cookies["sessionid"]
    async with client(Quiet, cookies=cookies):
        await change_on_page(key, size=None)
        assert await api("pop", "colour") == "red"
        await api("save")
        assert await stored(key) == {"cart": 1}


async def test_what_is_changed_inside_is_saved_and_nothing_else(engine: str, api: Api) -> None:
    cookies = await sync_to_async(new_session)(cart={"items": [1]}, seen={"pages": [1]})
    key = cookies["sessionid"]
    async with client(Quiet, cookies=cookies):
        cart = await api("get", "cart")
        seen = await api("get", "seen")
        await change_on_page(key, seen={"pages": [1, 2]})
        cart["items"].append(2)
        the_handler().request.session.modified = True
        await api("save")
        assert await stored(key) == {"cart": {"items": [1, 2]}, "seen": {"pages": [1, 2]}}
        cart["items"].append(3)  # the same object, once more
        seen["pages"].append("of no session any more")
        await api("save")
        assert await stored(key) == {"cart": {"items": [1, 2, 3]}, "seen": {"pages": [1, 2]}}


async def test_what_is_set_counts_though_it_was_so_before(engine: str, api: Api) -> None:
    cookies = await sync_to_async(new_session)(colour="red", size=4)
    key = cookies["sessionid"]
    async with client(Quiet, cookies=cookies):
        await change_on_page(key, colour="blue", size=5)
        await api("set", "colour", "red")
        await api("save")
        assert await stored(key) == {"colour": "red", "size": 5}
        await change_on_page(key, colour="green")
        await api("update", {"size": 5})
        await api("save")  # of the size alone
        assert await stored(key) == {"colour": "green", "size": 5}


async def test_clear_empties_it_of_what_pages_have_added_too(engine: str, api: Api) -> None:
    cookies = await sync_to_async(new_session)(colour="red")
    key = cookies["sessionid"]
    async with client(Quiet, cookies=cookies):
        await change_on_page(key, size=4)
        the_handler().request.session.clear()
        await api("set", "fresh", True)
        await api("save")
        assert await stored(key) == {"fresh": True}
        await change_on_page(key, size=4)
        await api("save")
        assert await stored(key) == {"fresh": True, "size": 4}


async def test_reading_is_as_of_the_handshake_until_save_or_refresh(engine: str, api: Api) -> None:
    cookies = await sync_to_async(new_session)(cart=1)
    key = cookies["sessionid"]
    async with client(Quiet, cookies=cookies):
        session = the_handler().request.session
        assert session["cart"] == 1  # in the event loop: nothing is asked of the database
        await change_on_page(key, cart=2)
        assert await api("get", "cart") == session["cart"] == 1
        await api("set", "dropped", True)
        await api("refresh")
        assert (dict(session.items()), session.modified) == ({"cart": 2}, False)
        await change_on_page(key, cart=3)
        await api("set", "kept", True)
        assert session.modified
        await api("save")
        assert (dict(session.items()), session.modified) == ({"cart": 3, "kept": True}, False)


async def test_a_session_that_no_middleware_has_read_is_merged_too(engine: str) -> None:
    key = (await sync_to_async(new_session)(cart=1))["sessionid"]
    session = connection_session(page(key))
    assert await session.aget("cart") == 1
    await change_on_page(key, cart=2)
    await session.aset("seen", 7)
    await session.asave()
    assert await stored(key) == {"cart": 2, "seen": 7}


async def test_saving_without_a_change_prolongs_the_session_alone(api: Api) -> None:
    cookies = await sync_to_async(new_session)(cart=1)
    async with client(Quiet, cookies=cookies):
        before = (await Session.objects.aget()).expire_date
        await api("save")
        assert (await Session.objects.aget()).expire_date > before
        assert await stored(cookies["sessionid"]) == {"cart": 1}


async def test_its_expiry_can_be_set(api: Api) -> None:
    cookies = await sync_to_async(new_session)(cart=1)
    async with client(Quiet, cookies=cookies):
        before = (await Session.objects.aget()).expire_date
        await api("set_expiry", 60)
        await api("save")
        assert (await Session.objects.aget()).expire_date < before


async def test_a_session_that_is_gone_stays_so(engine: str, api: Api) -> None:
    cookies = await sync_to_async(new_session)(cart=1)
    key = cookies["sessionid"]
    async with client(Quiet, cookies=cookies):
        await sync_to_async(page(key).delete)()
        await api("set", "seen", 7)
        with pytest.raises(UpdateError):
            await api("save")
        assert await stored(key) == {}
        assert the_handler().request.session["seen"] == 7
        await api("refresh")
        assert dict(the_handler().request.session.items()) == {}


async def test_what_could_not_be_saved_is_saved_the_next_time(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    cookies = await sync_to_async(new_session)(cart=1, old=True)
    key = cookies["sessionid"]
    async with client(Quiet, cookies=cookies):
        the_handler().request.session.clear()
        await api("set", "cart", 1)
        with monkeypatch.context() as patched:

            def fail(*args: Any, **kwargs: Any) -> None:
                raise OSError("the database is away")

            patched.setattr(DatabaseStore, "save", fail)
            with pytest.raises(OSError, match="away"):
                await api("save")
        await change_on_page(key, cart=2, new=True)
        await api("save")
        assert await stored(key) == {"cart": 1}


async def test_what_a_task_changes_while_it_is_saved_stays_for_the_next_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cookies = await sync_to_async(new_session)(first=[0], second=[0], third=[0])
    key = cookies["sessionid"]
    async with client(Quiet, cookies=cookies):
        session = the_handler().request.session
        saving, go_on, real = threading.Event(), threading.Event(), DatabaseStore.save

        def slow(self: Any, must_create: bool = False) -> None:
            saving.set()
            assert go_on.wait(30)
            real(self, must_create)

        first = await session.aget("first")
        first.append(1)
        with monkeypatch.context() as patched:
            patched.setattr(DatabaseStore, "save", slow)
            task = asyncio.create_task(session.asave())
            await until(saving.is_set)
            first.append(2)
            await session.aset("new", True)
            await session.apop("third")
            go_on.set()
            await task
        assert await stored(key) == {"first": [0, 1], "second": [0], "third": [0]}
        assert session.modified
        await session.asave()
        assert await stored(key) == {"first": [0, 1, 2], "second": [0], "new": True}


def test_many_sockets_of_one_session_save_at_once(engine: str) -> None:
    key = new_session(count=0)["sessionid"]

    def save(number: int) -> None:
        try:
            session = connection_session(page(key))
            assert session["count"] == 0
            all_have_read.wait(30)
            session[f"socket {number}"] = number
            session.save()
        finally:
            connections.close_all()

    all_have_read = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, range(8)))
    assert data_of(key) == {"count": 0, **{f"socket {n}": n for n in range(8)}}


async def test_what_an_engine_knows_beside_the_data_is_kept(
    settings: Settings, tmp_path: Path, api: Api
) -> None:
    use("own database", settings, tmp_path)
    cookies = await sync_to_async(new_session)(cart=1)
    async with client(Quiet, cookies=cookies):
        own_database.saved_by.clear()
        await api("set", "seen", 7)
        await api("save")
        assert own_database.saved_by == ["a browser"]


class Same:
    """Compared by identity, as objects are that some engines keep."""


async def test_objects_without_a_comparison_are_not_taken_for_changed(
    settings: Settings, tmp_path: Path, api: Api
) -> None:
    use("cache", settings, tmp_path)
    cookies = await sync_to_async(new_session)(thing=Same(), when=float("nan"))
    key = cookies["sessionid"]
    async with client(Quiet, cookies=cookies):
        assert isinstance(await api("get", "thing"), Same)
        await change_on_page(key, thing=1, when=2)
        await api("set", "seen", 7)
        await api("save")
        assert await stored(key) == {"thing": 1, "when": 2, "seen": 7}


class Replica:
    """A copy of the database, which is always behind, is what pages read."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        raise AssertionError("the copy was asked, which may not have what was just saved")

    def db_for_write(self, model: Any, **hints: Any) -> str | None:
        return "default"


@pytest.mark.parametrize("engine", ["db", "cached_db"])
async def test_neither_a_copy_of_the_database_nor_the_cache_is_asked(
    engine: str, api: Api, settings: Settings, tmp_path: Path
) -> None:
    use(engine, settings, tmp_path)
    cookies = await sync_to_async(new_session)(cart=1)
    key = cookies["sessionid"]
    async with client(Quiet, cookies=cookies):
        await change_on_page(key, cart=2)
        if engine == "cached_db":
            behind = {"cart": "an old one"}
            caches["default"].set(f"{cached_db.KEY_PREFIX}{key}", behind)
        settings.DATABASE_ROUTERS = [f"{__name__}.Replica"]
        await api("refresh")
        assert await api("get", "cart") == 2
        await api("set", "seen", 7)
        await api("save")
        settings.DATABASE_ROUTERS = []
        assert await stored(key) == {"cart": 2, "seen": 7}
        assert (await Session.objects.aget()).get_decoded() == {"cart": 2, "seen": 7}


def test_it_is_read_and_written_in_one_transaction_with_a_lock() -> None:
    session = connection_session(page(new_session(cart=1)["sessionid"]))
    session["seen"] = 7
    with CaptureQueriesContext(connection) as queries:
        session.save()
    statements = [query["sql"].split()[0] for query in queries]
    # SQLite has no lock of a row: whoever writes first has it.
    assert statements == ["BEGIN", "UPDATE", "SELECT", "SAVEPOINT", "UPDATE", "RELEASE", "COMMIT"]


# What it costs


async def test_an_idle_connection_keeps_its_session_as_bytes(engine: str) -> None:
    user = await get_user_model().objects.acreate(username="alice")
    async with client(Quiet, user=user, session={"cart": list(range(100))}):
        kept = vars(the_handler().request.session)
        assert "_session_cache" not in kept
        assert the_handler().request.session["cart"][-1] == 99


async def test_a_handshake_with_an_expired_session_makes_no_new_one(
    settings: Settings, tmp_path: Path, api: Api
) -> None:
    use("file", settings, tmp_path)
    session = page("")
    session.set_expiry(-1)
    session.save()
    assert len(os.listdir(tmp_path)) == 1
    async with client(Quiet, cookies={"sessionid": str(session.session_key)}):
        assert os.listdir(tmp_path) == []
        with pytest.raises(UpdateError):
            await api("save")
    assert os.listdir(tmp_path) == []


# What reaches nobody

COOKIES = {"none": {}, "of no session": {"sessionid": "a" * 32}, "of none": {"sessionid": "a\0b"}}


@pytest.mark.parametrize("cookies", COOKIES.values(), ids=COOKIES)
async def test_an_anonymous_visitors_session_cannot_be_saved(
    cookies: dict[str, str], engine: str, api: Api
) -> None:
    async with client(Quiet, cookies=cookies):
        await api("set", "note", "of this connection alone")
        for name in ("save", "create", "cycle_key"):
            with pytest.raises(SessionError, match="WebSocket cannot send"):
                await api(name)
        assert await api("get", "note") == "of this connection alone"
        await api("refresh")
        await api("flush")
    assert (await Session.objects.acount(), own.rows) == (0, {})


async def test_a_session_in_the_cookie_can_be_neither_saved_nor_ended(
    api: Api, settings: Settings
) -> None:
    settings.SESSION_ENGINE = SIGNED
    cookies = await sync_to_async(new_session)(cart=1)
    async with client(Quiet, cookies=cookies):
        assert await api("get", "cart") == 1
        with pytest.raises(SessionError, match=r"save\(\): with the session engine signed_cookies"):
            await api("save")
        for name in ("flush", "delete"):
            with pytest.raises(SessionError, match="would stay logged in"):
                await api(name)
        with pytest.raises(SessionError, match=r"cycle_key\(\): the session would need a new key"):
            await api("cycle_key")


async def test_a_forged_session_in_the_cookie_is_empty(api: Api, settings: Settings) -> None:
    settings.SESSION_ENGINE = SIGNED
    async with client(Quiet, cookies={"sessionid": "forged:1:x"}):
        assert await api("get", "cart") is None


class Browser:
    def __init__(self, user: User) -> None:
        self.client = Client()
        self.client.force_login(user)
        self.cookies = {"sessionid": self.client.cookies["sessionid"].value}


def log_in(request: Any, user: Any) -> None:
    login(request, user, "django.contrib.auth.backends.ModelBackend")


async def test_nobody_can_log_in_on_a_socket(engine: str, api: Api) -> None:
    """The browser would not get the cookie."""
    user_model = get_user_model()
    alice = await user_model.objects.acreate(username="alice")
    bob = await user_model.objects.acreate(username="bob")
    browser = await sync_to_async(Browser)(alice)
    enter = alogin if api.is_async else sync_to_async(log_in)
    async with client(Quiet):
        with pytest.raises(SessionError, match=r"cycle_key\(\)"):
            await enter(the_handler().request, alice)
    async with client(Quiet, cookies=browser.cookies):
        await enter(the_handler().request, alice)  # who is so already
        await api("save")
        assert (await stored(browser.cookies["sessionid"]))[SESSION_KEY] == str(alice.pk)
        with pytest.raises(SessionError, match=r"login\(\): the session would need a new key"):
            await enter(the_handler().request, bob)


async def test_a_socket_can_log_its_user_out(engine: str) -> None:
    alice = await get_user_model().objects.acreate(username="alice")
    browser = await sync_to_async(Browser)(alice)
    async with client(Quiet, cookies=browser.cookies) as ws:
        await alogout(the_handler().request)
        assert await ws.wait_closed() == 4401
    assert await stored(browser.cookies["sessionid"]) == {}


@pytest.mark.parametrize("name", ["save", "asave"])
async def test_must_create_is_refused(name: str) -> None:
    cookies = await sync_to_async(new_session)(cart=1)
    async with client(Quiet, cookies=cookies):
        save = getattr(the_handler().request.session, name)
        with pytest.raises(SessionError, match="new key"):
            await (save(must_create=True) if name == "asave" else sync_to_async(save)(True))


# ASGI applications among the routes


async def test_an_applications_session_is_merged_too(engine: str, api: Api) -> None:
    cookies = await sync_to_async(new_session)(cart=1)
    sessions: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        sessions.append(scope["session"])
        await receive()

    target: Any = application
    async with client(target, cookies=cookies):
        await until(lambda: sessions)
        await change_on_page(cookies["sessionid"], cart=2)
        await sessions[0].aset("seen", 7)
        await sessions[0].asave()
        assert await stored(cookies["sessionid"]) == {"cart": 2, "seen": 7}


# Cookies that are no keys


NO_KEYS = {
    "NUL": "a\0" + "b" * 30,
    "line feed": "a" * 20 + "\n",
    "delete": "\x7f" * 32,
    "latin": "\xff" * 32,
    "nothing": "",
}


@pytest.mark.parametrize("key", NO_KEYS.values(), ids=NO_KEYS)
def test_a_cookie_that_is_no_key_asks_the_database_nothing(key: str) -> None:
    """PostgreSQL raises where a NUL comes: 500 for each handshake."""
    cookie = "".join(
        character if 32 < ord(character) < 127 else f"\\{ord(character):03o}" for character in key
    )
    headers = {"cookie": f'sessionid="{cookie}"'}
    with (
        CaptureQueriesContext(connection) as queries,
        route(Quiet),
        WebSocketClient(PATH, headers=headers),
    ):
        request = the_handler().request
        assert request.COOKIES["sessionid"] == key
        assert (request.session.session_key, request.user.is_anonymous) == (None, True)
    assert len(queries) == 0


def test_the_names_that_sign_a_session_stay() -> None:
    assert connection_session(DatabaseStore()).key_salt == DatabaseStore().key_salt
