"""Origins of apps, extensions, files and sandboxes; and that all advice of the log works."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.checks import run_checks
from django.test import Client, RequestFactory
from pytest_django import Settings
from rest_framework.authtoken.models import Token

from django_ws import WebSocketHandler
from django_ws.auth import make_ticket
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.altered import with_headers, with_scope
from tests.support.routes import path

APPS = [
    "capacitor://localhost",
    "ionic://localhost",
    "ionic://",
    "app://",
    "app://.",
    "app://obsidian.md",
    "tauri://localhost",
    "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
    "moz-extension://3f1f1f1f-aaaa-bbbb-cccc-3f1f1f1f1f1f",
    "safari-web-extension://3F1F1F1F-AAAA-BBBB-CCCC-3F1F1F1F1F1F",
    "vscode-webview://0abc_def",
    "http://localhost",
    "https://localhost:8100",
]
NOBODIES = ["null", "file://"]


class Who(WebSocketHandler):
    async def on_open(self) -> None:
        request = self.request
        await self.send(
            {
                "user": str(request.user) if request.user.is_authenticated else None,
                "cookies": request.COOKIES,
                "header": request.headers.get("Cookie"),
                "meta": request.META.get("HTTP_COOKIE"),
                "scope": [value.decode() for name, value in request.scope["headers"]
                          if name.lower() == b"cookie"],
                "session": "sessionid" in str(vars(request.session)),
            }
        )  # fmt: skip


async def channels_like(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    cookies = [value.decode() for name, value in scope["headers"] if name == b"cookie"]
    await send({"type": "websocket.send", "text": repr([cookies, scope["cookies"]])})
    await send({"type": "websocket.close"})


urlpatterns = [path("who/", Who), path("application/", channels_like)]


@pytest.fixture(autouse=True)
def routes(settings: Settings) -> None:
    settings.ROOT_WS_URLCONF = __name__


async def status(origin: str | None, **options: Any) -> int:
    try:
        async with WebSocketClient("/who/", origin=origin, **options):
            return 101
    except HandshakeRejected as refused:
        return refused.status


def faults() -> list[str]:
    """Django's own checks too: no advice may lead to a setting that they refuse."""
    messages = run_checks(tags=["django_ws", "compatibility", "security"])
    return [str(message) for message in messages if message.is_serious()]


# Schemes of apps and extensions


@pytest.mark.parametrize("origin", APPS)
@pytest.mark.parametrize("setting", ["CSRF_TRUSTED_ORIGINS", "WS_ALLOWED_ORIGINS"])
async def test_apps_and_extensions_may_be_listed(
    settings: Settings, origin: str, setting: str
) -> None:
    setattr(settings, setting, [origin])
    assert faults() == []
    assert await status(origin) == 101
    assert await status(origin.replace("://", "s://")) == 403


@pytest.mark.parametrize("origin", APPS)
async def test_apps_and_extensions_are_refused_where_they_are_not_listed(origin: str) -> None:
    assert await status(origin) == 403


async def test_an_app_on_localhost_is_no_page_of_a_developer(settings: Settings) -> None:
    settings.DEBUG = True
    assert await status("capacitor://localhost") == 403


# Wildcards

WILDCARDS = [
    ("https://*.example.com", "https://app.example.com", 101),
    ("https://*.example.com", "https://deep.app.example.com", 101),
    ("https://*.example.com", "https://example.com", 101),
    ("https://*.example.com", "HTTPS://APP.example.com:443", 101),
    ("https://*.example.com", "http://app.example.com", 403),
    ("https://*.example.com", "https://app.example.com:8443", 403),
    ("https://*.example.com", "https://evilexample.com", 403),
    ("https://*.example.com", "https://example.com.evil.example", 403),
    ("https://*.example.com", "null", 403),
    ("https://*.example.com:8443", "https://app.example.com:8443", 101),
    ("https://*.example.com:8443", "https://app.example.com", 403),
    ("capacitor://*.example.com", "capacitor://app.example.com", 101),
]


@pytest.mark.parametrize(("listed", "origin", "answer"), WILDCARDS)
@pytest.mark.parametrize("setting", ["CSRF_TRUSTED_ORIGINS", "WS_ALLOWED_ORIGINS"])
async def test_a_wildcard_means_the_same_in_both_settings(
    settings: Settings, setting: str, listed: str, origin: str, answer: int
) -> None:
    setattr(settings, setting, [listed])
    assert faults() == []
    assert await status(origin) == answer


@pytest.mark.parametrize(
    "trusted", [None, [None, 5], "https://app.example.com", ["https://app.example.com/"], ["*"]]
)
async def test_trusted_origins_of_a_wrong_form_let_nobody_in_and_break_nothing(
    settings: Settings, trusted: Any
) -> None:
    settings.CSRF_TRUSTED_ORIGINS = trusted
    assert await status("https://app.example.com") == 403
    assert await status("http://testserver") == 101


# Origins that name nobody


@pytest.fixture
async def cookies() -> dict[str, str]:
    alice = await User.objects.acreate(username="alice")
    browser = Client()
    await sync_to_async(browser.force_login)(alice)
    return {"sessionid": browser.cookies["sessionid"].value}


ANONYMOUS: dict[str, Any] = {"user": None, "cookies": {}, "header": None, "meta": None, "scope": []}


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("origin", NOBODIES)
@pytest.mark.parametrize("listed", ["itself", "*"])
async def test_no_cookie_counts_of_a_file_or_a_sandbox(
    settings: Settings,
    cookies: dict[str, str],
    origin: str,
    listed: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.WS_ALLOWED_ORIGINS = [origin if listed == "itself" else "*", "http://testserver"]
    caplog.set_level("INFO", "django.ws.request")
    async with WebSocketClient("/who/", origin="http://testserver", cookies=cookies) as ws:
        assert (await ws.receive())["user"] == "alice"
    assert caplog.messages == []
    async with WebSocketClient("/who/", origin=origin, cookies=cookies) as ws:
        assert (await ws.receive()).items() >= ANONYMOUS.items()
    [line] = caplog.messages
    assert "its cookies do not count" in line
    assert "a token or ticket" in line


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", [b"cookie", b"Cookie"])
async def test_nor_do_they_for_an_asgi_application_among_the_routes(
    settings: Settings, cookies: dict[str, str], name: bytes
) -> None:
    settings.WS_ALLOWED_ORIGINS = ["null"]
    application = with_headers((name, f"sessionid={cookies['sessionid']}".encode()))
    client = WebSocketClient("/application/", origin="null", application=application)
    async with client as ws:
        assert await ws.receive_data() == "[[], {}]"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("origins", [(b"null", b"http://testserver"), (b"file://", b"null")])
async def test_nor_do_they_where_one_of_several_origins_names_nobody(
    settings: Settings, cookies: dict[str, str], origins: tuple[bytes, ...]
) -> None:
    settings.WS_ALLOWED_ORIGINS = ["*"]
    application = with_headers(*((b"origin", origin) for origin in origins))
    client = WebSocketClient("/who/", origin=None, application=application, cookies=cookies)
    async with client as ws:
        assert (await ws.receive())["user"] is None


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("origin", NOBODIES)
async def test_tokens_and_tickets_count(settings: Settings, origin: str) -> None:
    alice = await User.objects.acreate(username="alice")
    token = await Token.objects.acreate(user=alice)
    settings.WS_ALLOWED_ORIGINS = [origin]
    settings.WS_MIDDLEWARE = [
        "django_ws.middleware.AuthMiddleware",
        "django_ws.middleware.TokenAuthMiddleware",
        "django_ws.middleware.TicketAuthMiddleware",
    ]
    subprotocols = [f"Token.{token.key}"]
    async with WebSocketClient("/who/", origin=origin, subprotocols=subprotocols) as ws:
        assert (await ws.receive())["user"] == "alice"
    request = RequestFactory().get("/")
    request.user = alice
    ticket = await sync_to_async(make_ticket)(request)
    async with WebSocketClient(f"/who/?ticket={ticket}", origin=origin) as ws:
        assert (await ws.receive())["user"] == "alice"


@pytest.mark.parametrize("origin", ["file://", "null", "FILE://", "Null"])
async def test_a_handshake_without_cookies_needs_no_words(
    settings: Settings, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_ALLOWED_ORIGINS = NOBODIES
    caplog.set_level("INFO", "django.ws.request")
    assert await status(origin) == 101
    assert caplog.messages == []


@pytest.mark.parametrize("origin", ["file://testserver", "file:///", "file:///etc/passwd", "nulls"])
async def test_what_only_looks_like_them_is_refused(settings: Settings, origin: str) -> None:
    settings.WS_ALLOWED_ORIGINS = NOBODIES
    assert await status(origin) == 403


# Following the advice

Follow = Callable[[Settings, str], Awaitable[int]]


def advice(caplog: pytest.LogCaptureFixture) -> str:
    [record] = [each for each in caplog.records if each.name == "django.ws.request"]
    caplog.clear()
    return record.getMessage()


def named(line: str) -> str:
    """The own origin that a line names."""
    [own] = re.findall(r"with your own, '([^']*)'", line)
    return str(own)


@pytest.mark.parametrize("origin", [*APPS, "https://app.example.com", "http://testserver:8000"])
@pytest.mark.parametrize("setting", ["CSRF_TRUSTED_ORIGINS", "WS_ALLOWED_ORIGINS"])
async def test_following_the_advice_for_a_page_elsewhere_lets_it_in_and_keeps_the_own_pages(
    settings: Settings, origin: str, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await status(origin) == 403
    line = advice(caplog)
    assert f"the origin {origin!r}" in line
    assert setting in line
    setattr(settings, setting, [origin, named(line)])
    assert faults() == []
    assert await status(origin) == 101
    assert await status("http://testserver") == 101


@pytest.mark.parametrize("origin", NOBODIES)
async def test_following_the_advice_for_a_file_lets_it_in_and_keeps_the_own_pages(
    settings: Settings, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await status(origin) == 403
    line = advice(caplog)
    assert "WS_ALLOWED_ORIGINS" in line
    assert "CSRF_TRUSTED_ORIGINS" not in line
    assert "token or ticket" in line
    settings.WS_ALLOWED_ORIGINS = [origin, named(line)]
    assert faults() == []
    assert await status(origin) == 101
    assert await status("http://testserver") == 101


@pytest.mark.parametrize("origin", [*APPS, *NOBODIES, "https://app.example.com"])
async def test_following_the_advice_beside_an_explicit_list_lets_it_in(
    settings: Settings, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_ALLOWED_ORIGINS = ["http://testserver"]
    assert await status(origin) == 403
    assert "add it to WS_ALLOWED_ORIGINS." in advice(caplog)
    settings.WS_ALLOWED_ORIGINS = ["http://testserver", origin]
    assert faults() == []
    assert await status(origin) == 101


async def test_following_the_advice_for_a_page_without_tls_lets_it_in(
    caplog: pytest.LogCaptureFixture,
) -> None:
    application = with_scope(scheme="wss")
    assert await status("http://testserver", application=application) == 403
    line = advice(caplog)
    assert "TRUSTED" not in line
    [better] = re.findall(r"load it from '(.*)'", line)
    assert await status(better, application=application) == 101


@pytest.mark.parametrize("origin", ["https://www.example.com", "http://www.example.com"])
@pytest.mark.parametrize("way", ["the setting", "the proxy"])
async def test_following_the_advice_for_a_proxy_that_renames_the_host_lets_it_in(
    settings: Settings, origin: str, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings.ALLOWED_HOSTS = ["www.example.com", "10.0.0.1"]
    headers = {"host": "10.0.0.1", "x-forwarded-host": "www.example.com"}
    assert await status(origin, headers=headers) == 403
    line = advice(caplog)
    assert "USE_X_FORWARDED_HOST = True" in line
    assert "let the proxy pass Host on" in line
    if way == "the setting":
        settings.USE_X_FORWARDED_HOST = True
    else:
        headers["host"] = "www.example.com"
    assert await status(origin, headers=headers) == 101


@pytest.mark.parametrize(
    ("origin", "forwarded"),
    [
        ("https://evil.example", "www.example.com"),
        ("capacitor://www.example.com", "www.example.com"),
    ],
)
async def test_the_forwarded_host_is_no_advice_for_other_pages(
    origin: str, forwarded: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await status(origin, headers={"x-forwarded-host": forwarded}) == 403
    assert "USE_X_FORWARDED_HOST" not in advice(caplog)


async def test_following_the_advice_where_a_proxy_keeps_the_host_back_lets_it_in(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.ALLOWED_HOSTS = ["www.example.com", "127.0.0.1"]
    host = {"host": "127.0.0.1:8000"}
    assert await status("https://www.example.com", headers=host) == 403
    assert "let the proxy pass Host on" in advice(caplog)
    assert await status("https://www.example.com", headers={"host": "www.example.com"}) == 101


@pytest.mark.parametrize("origin", ["http://testserver/", "", "*", "testserver", "http://", "a b"])
async def test_what_is_no_origin_gets_no_advice_to_list_it(
    settings: Settings, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    for explicit in (None, ["http://testserver"]):
        settings.WS_ALLOWED_ORIGINS = explicit
        assert await status(origin) == 403
        line = advice(caplog)
        assert "no list of origins can name it" in line
        assert "add it" not in line


async def test_several_origins_get_the_advice_that_concerns_the_proxy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    origin = (b"origin", b"http://testserver")
    application = with_headers(origin, origin)
    assert await status(None, application=application) == 403
    assert "let the proxy pass on what it gets" in advice(caplog)
    assert await status(None, application=with_headers(origin)) == 101


@pytest.mark.parametrize("host", ["www.example.com", "www.example.com:8000", "[::2]:8000"])
async def test_following_the_advice_for_a_host_lets_it_in(
    settings: Settings, host: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert await status(f"http://{host}", headers={"host": host}) == 400
    [needed] = re.findall(r"add '(.*)' to ALLOWED_HOSTS", advice(caplog))
    settings.ALLOWED_HOSTS = [needed]
    assert await status(f"http://{host}", headers={"host": host}) == 101
