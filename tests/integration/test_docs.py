"""Every Python block of the README and the docs runs, and the three steps give a socket."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import types
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast
from urllib.request import urlopen

import pytest
from asgiref.sync import sync_to_async
from django.apps import apps
from django.contrib.auth.models import AnonymousUser, Permission, User
from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test import Client, RequestFactory
from django.urls import clear_url_caches, path
from pytest_django import Settings
from rest_framework.authentication import TokenAuthentication
from rest_framework.authtoken.models import Token
from rest_framework.response import Response
from rest_framework.views import APIView
from sesame.utils import get_token
from websockets.sync.client import connect
from websockets.typing import Origin

import django_ws
from django_ws import ConnectionClosed, WebSocketHandler, abroadcast
from django_ws.auth import FirstMessageAuthMixin, LoginRequiredMixin, make_ticket
from django_ws.exceptions import EncodeError, Reject
from django_ws.middleware.chain import Chain
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests import ROOT
from tests.support.servers import START_SECONDS, Lines

AUTH = ROOT / "docs" / "auth.md"
BROADCASTS = ROOT / "docs" / "broadcasts.md"
RECIPES = ROOT / "docs" / "recipes.md"
THREADS = ROOT / "docs" / "threads.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
POLICIES = [ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text())


def all_blocks() -> Iterator[Any]:
    for page in PAGES:
        for number, block in enumerate(blocks(page), 1):
            yield pytest.param(block, id=f"{page.name}-{number}")


IN_AN_APP = "tests.user_models.documented"  # as what it calls itself a block may define models


def forget_models() -> None:
    """A model that stayed known would be looked for whenever a user is deleted."""
    models = apps.all_models["auth_tests"]
    for name in [name for name, model in models.items() if model.__module__ == IN_AN_APP]:
        del models[name]
    apps.clear_cache()


def block_with(page: Path, text: str) -> str:
    [block] = [block for block in blocks(page) if text in block]
    return block


@pytest.fixture
def mysite(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """``mysite.ws`` of the README's second step, and ``mysite.models`` of the recipes."""
    names = ("mysite", "mysite.models", "mysite.ws")
    modules = [types.ModuleType(name) for name in names]
    for name, module in zip(names, modules, strict=True):
        monkeypatch.setitem(sys.modules, name, module)
    modules[1].__dict__["__name__"] = IN_AN_APP
    exec(block_with(RECIPES, "class ApiKey("), modules[1].__dict__)
    exec(blocks(PAGES[0])[1], modules[2].__dict__)
    yield modules[2]
    forget_models()


@pytest.fixture
def run(mysite: types.ModuleType) -> Any:
    def run_block(block: str) -> dict[str, Any]:
        namespace: dict[str, Any] = {"__name__": "documented"}
        if "models.Model" in block:
            forget_models()
            namespace["__name__"] = IN_AN_APP
        exec(block, namespace)
        return namespace

    return run_block


@pytest.mark.parametrize("block", list(all_blocks()))
def test_block_runs(block: str, run: Any) -> None:
    assert run(block)


def class_in(page: str, name: str, run: Any) -> Any:
    [block] = [text for text in blocks(ROOT / page) if f"class {name}(" in text]
    return run(block)[name]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Any:
    """Make a handler the only route, and give a client for it."""

    def serve_at(handler: type[WebSocketHandler], route: str = "documented/") -> WebSocketClient:
        name = f"routes_of_{handler.__name__}"  # Django keeps the routes of each module it knows
        urls = types.ModuleType(name)
        urls.__dict__["urlpatterns"] = [path(route, cast(Any, handler))]
        monkeypatch.setitem(sys.modules, name, urls)
        settings.ROOT_WS_URLCONF = name
        clear_url_caches()
        return WebSocketClient(f"/{route}")

    return serve_at


class TestDocumentedHandlers:
    async def test_room_refuses_the_anonymous(self, run: Any, serve: Any) -> None:
        client = serve(class_in("README.md", "RoomHandler", run))
        with pytest.raises(HandshakeRejected) as caught:
            async with client:
                pass
        assert caught.value.status == 401

    @pytest.mark.django_db(transaction=True)
    async def test_count_uses_the_orm(self, run: Any, serve: Any) -> None:
        async with serve(class_in("README.md", "CountHandler", run)) as ws:
            await ws.send({})
            assert await ws.receive() == {"users": 0}

    async def test_clock_pings(self, run: Any, serve: Any, settings: Settings) -> None:
        settings.WS_PING_INTERVAL = 0.02
        async with serve(class_in("README.md", "ClockHandler", run)) as ws:
            assert "ping" in await ws.receive()

    async def test_telemetry_speaks_message_pack(self, run: Any, serve: Any) -> None:
        handler = class_in("README.md", "TelemetryHandler", run)
        async with serve(handler) as ws:
            await ws.send_bytes(handler.codec.encode([1, b"2"]))
            assert handler.codec.decode(await ws.receive_data()) == {"received": [1, b"2"]}

    async def test_codec_of_ones_own_reads_moves_alone(self, run: Any, serve: Any) -> None:
        handler = class_in("docs/handlers.md", "BoardHandler", run)
        async with serve(handler) as ws:
            await ws.send({"x": 1, "y": 2})
            assert await ws.receive() == {"x": 2, "y": 1}
            with pytest.raises(EncodeError):
                handler.codec.encode(object())
            await ws.send({"x": "one"})
            assert await ws.wait_closed() == 1007

    @pytest.mark.parametrize(
        ("page", "name"), [("README.md", "ChatHandler"), ("docs/broadcasts.md", "TalkHandler")]
    )
    async def test_chat_reaches_its_room(self, page: str, name: str, run: Any, serve: Any) -> None:
        serve(class_in(page, name, run), "rooms/<str:room>/")
        async with (
            WebSocketClient("/rooms/lobby/") as alice,
            WebSocketClient("/rooms/lobby/") as bob,
            WebSocketClient("/rooms/attic/") as carol,
        ):
            await alice.send({"text": "hi"})
            assert [await alice.receive(), await bob.receive()] == [{"text": "hi"}] * 2
            await carol.receive_nothing()

    @pytest.mark.django_db(transaction=True)
    async def test_orders_are_shown_to_their_owner(self, run: Any, serve: Any) -> None:
        serve(class_in("docs/broadcasts.md", "OrdersHandler", run), "orders/")
        alice = await User.objects.acreate(username="alice")
        bob = await User.objects.acreate(username="bob")
        async with (
            WebSocketClient("/orders/", user=alice) as own,
            WebSocketClient("/orders/", user=bob) as other,
        ):
            await abroadcast("orders", {"owner": alice.pk, "margin": 7})
            assert await own.receive() == {"owner": alice.pk}
            await other.receive_nothing()

    @pytest.mark.django_db(transaction=True)
    async def test_ban_ends_the_sockets_of_a_user(self, run: Any, serve: Any) -> None:
        [block] = [text for text in blocks(ROOT / "docs/broadcasts.md") if "def ban(" in text]
        documented = run(block)
        serve(documented["InboxHandler"], "inbox/")
        alice = await User.objects.acreate(username="alice")
        async with WebSocketClient("/inbox/", user=alice) as ws:
            await asyncio.to_thread(documented["ban"], alice)
            with pytest.raises(ConnectionClosed):
                await ws.receive()
            assert (ws.close_code, ws.close_reason) == (4403, "banned")

    async def test_middleware_may_reject(self, run: Any, serve: Any) -> None:
        [block] = [text for text in blocks(PAGES[0]) if "class TimingMiddleware" in text]
        rejected = []

        class Connection:
            request = types.SimpleNamespace(GET={"closed": "1"})

            async def reject(self, status: int) -> None:
                rejected.append(status)

        async def func(ws: Any) -> None:
            raise Reject(500)

        chain: Chain = run(block)["TimingMiddleware"](func)
        await chain(Connection())  # type: ignore[arg-type]
        assert rejected == [403]


@pytest.mark.django_db(transaction=True)
class TestDocumentedLogIns:
    async def test_device_logs_in_by_a_signed_token_alone(self, run: Any, serve: Any) -> None:
        [block] = [text for text in blocks(AUTH) if "class DeviceHandler(" in text]
        documented = run(block)
        alice = await User.objects.acreate(username="alice")
        token = documented["make_device_token"](alice)

        async def on_open(self: Any) -> None:
            await self.send(self.request.user.get_username())

        async with serve(
            type("Handler", (documented["DeviceHandler"],), {"on_open": on_open})
        ) as ws:
            await ws.send({"device": token})
            assert await ws.receive() == "alice"
        wrongs: list[Any] = [
            {"device": "alice"},
            {"device": f"{alice.pk}"},
            {"device": 1},
            [],
            None,
        ]
        for wrong in wrongs:
            async with WebSocketClient("/documented/") as ws:
                await ws.send(wrong)
                assert await ws.wait_closed() == 4401

    @pytest.mark.parametrize("ending", ["log-out", "revoked"])
    async def test_badge_adds_to_the_log_in_of_the_session(
        self, ending: str, run: Any, serve: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        [block] = [text for text in blocks(AUTH) if "class BadgeLogin(" in text]
        documented = run(block)
        module = types.ModuleType("documented_badges")
        module.__dict__.update(documented)
        monkeypatch.setitem(sys.modules, "documented_badges", module)
        settings.WS_MIDDLEWARE = [
            "django_ws.middleware.AuthMiddleware",
            "documented_badges.badge_middleware",
        ]
        settings.WS_AUTH_RECHECK = 0.05 if ending == "revoked" else 3600
        serve(type("Quiet", (WebSocketHandler,), {}))
        browser = Client()
        alice = await User.objects.acreate(username="alice")
        await browser.aforce_login(alice)
        session = await browser.asession()
        await session.aset("badge", "b1")
        await session.asave()
        cookies = {"sessionid": browser.cookies["sessionid"].value}
        async with WebSocketClient("/documented/", cookies=cookies) as ws:
            await ws.receive_nothing()
            if ending == "revoked":
                documented["revoked"].add("b1")
            else:
                await sync_to_async(browser.logout)()
            assert await ws.wait_closed() == 4401
        if ending == "revoked":
            # Nothing that the client sends along gives it another badge.
            forged = {"X-Badge": "b2"}
            again = WebSocketClient("/documented/", cookies=cookies, headers=forged)
            assert await status(again) == 401

    async def test_view_of_rest_framework_gives_tickets(
        self, serve: Any, settings: Settings
    ) -> None:
        settings.WS_MIDDLEWARE = ["django_ws.middleware.TicketAuthMiddleware"]
        token = await Token.objects.acreate(user=await User.objects.acreate(username="alice"))

        class TicketView(APIView):
            authentication_classes = [TokenAuthentication]

            def get(self, request: Any) -> Response:
                return Response({"ticket": make_ticket(request)})

        class Who(WebSocketHandler):
            async def on_open(self) -> None:
                await self.send(self.request.user.get_username())

        request = RequestFactory().get("/", headers={"Authorization": f"Token {token.key}"})
        answer = await sync_to_async(TicketView.as_view())(request)
        serve(Who)
        url = f"/documented/?ticket={answer.data['ticket']}"
        async with WebSocketClient(url) as ws:
            assert await ws.receive() == "alice"


async def status(client: WebSocketClient) -> int:
    """101 where it opens, and the status of the refusal where it does not."""
    try:
        async with client:
            return 101
    except HandshakeRejected as refused:
        return refused.status


@pytest.fixture
def table_of_keys(transactional_db: None, mysite: types.ModuleType) -> Iterator[Any]:
    model = sys.modules["mysite.models"].__dict__["ApiKey"]
    with connection.schema_editor() as editor:
        editor.create_model(model)
    yield model
    with connection.schema_editor() as editor:
        editor.delete_model(model)


@pytest.mark.django_db(transaction=True)
class TestDocumentedGuards:
    """Of each block that guards something: who may gets in, and nobody else."""

    @pytest.fixture
    def api_keys(
        self, table_of_keys: Any, run: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> dict[str, Any]:
        documented: dict[str, Any] = run(block_with(RECIPES, "class ApiKeyMiddleware("))
        module = types.ModuleType("documented_keys")
        module.__dict__.update(documented)
        monkeypatch.setitem(sys.modules, "documented_keys", module)
        settings.WS_MIDDLEWARE = [
            "django_ws.middleware.AuthMiddleware",
            "documented_keys.ApiKeyMiddleware",
        ]
        return documented

    async def test_api_key_itself_gets_in_and_nothing_else(
        self, api_keys: dict[str, Any], table_of_keys: Any, serve: Any
    ) -> None:
        serve(type("Private", (LoginRequiredMixin, WebSocketHandler), {}))
        alice = await User.objects.acreate(username="alice")
        bob = await User.objects.acreate(username="bob")
        key = await sync_to_async(table_of_keys.make)(alice)
        other = await sync_to_async(table_of_keys.make)(bob)
        row = await table_of_keys.objects.aget(user=alice)
        prefix, _, secret = key.partition(".")
        assert secret not in str(vars(row))

        async def by(value: str) -> int:
            headers = {"Authorization": f"ApiKey {value}"}
            return await status(WebSocketClient("/documented/", headers=headers))

        wrongs = [
            "alice", str(alice.pk), prefix, f"{prefix}.", f".{secret}", secret, key[:-1], f"{key}A",
            f"{prefix}.{row.secret_digest}", f"{prefix}.{other.partition('.')[2]}", f"{prefix}.%",
            f"%.{secret}", "9" * 5000, f"{prefix}.{'x' * 5000}", ".", "' OR 1=1 --",
        ]  # fmt: skip
        assert [await by(wrong) for wrong in wrongs] == [401] * len(wrongs)
        assert await status(WebSocketClient("/documented/")) == 401
        assert await status(WebSocketClient("/documented/", headers={"X-Api-User": "alice"})) == 401
        assert await by(key) == 101
        subprotocols = [f"ApiKey.{key}"]
        assert await status(WebSocketClient("/documented/", subprotocols=subprotocols)) == 101
        await User.objects.filter(pk=alice.pk).aupdate(is_active=False)
        assert await by(key) == 401

    async def test_api_key_that_is_deleted_ends_its_sockets(
        self, api_keys: dict[str, Any], table_of_keys: Any, serve: Any, settings: Settings
    ) -> None:
        settings.WS_AUTH_RECHECK = 0.05

        class Who(WebSocketHandler):
            async def on_open(self) -> None:
                await self.send(self.request.user.get_username())

        serve(Who)
        keys = []
        for name in ("alice", "bob"):
            user = await User.objects.acreate(username=name)
            keys.append(await sync_to_async(table_of_keys.make)(user))
        clients = [
            WebSocketClient("/documented/", headers={"Authorization": f"ApiKey {key}"})
            for key in keys
        ]
        async with clients[0] as ws, clients[1] as other:
            assert [await ws.receive(), await other.receive()] == ["alice", "bob"]
            await table_of_keys.objects.filter(user__username="alice").adelete()
            assert await ws.wait_closed() == 4401
            await other.receive_nothing()

    async def test_api_key_may_come_in_the_first_message(
        self, api_keys: dict[str, Any], table_of_keys: Any, serve: Any
    ) -> None:
        names = {"first_message_authenticators": [api_keys["ApiKeyAuthenticator"]]}
        serve(type("First", (FirstMessageAuthMixin, LoginRequiredMixin, WebSocketHandler), names))
        alice = await User.objects.acreate(username="alice")
        key = await sync_to_async(table_of_keys.make)(alice)
        async with WebSocketClient("/documented/") as ws:
            await ws.send({"key": f"{key}A"})
            assert await ws.wait_closed() == 4401
        async with WebSocketClient("/documented/") as ws:
            await ws.send({"key": key})
            await ws.receive_nothing()

    @pytest.mark.parametrize(
        ("page", "name"),
        [
            ("README.md", "RoomHandler"),
            ("docs/auth.md", "NewsHandler"),
            ("docs/broadcasts.md", "MembersHandler"),
            ("docs/broadcasts.md", "InboxHandler"),
            ("docs/broadcasts.md", "OrdersHandler"),
        ],
    )
    async def test_handler_for_users_lets_nobody_else_in(
        self, page: str, name: str, run: Any, serve: Any
    ) -> None:
        serve(class_in(page, name, run), "rooms/<str:room>/")
        alice = await User.objects.acreate(username="alice")
        assert await status(WebSocketClient("/rooms/lobby/")) == 401
        forged = {"sessionid": "a" * 32}
        assert await status(WebSocketClient("/rooms/lobby/", cookies=forged)) == 401
        assert await status(WebSocketClient("/rooms/lobby/", user=alice)) == 101

    async def test_orders_without_an_owner_are_shown_to_nobody(self, run: Any, serve: Any) -> None:
        serve(class_in("docs/broadcasts.md", "OrdersHandler", run), "orders/")
        alice = await User.objects.acreate(username="alice")
        async with WebSocketClient("/orders/", user=alice) as ws:
            await abroadcast("orders", {"owner": None})
            await ws.receive_nothing()

    @pytest.mark.parametrize(
        ("page", "name", "permission"),
        [
            ("README.md", "OrdersHandler", "shop.view_order"),
            ("docs/auth.md", "OrdersHandler", "shop.view_order"),
            ("docs/auth.md", "StaffHandler", None),
            ("docs/threads.md", "TransferHandler", "auth.change_user"),
        ],
    )
    async def test_handler_for_some_users_lets_no_others_in(
        self, page: str, name: str, permission: str | None, run: Any, serve: Any
    ) -> None:
        serve(class_in(page, name, run), "guarded/")
        visitor = await User.objects.acreate(username="visitor")
        allowed = await User.objects.acreate(username="allowed", is_staff=permission is None)
        if permission is not None:
            label, _, codename = permission.partition(".")
            content = await ContentType.objects.aget(app_label="auth", model="user")
            if label != "auth":
                content = await ContentType.objects.acreate(app_label=label, model="order")
            right, _ = await Permission.objects.aget_or_create(
                codename=codename, content_type=content, defaults={"name": codename}
            )
            await allowed.user_permissions.aadd(right)
        assert await status(WebSocketClient("/guarded/")) == 401
        assert await status(WebSocketClient("/guarded/", user=visitor)) == 403
        assert await status(WebSocketClient("/guarded/", user=allowed)) == 101

    async def test_topics_with_a_permission_of_their_own_are_joined_by_no_others(
        self, run: Any, serve: Any
    ) -> None:
        joined: list[str] = []

        class Orders(class_in("docs/auth.md", "OrdersHandler", run)):  # type: ignore[misc]
            async def on_message(self, message: str) -> None:
                await self.subscribe(message)
                joined.append(message)

        serve(Orders)
        content = await ContentType.objects.acreate(app_label="shop", model="order")
        users = [await User.objects.acreate(username=name) for name in ("alice", "bob")]
        for codename, of in (("view_order", users), ("view_secret_order", users[1:])):
            right = await Permission.objects.acreate(
                codename=codename, name=codename, content_type=content
            )
            for user in of:
                await user.user_permissions.aadd(right)
        for user, topic, code in (
            (users[0], "orders", None),
            (users[0], "orders:secret:1", 4403),
            (users[0], "another", 4403),
            (users[1], "orders:secret:1", None),
            (users[1], "another", 4403),
        ):
            joined.clear()
            async with WebSocketClient("/documented/", user=user) as ws:
                await ws.send(topic)
                if code is None:
                    await ws.receive_nothing()
                    assert joined == [topic]
                else:
                    assert await ws.wait_closed() == code
                    assert joined == []

    async def test_prices_open_for_a_ticket_or_a_token_of_sesame_alone(
        self, run: Any, serve: Any, settings: Settings
    ) -> None:
        settings.AUTHENTICATION_BACKENDS = [
            "django.contrib.auth.backends.ModelBackend", "sesame.backends.ModelBackend",
        ]  # fmt: skip
        serve(class_in("docs/auth.md", "PricesHandler", run))
        alice = await User.objects.acreate(username="alice")
        request = RequestFactory().get("/")
        request.user = alice
        ticket = make_ticket(request)
        rights: list[Any] = [get_token(alice), {"token": get_token(alice)}, {"ticket": ticket}]
        for right in rights:
            async with WebSocketClient("/documented/") as ws:
                await ws.send(right)
                assert await ws.receive() == {"hello": "alice"}
        wrongs: list[Any] = [
            "alice", {"token": "alice"}, {"user": "alice"}, {"ticket": ticket}, {"token": ticket},
            {"ticket": get_token(alice)}, None, [], {"token": f"{get_token(alice)}A"},
        ]  # fmt: skip
        for wrong in wrongs:
            async with WebSocketClient("/documented/") as ws:
                await ws.send(wrong)
                assert await ws.wait_closed() == 4401, wrong

    @pytest.mark.parametrize("logged_in", [False, True])
    def test_view_gives_tickets_to_users_alone(self, logged_in: bool, run: Any) -> None:
        view = run(block_with(AUTH, "def ticket("))["ticket"]
        request = RequestFactory().get("/ticket/")
        alice = User.objects.create(username="alice")
        request.user = alice if logged_in else AnonymousUser()
        answer = view(request)
        assert answer.status_code == (200 if logged_in else 302)
        assert (b"ticket" in answer.content) is logged_in

    async def test_middleware_of_the_readme_refuses_who_asks_for_it(
        self, run: Any, serve: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = types.ModuleType("documented_timing")
        module.__dict__.update(run(block_with(PAGES[0], "class TimingMiddleware")))
        monkeypatch.setitem(sys.modules, "documented_timing", module)
        settings.WS_MIDDLEWARE = ["documented_timing.TimingMiddleware"]
        serve(type("Quiet", (WebSocketHandler,), {}))
        assert await status(WebSocketClient("/documented/?closed=1")) == 403
        assert await status(WebSocketClient("/documented/")) == 101


@pytest.mark.parametrize("offered", [["chat"], ["chat", "Token.{}"]])
@pytest.mark.django_db
def test_unknown_subprotocol_is_answered_by_none(
    offered: list[str], serve: Any, settings: Settings
) -> None:
    settings.WS_MIDDLEWARE = ["django_ws.middleware.TokenAuthMiddleware"]
    token = Token.objects.create(user=User.objects.create(username="alice"))
    serve(type("Quiet", (WebSocketHandler,), {}))
    names = [name.format(token.key) for name in offered]
    with WebSocketClient("/documented/", subprotocols=names) as ws:
        assert ws.subprotocol is None


@pytest.mark.parametrize(
    ("setting", "own"), [("CSRF_TRUSTED_ORIGINS", True), ("WS_ALLOWED_ORIGINS", False)]
)
def test_which_setting_keeps_the_sites_own_pages(
    setting: str, own: bool, serve: Any, settings: Settings
) -> None:
    setattr(settings, setting, ["https://app.example.com"])
    serve(type("Quiet", (WebSocketHandler,), {}))
    with WebSocketClient("/documented/", origin="https://app.example.com"):
        pass
    if own:
        with WebSocketClient("/documented/", origin="http://testserver"):
            pass
    else:
        with (
            pytest.raises(HandshakeRejected) as refused,
            WebSocketClient("/documented/", origin="http://testserver"),
        ):
            pass
        assert refused.value.status == 403


class FailingHandler(WebSocketHandler):
    """What the tests of docs/testing.md are about."""

    async def on_open(self) -> None:
        if self.kwargs["rest"] == "failing/task/":
            self.start_task("failing", self.fail)

    async def fail(self) -> None:
        raise LookupError

    async def on_task_error(self, error: BaseException) -> None:
        await self.send("failed")

    async def on_message(self, message: Any) -> None:
        await self.fail()


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("page", "name", "count"),
    [
        ("README.md", "EchoTests", 1),
        ("docs/testing.md", "EchoTests", 3),
        ("docs/testing.md", "FailureTests", 2),
        ("docs/testing.md", "LogOutTests", 1),
    ],
)
def test_documented_tests_pass(
    page: str, name: str, count: int, run: Any, mysite: types.ModuleType, serve: Any
) -> None:
    if name != "FailureTests":
        serve(mysite.EchoHandler, "ws/echo/")
    else:
        serve(FailingHandler, "ws/<path:rest>")
    result = unittest.TestResult()
    tests = class_in(page, name, run)
    unittest.defaultTestLoader.loadTestsFromTestCase(tests).run(result)
    assert result.testsRun == count
    assert not result.errors + result.failures


@pytest.mark.parametrize("page", [*PAGES, *POLICIES], ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", page.read_text()):
        text = (page.parent / target if target else page).read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in headings}
        assert not anchor or anchor in anchors


def test_what_to_write_in_the_place_of_a_consumer_is_there() -> None:
    text = RECIPES.read_text().partition("### What stands inside a consumer\n")[2]
    table = text.strip().partition("\n\n")[0]
    here = " ".join(line.split(" | ")[1] for line in table.splitlines()[2:])
    of_handlers = {"kwargs", "request", "x", "function"}  # of an instance, or the site's own
    methods = set(re.findall(r"self\.(\w+)", here)) - of_handlers
    names = methods | set(re.findall(r"\b(on_\w+|get_topics)\(", here))
    assert {"send", "subscribe", "on_open", "on_broadcast", "get_topics"} <= names
    assert [name for name in names if not hasattr(WebSocketHandler, name)] == []
    functions = {"broadcast", "abroadcast", "disconnect", "user_topic", "connection_topic"}
    assert functions <= set(re.findall(r"(\w+)\(", here)) & set(django_ws.__all__)


def test_the_architecture_names_every_package_and_module_of_the_top_level() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text().partition("```text")[2]
    named = set(re.findall(r"\w+", text.partition("```")[0]))
    there = {path.stem for path in (ROOT / "django_ws").iterdir() if path.suffix == ".py"}
    there |= {init.parent.name for init in (ROOT / "django_ws").rglob("*/__init__.py")}
    assert there - {"__init__", "tokens", "commands", "backends"} <= named


def test_three_steps_stand_in_the_first_forty_lines() -> None:
    start = "\n".join(PAGES[0].read_text().splitlines()[:40])
    assert "urlpatterns = [" in start


class Site(NamedTuple):
    host: str  # and port
    output: Lines


@contextmanager
def served(
    folder: Path, asgi: str = blocks(PAGES[0])[0], more_settings: str = ""
) -> Iterator[Site]:
    """The README's project, as its reader makes it, on a real uvicorn."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    del environment["DJANGO_SETTINGS_MODULE"]
    start_project = [sys.executable, "-m", "django", "startproject", "mysite", str(folder)]
    subprocess.run(start_project, check=True, env=environment)
    texts = [asgi, *blocks(PAGES[0])[1:3]]
    for name, text in zip(["asgi.py", "ws.py", "ws_urls.py"], texts, strict=True):
        (folder / "mysite" / name).write_text(text)
    with (folder / "mysite" / "settings.py").open("a") as file:
        file.write(more_settings)
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "mysite.asgi:application", "--port", "0"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output = Lines(cast(BinaryIO, process.stdout))
    try:
        running = re.compile(r"running on http://(127\.0\.0\.1:\d+)")
        assert output.wait_for(lambda lines: any(map(running.search, lines)), START_SECONDS)
        [host] = running.findall("\n".join(output.lines))
        yield Site(host, output)
    finally:
        process.terminate()
        process.wait(10)
        output.close()


def echo(host: str) -> str | bytes:
    with connect(f"ws://{host}/ws/echo/", origin=Origin(f"http://{host}")) as ws:
        ws.send('{"hello":"world"}')
        return ws.recv(timeout=5)


def test_three_steps_give_a_socket(tmp_path: Path) -> None:
    with served(tmp_path) as site:
        assert echo(site.host) == '{"hello":"world"}'


@pytest.mark.parametrize("heading", ["Static files while developing", "Another HTTP application"])
def test_recipe_for_asgi_py_serves_sockets_and_pages(tmp_path: Path, heading: str) -> None:
    recipes = (ROOT / "docs" / "recipes.md").read_text()
    [block, *_] = BLOCK.findall(recipes.partition(f"\n## {heading}\n")[2])
    with served(tmp_path, block) as site:
        assert echo(site.host) == '{"hello":"world"}'
        path = "static/admin/css/base.css" if heading.startswith("Static") else "admin/login/"
        with urlopen(f"http://{site.host}/{path}", timeout=5) as page:
            assert page.status == 200
