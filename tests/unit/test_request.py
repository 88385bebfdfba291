"""The handshake as a Django request."""

import copy
from typing import Any, ClassVar

import pytest
from django.contrib.auth.models import AnonymousUser
from django.http import QueryDict
from django.views.debug import get_exception_reporter_filter
from pytest_django import Settings

from django_ws import WebSocketHandler, WebSocketRequest, get_websocket_application, ws_url
from django_ws.testing import HandshakeRejected, WebSocketClient
from django_ws.types import ASGIApplication, Receive, Scope, Send
from tests.support.altered import with_headers, with_scope, without_header
from tests.support.routes import path


class KeepHandler(WebSocketHandler):
    seen: ClassVar[list[WebSocketRequest]] = []

    async def on_connect(self) -> None:
        self.seen.append(self.request)


urlpatterns = [
    path("keep/", KeepHandler, name="keep"),
    path("keep/<path:rest>/", KeepHandler, name="keep-rest"),
]


@pytest.fixture(autouse=True)
def routes(settings: Settings) -> None:
    settings.ROOT_WS_URLCONF = __name__
    KeepHandler.seen.clear()


async def handshake(url: str = "/keep/", **options: Any) -> WebSocketRequest:
    """The request of one handshake, as its handler sees it."""
    async with WebSocketClient(url, **options):
        [request] = KeepHandler.seen
        return request


async def test_method_is_get() -> None:
    assert (await handshake()).method == "GET"


async def test_path_is_that_of_the_url_without_the_query() -> None:
    request = await handshake("/keep/?a=1")
    assert (request.path, request.path_info) == ("/keep/", "/keep/")


async def test_path_is_unquoted() -> None:
    request = await handshake("/keep/caf%C3%A9%20noir/")
    assert request.path == "/keep/café noir/"
    assert request.resolver_match is not None
    assert request.resolver_match.kwargs == {"rest": "café noir"}


async def test_query_is_in_get() -> None:
    request = await handshake("/keep/?a=1&a=2&b=caf%C3%A9&empty=")
    assert QueryDict("a=1&a=2&b=café&empty=") == request.GET
    assert request.GET.getlist("a") == ["1", "2"]


@pytest.mark.parametrize(
    ("query", "value"),
    [(b"q=\xff\xfe", "\ufffd\ufffd"), (b"q=%ff", "\ufffd"), (b"q=caf\xc3\xa9", "café")],
)
async def test_query_of_any_bytes_can_be_read(query: bytes, value: str) -> None:
    request = await handshake(application=with_scope(query_string=query))
    assert request.GET["q"] == value
    assert "QUERY_STRING" in request.META


async def test_cookies_are_read() -> None:
    request = await handshake(cookies={"one": "1", "two": "2"})
    assert request.COOKIES == {"one": "1", "two": "2"}


async def test_cookies_of_several_headers_are_joined() -> None:
    application = with_headers((b"cookie", b"two=2"), (b"Cookie", b"three=3"))
    request = await handshake(cookies={"one": "1"}, application=application)
    assert request.COOKIES == {"one": "1", "two": "2", "three": "3"}


async def test_handshake_without_cookies_has_none() -> None:
    assert (await handshake()).COOKIES == {}


async def test_headers_are_found_whatever_their_case() -> None:
    request = await handshake(headers={"X-Colour": "blue"})
    assert request.headers["x-colour"] == request.headers["X-COLOUR"] == "blue"


async def test_repeated_headers_are_joined() -> None:
    request = await handshake(headers=[("X-Colour", "blue"), ("X-Colour", "red")])
    assert request.headers["X-Colour"] == "blue,red"


async def test_headers_that_are_not_utf8_can_be_read() -> None:
    application = with_headers((b"x-colour", b"caf\xe9\xff"), (b"cookie", b"name=caf\xe9"))
    request = await handshake(application=application)
    assert request.headers["X-Colour"] == "caf\xe9\xff"
    assert request.COOKIES == {"name": "caf\xe9"}


async def test_meta_has_what_views_expect() -> None:
    request = await handshake("/keep/?a=1", headers={"User-Agent": "tests"})
    expected = {
        "REQUEST_METHOD": "GET",
        "QUERY_STRING": "a=1",
        "PATH_INFO": "/keep/",
        "SCRIPT_NAME": "",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_HOST": "127.0.0.1",
        "REMOTE_PORT": 50000,
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "HTTP_HOST": "testserver",
        "HTTP_USER_AGENT": "tests",
    }
    assert {key: request.META.get(key) for key in expected} == expected


async def test_meta_can_be_changed_by_a_middleware() -> None:
    request = await handshake()
    request.META["REMOTE_ADDR"] = "192.0.2.1"
    assert request.META["REMOTE_ADDR"] == "192.0.2.1"


async def test_meta_of_a_server_that_knows_no_addresses() -> None:
    request = await handshake(application=with_scope(client=None, server=None))
    assert "REMOTE_ADDR" not in request.META
    assert request.META["SERVER_NAME"] == "unknown"


async def test_host_is_that_of_the_header() -> None:
    request = await handshake(headers={"host": "localhost:8001"}, origin=None)
    assert request.get_host() == "localhost:8001"
    assert request.get_port() == "80"


async def test_host_is_the_servers_without_the_header() -> None:
    assert (await handshake(application=without_header(b"host"))).get_host() == "testserver"


@pytest.mark.parametrize(("scheme", "secure"), [("ws", False), ("wss", True), ("https", True)])
async def test_wss_is_secure(scheme: str, secure: bool) -> None:
    request = await handshake(application=with_scope(scheme=scheme), origin="https://testserver")
    assert request.is_secure() is secure


async def test_scope_without_a_scheme_is_not_secure() -> None:
    [request] = [WebSocketRequest({"type": "websocket", "path": "/", "headers": []})]
    assert (request.scheme, request.is_secure()) == ("http", False)


@pytest.mark.parametrize(("proto", "secure"), [("https", True), ("http", False), (None, False)])
async def test_secure_proxy_header_decides_where_it_is_set(
    settings: Settings, proto: str | None, secure: bool
) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    headers = {} if proto is None else {"x-forwarded-proto": proto}
    request = await handshake(headers=headers, origin="https://testserver")
    assert request.is_secure() is secure


PROXIED = [
    # What proxies say of a socket, and what Django makes of a list: its first item counts.
    ("wss", True),
    (" wss ", True),
    ("wss, http", True),
    ("wss,ws", True),
    ("https, http", True),
    ("ws", False),
    ("ws, wss", False),
    ("http, https", False),
    ("", False),
    ("wssx", False),
]


@pytest.mark.parametrize(("proto", "secure"), PROXIED)
async def test_secure_proxy_header_may_name_the_scheme_of_the_socket(
    settings: Settings, proto: str, secure: bool
) -> None:
    """As Traefik does."""
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    request = await handshake(headers={"x-forwarded-proto": proto}, origin="https://testserver")
    assert request.is_secure() is secure
    assert request.scheme == ("https" if secure else "http")
    assert ws_url(request, "keep") == f"{'wss' if secure else 'ws'}://testserver/keep/"
    scheme = "https" if secure else "http"
    assert request.build_absolute_uri("/") == f"{scheme}://testserver/"


@pytest.mark.parametrize(("proto", "secure"), PROXIED)
async def test_page_without_tls_may_not_open_a_socket_that_a_proxy_calls_secure(
    settings: Settings, proto: str, secure: bool
) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    headers = {"x-forwarded-proto": proto}
    if secure:
        with pytest.raises(HandshakeRejected) as refused:
            await handshake(headers=headers, origin="http://testserver")
        assert refused.value.status == 403
    else:
        await handshake(headers=headers, origin="http://testserver")


@pytest.mark.parametrize(
    ("proto", "secure"), [("on", True), ("wss", False), ("https", False), ("off", False)]
)
async def test_another_value_for_secure_has_no_scheme_of_sockets(
    settings: Settings, proto: str, secure: bool
) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_SSL", "on")
    request = await handshake(headers={"x-forwarded-ssl": proto}, origin="https://testserver")
    assert request.is_secure() is secure


async def test_secure_proxy_header_is_not_trusted_where_it_is_not_set() -> None:
    assert not (await handshake(headers={"x-forwarded-proto": "https"})).is_secure()


@pytest.mark.parametrize(("scheme", "url"), [("ws", "http"), ("wss", "https")])
async def test_build_absolute_uri_gives_the_address_of_pages(scheme: str, url: str) -> None:
    request = await handshake(
        "/keep/?a=1", application=with_scope(scheme=scheme), origin="https://testserver"
    )
    assert request.build_absolute_uri() == f"{url}://testserver/keep/?a=1"
    assert request.build_absolute_uri("/media/cat.jpg") == f"{url}://testserver/media/cat.jpg"


async def test_get_full_path_has_the_query() -> None:
    assert (await handshake("/keep/?a=1")).get_full_path() == "/keep/?a=1"


async def test_resolver_match_is_that_of_the_route() -> None:
    match = (await handshake()).resolver_match
    assert match is not None
    assert (match.url_name, match.func) == ("keep", KeepHandler)


async def test_user_and_auser_are_there() -> None:
    request = await handshake()
    assert isinstance(request.user, AnonymousUser)
    assert await request.auser() is request.user


async def test_auser_without_a_log_in_middleware_raises(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = []
    request = await handshake()
    with pytest.raises(AttributeError):
        await request.auser()


async def test_body_is_empty() -> None:
    request = await handshake()
    assert (request.body, request.read()) == (b"", b"")


async def test_post_and_files_are_empty() -> None:
    request = await handshake()
    assert QueryDict() == request.POST
    assert not request.FILES


async def test_content_type_is_empty() -> None:
    request = await handshake()
    assert (request.content_type, request.content_params, request.encoding) == ("", {}, None)


async def test_accepted_types_are_known() -> None:
    assert (await handshake(headers={"accept": "text/html"})).accepts("text/html")


async def test_request_has_a_repr() -> None:
    assert repr(await handshake()) == "<WebSocketRequest: GET '/keep/'>"


async def test_scope_is_the_servers_and_unchanged() -> None:
    given: list[tuple[Scope, Any]] = []

    def recording(inner: ASGIApplication) -> ASGIApplication:
        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            given.append((scope, copy.deepcopy(scope)))
            await inner(scope, receive, send)

        return application

    request = await handshake("/keep/?a=1", application=recording(get_websocket_application()))
    _ = request.GET, request.COOKIES, request.META, request.headers, request.user
    [(scope, before)] = given
    assert request.scope is scope
    assert scope == before


async def test_requests_share_no_state() -> None:
    async with WebSocketClient("/keep/?a=1"), WebSocketClient("/keep/?b=2"):
        one, two = KeepHandler.seen
        one.META["X"] = 1
        assert "X" not in two.META
        assert (QueryDict("a=1"), QueryDict("b=2")) == (one.GET, two.GET)


async def test_subprotocol_header_is_hidden_in_error_reports() -> None:
    request = await handshake(subprotocols=["token.secret"])
    meta = get_exception_reporter_filter(request).get_safe_request_meta(request)
    assert "secret" not in str(meta["HTTP_SEC_WEBSOCKET_PROTOCOL"])
    assert meta["HTTP_HOST"] == "testserver"


async def test_error_report_without_a_subprotocol_invents_none() -> None:
    request = await handshake()
    meta = get_exception_reporter_filter(request).get_safe_request_meta(request)
    assert "HTTP_SEC_WEBSOCKET_PROTOCOL" not in meta
