"""Which web pages may open a socket."""

import logging
from typing import Any

import pytest
from pytest_django import Settings

from django_ws import WebSocketHandler
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.altered import with_headers, with_scope, without_header
from tests.support.routes import path


class OpenHandler(WebSocketHandler):
    async def on_open(self) -> None:
        await self.send("open")


urlpatterns = [path("open/", OpenHandler)]
SESSION = {"sessionid": "of-a-victim"}


@pytest.fixture(autouse=True)
def routes(settings: Settings) -> None:
    settings.ROOT_WS_URLCONF = __name__


async def status(origin: str | None, **options: Any) -> int:
    """What the handshake is answered: 101 where the socket opens."""
    try:
        async with WebSocketClient("/open/", origin=origin, **options) as ws:
            assert await ws.receive() == "open"
            return 101
    except HandshakeRejected as refused:
        return refused.status


# Tricks


TRICKS = {
    "another site": "http://evil.example",
    "null": "null",
    "another port": "http://testserver:8000",
    "another secure port": "https://testserver:8443",
    "the other scheme's port": "http://testserver:443",
    "another scheme": "ftp://testserver",
    "a socket's scheme": "ws://testserver",
    "an extension": "chrome-extension://testserver",
    "a file": "file://",
    "a file with a host": "file://testserver",
    "our name as a prefix": "http://testserver.evil.example",
    "our name as a prefix without a dot": "http://testserverevil.example",
    "our name as a suffix": "http://eviltestserver",
    "our name as a subdomain's suffix": "http://evil.testserver",
    "our name in the path": "http://evil.example/testserver",
    "our name in the query": "http://evil.example?http://testserver",
    "our name in the fragment": "http://evil.example#testserver",
    "our name behind a backslash": "http://evil.example\\testserver",
    "upper case": "HTTP://EVIL.EXAMPLE",
    "IPv6": "http://[2001:db8::1]",
    "IPv6 loopback": "http://[::1]",
    "IPv4 as a number": "http://2130706433",
    "a trailing dot": "http://testserver.",
    "a leading dot": "http://.testserver",
    "punycode": "http://xn--tstserver-v3a",
    "a look-alike letter": "http://testserv\xe9r",
    "credentials": "http://user:password@testserver",
    "our name as credentials": "http://testserver@evil.example",
    "our name as a user with our port": "http://testserver:80@evil.example",
    "a trailing slash": "http://testserver/",
    "a path": "http://testserver/page",
    "a leading space": " http://testserver",
    "a trailing space": "http://testserver ",
    "a tab": "http://test\tserver",
    "a newline": "http://testserver\n",
    "a null byte": "http://testserver\x00.evil.example",
    "a percent sign": "http://testserver%00.evil.example",
    "two in one header": "http://testserver, http://evil.example",
    "two in one header with a space": "http://testserver http://evil.example",
    "two ports": "http://testserver:80:80",
    "an empty port": "http://testserver:",
    "a port with letters": "http://testserver:80a",
    "a wildcard": "*",
    "a wildcard host": "http://*",
    "no scheme": "testserver",
    "no scheme but slashes": "//testserver",
    "nothing": "",
    "very long": "http://" + "a" * 100_000,
    "our name and very long": "http://testserver." + "a" * 100_000,
}


@pytest.mark.parametrize("origin", TRICKS.values(), ids=TRICKS.keys())
async def test_trick_is_refused(origin: str) -> None:
    assert await status(origin, cookies=SESSION) == 403


@pytest.mark.parametrize("origin", TRICKS.values(), ids=TRICKS.keys())
async def test_trick_is_refused_by_an_explicit_list_too(settings: Settings, origin: str) -> None:
    settings.WS_ALLOWED_ORIGINS = ["http://testserver"]
    assert await status(origin, cookies=SESSION) == 403


@pytest.mark.parametrize(
    "origins",
    [
        (b"http://testserver", b"http://testserver"),
        (b"http://testserver", b"http://evil.example"),
        (b"http://evil.example", b"http://testserver"),
    ],
)
async def test_several_origin_headers_are_refused(origins: tuple[bytes, ...]) -> None:
    headers = [(b"origin", origin) for origin in origins]
    assert await status(None, application=with_headers(*headers)) == 403


async def test_origin_is_found_whatever_the_case_of_its_header_name() -> None:
    assert await status(None, application=with_headers((b"Origin", b"http://evil.example"))) == 403


async def test_origin_of_bytes_that_are_not_utf8_is_refused() -> None:
    assert await status(None, application=with_headers((b"origin", b"http://\xff\xfe"))) == 403


async def test_handshake_without_an_origin_is_no_browsers_and_allowed() -> None:
    assert await status(None) == 101


@pytest.mark.django_db(transaction=True)
async def test_handshake_without_an_origin_but_with_a_cookie_is_allowed() -> None:
    assert await status(None, cookies=SESSION) == 101


# The site's own pages


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://testserver", "testserver"),
        ("http://testserver:80", "testserver"),
        ("http://testserver", "testserver:80"),
        ("https://testserver", "testserver"),
        ("https://testserver:443", "testserver"),
        ("https://testserver", "testserver:443"),
        ("http://testserver:8000", "testserver:8000"),
        ("HTTP://TestServer", "testserver"),
        ("http://testserver", "TESTSERVER"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
    ],
)
async def test_own_host_and_port_are_allowed(origin: str, host: str) -> None:
    assert await status(origin, headers={"host": host}) == 101


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://testserver", "testserver:8000"),
        ("http://testserver", "testserver:443"),
        ("https://testserver", "testserver:80"),
        ("http://localhost:8000", "127.0.0.1:8000"),
    ],
)
async def test_another_port_or_name_of_the_same_machine_is_refused(origin: str, host: str) -> None:
    assert await status(origin, headers={"host": host}) == 403


@pytest.mark.parametrize(
    ("origin", "answer"), [("https://testserver", 101), ("http://testserver", 403)]
)
async def test_page_without_tls_may_not_open_a_secure_socket(origin: str, answer: int) -> None:
    assert await status(origin, application=with_scope(scheme="wss")) == answer


@pytest.mark.parametrize(
    ("origin", "answer"), [("https://testserver", 101), ("http://testserver", 403)]
)
@pytest.mark.parametrize("name", ["HTTP_X_FORWARDED_PROTO", "HTTP_X_SCHEME"])
async def test_proxy_may_say_that_the_socket_is_secure(
    settings: Settings, name: str, origin: str, answer: int
) -> None:
    settings.SECURE_PROXY_SSL_HEADER = (name, "https")
    header = name.removeprefix("HTTP_").replace("_", "-").lower()
    assert await status(origin, headers={header: "https"}) == answer


async def test_proxy_header_that_no_setting_names_is_not_believed() -> None:
    assert await status("http://testserver", headers={"x-forwarded-proto": "https"}) == 101


# The Host header


@pytest.mark.parametrize("origin", [None, "http://testserver", "http://evil.example"])
async def test_bad_host_is_answered_400(origin: str | None) -> None:
    assert await status(origin, headers={"host": "evil.example"}) == 400


@pytest.mark.parametrize("host", ["", "evil example", "testserver@evil.example", "testserver, x"])
async def test_host_that_is_none_is_answered_400(host: str) -> None:
    assert await status(f"http://{host}", headers={"host": host}) == 400


async def test_two_host_headers_are_answered_400() -> None:
    application = with_headers((b"host", b"evil.example"))
    assert await status("http://evil.example", application=application) == 400


async def test_without_a_host_header_the_servers_name_counts() -> None:
    assert await status("http://testserver", application=without_header(b"host")) == 101


async def test_bad_host_is_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    await status(None, headers={"host": "evil.example"})
    [record] = [record for record in caplog.records if record.name == "django.ws.request"]
    assert record.levelname == "WARNING"
    assert "400" in record.getMessage()
    assert "evil.example" in record.getMessage()
    assert "ALLOWED_HOSTS" in record.getMessage()


async def test_forwarded_host_counts_where_the_setting_says_so(settings: Settings) -> None:
    settings.USE_X_FORWARDED_HOST = True
    settings.ALLOWED_HOSTS = ["www.example.com"]
    headers = {"host": "10.0.0.1", "x-forwarded-host": "www.example.com"}
    assert await status("https://www.example.com", headers=headers) == 101


async def test_forwarded_host_does_not_count_otherwise(settings: Settings) -> None:
    settings.ALLOWED_HOSTS = ["*"]
    headers = {"host": "testserver", "x-forwarded-host": "evil.example"}
    assert await status("http://evil.example", headers=headers) == 403


# Settings


@pytest.mark.parametrize(
    ("origin", "answer"),
    [
        ("https://app.example.com", 101),
        ("https://deep.app.example.com", 101),
        ("https://example.com", 101),
        ("https://APP.example.com", 101),
        ("https://app.example.com:443", 101),
        ("http://app.example.com", 403),
        ("https://app.example.com:8443", 403),
        ("https://evilexample.com", 403),
        ("https://app.example.com.evil.example", 403),
        ("https://other.example:8443", 101),
        ("https://other.example", 403),
        ("https://sub.other.example:8443", 403),
    ],
)
async def test_csrf_trusted_origins_are_allowed(
    settings: Settings, origin: str, answer: int
) -> None:
    settings.CSRF_TRUSTED_ORIGINS = ["https://*.example.com", "https://other.example:8443"]
    assert await status(origin) == answer


LOCAL = ["http://localhost:3000", "http://127.0.0.1:5173", "https://[::1]:8443", "http://LOCALHOST"]


@pytest.mark.parametrize("origin", LOCAL)
async def test_local_pages_are_allowed_with_debug(settings: Settings, origin: str) -> None:
    settings.DEBUG = True
    assert await status(origin) == 101


@pytest.mark.parametrize("origin", LOCAL)
async def test_local_pages_are_refused_without_debug(origin: str) -> None:
    assert await status(origin) == 403


@pytest.mark.parametrize(
    "origin", ["http://localhost.evil.example", "http://evil.example", "http://127.0.0.2"]
)
async def test_other_pages_are_refused_with_debug(settings: Settings, origin: str) -> None:
    settings.DEBUG = True
    assert await status(origin) == 403


@pytest.mark.parametrize(
    ("origin", "answer"),
    [
        ("https://app.example.com", 101),
        ("https://App.Example.com:443", 101),
        ("https://other.example:8443", 101),
        ("https://testserver", 403),
        ("http://testserver", 403),
        ("https://trusted.example", 403),
        ("http://localhost:3000", 403),
        ("https://sub.app.example.com", 403),
        (None, 101),
    ],
)
async def test_explicit_list_allows_exactly_what_it_names(
    settings: Settings, origin: str | None, answer: int
) -> None:
    settings.WS_ALLOWED_ORIGINS = ["https://app.example.com", "https://other.example:8443"]
    settings.CSRF_TRUSTED_ORIGINS = ["https://trusted.example"]
    settings.DEBUG = True
    assert await status(origin) == answer


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "file://", "http://testserver"])
async def test_star_allows_all(settings: Settings, origin: str) -> None:
    settings.WS_ALLOWED_ORIGINS = ["*"]
    assert await status(origin) == 101


async def test_empty_list_refuses_every_browser(settings: Settings) -> None:
    settings.WS_ALLOWED_ORIGINS = []
    assert await status("http://testserver") == 403


async def test_check_runs_whatever_the_middleware_are(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = []
    assert await status("http://evil.example") == 403


async def test_check_runs_before_the_routes() -> None:
    with pytest.raises(HandshakeRejected) as refused:
        await WebSocketClient("/no/such/route/", origin="http://evil.example").__aenter__()
    assert refused.value.status == 403


async def test_refused_page_learns_nothing_but_the_status(settings: Settings) -> None:
    settings.DEBUG = True
    with pytest.raises(HandshakeRejected) as refused:
        await WebSocketClient("/open/", origin="http://evil.example").__aenter__()
    assert refused.value.reason == ""


# The log


@pytest.mark.parametrize(
    ("explicit", "cure"),
    [
        (None, "CSRF_TRUSTED_ORIGINS or WS_ALLOWED_ORIGINS"),
        (["https://a.example"], "to WS_ALLOWED_ORIGINS"),
    ],
)
async def test_refusal_is_one_warning_naming_origin_host_and_setting(
    settings: Settings, caplog: pytest.LogCaptureFixture, explicit: list[str] | None, cure: str
) -> None:
    settings.WS_ALLOWED_ORIGINS = explicit
    await status("http://evil.example")
    [record] = [record for record in caplog.records if record.levelno >= logging.INFO]
    assert (record.name, record.levelname) == ("django.ws.request", "WARNING")
    assert record.exc_info is None
    for part in ("/open/", "403", "'http://evil.example'", "'testserver'", cure):
        assert part in record.getMessage()


async def test_very_long_origin_is_cut_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    await status("http://" + "a" * 100_000)
    [record] = caplog.get_records("call")
    assert len(record.getMessage()) < 500


async def test_origin_cannot_forge_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    await status("http://evil.example\nERROR: all is lost")
    [record] = caplog.get_records("call")
    assert "\n" not in record.getMessage()
