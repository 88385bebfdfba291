"""Whose connection it is, behind proxies that are trusted and those that are not."""

import logging
import time
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from django_ws import WebSocketHandler, conf
from django_ws.conf.trusted_proxies import TrustedProxies, client_address, parse_trusted_proxies
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.altered import with_headers, with_scope
from tests.support.asgi_peer import PATH, route

PROXY = "10.0.0.1"
PROXIES = ["10.0.0.0/8", "2001:db8:aaaa::/48", "unix"]


def address(
    peer: Any,
    *headers: str | bytes,
    trusted: list[str] = PROXIES,
    name: bytes = b"x-forwarded-for",
) -> str | None:
    """The client's address for a peer and its X-Forwarded-For headers."""
    raw = [(name, value if isinstance(value, bytes) else value.encode()) for value in headers]
    client = peer if peer is None else (peer, 1234)
    scope = {"client": client, "headers": [(b"host", b"testserver"), *raw]}
    return client_address(scope, parse_trusted_proxies(trusted))


# --- the peer -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::1"),
        (None, None),
        ("", None),
        ("testclient", None),
        ("/run/site.sock", None),
        (b"203.0.113.7", None),
        (5, None),
    ],
)
def test_without_proxies_it_is_the_peer(peer: Any, expected: str | None) -> None:
    assert address(peer, trusted=[]) == expected
    assert address(peer, "198.51.100.1", trusted=[]) == expected


def test_a_scope_without_a_client_has_no_address() -> None:
    assert client_address({"headers": []}, TrustedProxies()) is None


# --- the header ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], PROXY),
        (["203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7"], "203.0.113.7"),
        (["198.51.100.1, 203.0.113.7, 10.9.9.9"], "203.0.113.7"),
        (["198.51.100.1,203.0.113.7,10.9.9.9,2001:db8:aaaa::5"], "203.0.113.7"),
        (["10.9.9.9, 10.8.8.8"], "10.9.9.9"),
        (["198.51.100.1", "203.0.113.7"], "203.0.113.7"),
        (["203.0.113.7", "10.9.9.9"], "203.0.113.7"),
        (["203.0.113.7:4567"], "203.0.113.7"),
        (["[2001:db8::1]:4567"], "2001:db8::1"),
        (["[2001:db8::1]"], "2001:db8::1"),
        (["2001:DB8::1"], "2001:db8::1"),
        (["::ffff:203.0.113.7"], "203.0.113.7"),
        (["[::ffff:10.2.2.2]:1, "], PROXY),
        (["203.0.113.7, ::ffff:10.2.2.2"], "203.0.113.7"),
        ([" \t203.0.113.7\t "], "203.0.113.7"),
    ],
)
def test_the_first_from_the_right_that_is_not_trusted_wins(
    headers: list[str], expected: str
) -> None:
    assert address(PROXY, *headers) == expected


@pytest.mark.parametrize(
    "junk",
    [
        "", "unknown", "_hidden", "evil.example", "203.0.113.7x", "203.0.113", "203.0.113.256",
        "203.0.113.07", "203.0.113.7:", "203.0.113.7:999999", "203.0.113.7:x", "[::1", "::1]",
        "[]", "[::1]:", "[::1]x", ":::", "1.2.3.4.5", "3405803783", "0x7f.1", "fe80::1%eth0",
        '"203.0.113.7"', "203.0.113.7/32", "203.0.113.7 10.0.0.1", "\u0662.0.113.7", "2\n3", "\x00",
        "203.0.113.7\r\nERROR forged",
    ],
)  # fmt: skip
def test_the_reading_ends_at_what_is_no_address(junk: str) -> None:
    assert address(PROXY, f"203.0.113.9, {junk}, 10.9.9.9") == "10.9.9.9"
    assert address(PROXY, f"203.0.113.9, {junk}") == PROXY


def test_a_peer_that_is_not_trusted_cannot_name_another() -> None:
    assert address("203.0.113.7", "198.51.100.1") == "203.0.113.7"


def test_a_client_cannot_hide_behind_addresses_of_proxies() -> None:
    forged = "198.51.100.1, 10.0.0.1, 10.0.0.2"
    assert address(PROXY, f"{forged}, 203.0.113.7") == "203.0.113.7"


def test_the_name_of_the_header_may_have_any_case() -> None:
    assert address(PROXY, "203.0.113.7", name=b"X-Forwarded-For") == "203.0.113.7"


@pytest.mark.parametrize("name", [b"forwarded", b"x-real-ip", b"x_forwarded_for", b"x-forwarded"])
def test_no_other_header_is_read(name: bytes) -> None:
    assert address(PROXY, "203.0.113.7", name=name) == PROXY


def test_a_header_that_is_not_ascii_harms_nothing() -> None:
    assert address(PROXY, b"203.0.113.7, \xff\xfe") == PROXY


@pytest.mark.parametrize(
    ("trusted", "expected"), [(["unix"], "203.0.113.7"), ([PROXY], None), ([], None)]
)
@pytest.mark.parametrize("peer", [None, "", "/run/site.sock"])
def test_a_proxy_on_a_unix_socket_is_trusted_by_its_name(
    peer: str | None, trusted: list[str], expected: str | None
) -> None:
    assert address(peer, "203.0.113.7", trusted=trusted) == expected


def test_a_very_long_list_is_read_to_a_bound_alone() -> None:
    began = time.thread_time()
    for _ in range(100):
        assert address(PROXY, ",".join(["10.1.1.1"] * 8000)) == "10.1.1.1"
    assert time.thread_time() - began < 1.0


@given(header=st.text(alphabet="0123456789abf.:[], \t%-\n") | st.text(), peer=st.ip_addresses())
def test_no_header_raises_and_every_result_is_an_address(header: str, peer: Any) -> None:
    everybody = TrustedProxies(parse_trusted_proxies(["0.0.0.0/1", "128.0.0.0/1"]).networks, True)
    scope = {
        "client": (str(peer), 1),
        "headers": [(b"x-forwarded-for", header.encode("utf-8", "replace"))],
    }
    found = client_address(scope, everybody)
    assert found is not None
    assert set(found) <= set("0123456789abcdef.:")


# --- the setting --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "peer", "trusts"),
    [
        (["10.0.0.1"], "10.0.0.1", True),
        (["10.0.0.1"], "10.0.0.2", False),
        (("10.0.0.0/24",), "10.0.0.255", True),
        (["10.0.0.0/24"], "10.0.1.0", False),
        (["::1"], "::1", True),
        (["::1"], "127.0.0.1", False),
        (["127.0.0.1"], "::1", False),
        (["2001:db8::/32"], "2001:db8:ffff::1", True),
        (["::ffff:10.0.0.0/104"], "10.1.2.3", True),
        (["::ffff:10.0.0.1"], "10.0.0.2", False),
        (["::10.0.0.1"], "10.0.0.1", False),
        (["unix"], "10.0.0.1", False),
        ([], "10.0.0.1", False),
    ],
)
def test_a_proxy_is_trusted(value: Any, peer: str, trusts: bool) -> None:
    expected = "203.0.113.7" if trusts else address(peer, trusted=[])
    assert address(peer, "203.0.113.7", trusted=value) == expected


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("10.0.0.1", "is not a list"),
        (None, "is not a list"),
        ({"10.0.0.1"}, "is not a list"),
        ([10], "10 is not a str"),
        ([None], "None is not a str"),
        ([b"10.0.0.1"], "is not a str"),
        (["proxy.example"], "neither an address nor a network"),
        (["10.0.0.1/8"], "has host bits set"),
        (["10.0.0.0/33"], "neither an address nor a network"),
        (["*"], "neither an address nor a network"),
        (["10.0.0.1:80"], "neither an address nor a network"),
        ([""], "neither an address nor a network"),
        (["0.0.0.0/0"], "holds every address"),
        (["unix", "::/0"], "holds every address"),
    ],
)
def test_a_wrong_setting_is_named_with_the_cure(settings: Settings, value: Any, says: str) -> None:
    settings.WS_TRUSTED_PROXIES = value
    with pytest.raises(ImproperlyConfigured) as caught:
        conf.get()
    assert str(caught.value).startswith("WS_TRUSTED_PROXIES: ")
    assert says in str(caught.value)
    assert "'10.1.0.0/16'" in str(caught.value)


# --- where it is used ---------------------------------------------------------------------------


class Shows(WebSocketHandler):
    async def on_open(self) -> None:
        await self.send([self.request.client_address, self.request.is_secure()])


async def shown(*headers: tuple[bytes, bytes], **scope: Any) -> Any:
    async def application(given: Any, receive: Any, send: Any) -> None:
        await with_headers(*headers)({**given, **scope}, receive, send)

    with route(Shows):
        async with WebSocketClient(PATH, application=application) as ws:
            return (await ws.receive())[0]


async def test_the_request_tells_it(settings: Settings) -> None:
    header = (b"x-forwarded-for", b"203.0.113.7")
    assert await shown(header) == "127.0.0.1"
    settings.WS_TRUSTED_PROXIES = ["127.0.0.1"]
    assert await shown(header) == "203.0.113.7"
    assert await shown(header, client=None) is None


@pytest.mark.parametrize(
    ("path", "origin", "message"),
    [(PATH, "http://evil.example", "evil.example"), ("/nowhere/", None, "no route")],
)
async def test_the_log_names_the_client_of_a_refused_handshake(
    path: str,
    origin: str | None,
    message: str,
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "django.ws.request")
    settings.WS_TRUSTED_PROXIES = ["127.0.0.1"]
    application = with_headers((b"x-forwarded-for", b"forged\r\nERROR x\x1b[2J, 203.0.113.7"))
    with route(Shows), pytest.raises(HandshakeRejected):
        async with WebSocketClient(path, origin=origin, application=application):
            pass
    [line] = caplog.messages
    assert message in line
    assert line.endswith("(client 203.0.113.7)")
    assert line.isprintable()
    assert "forged" not in line


async def test_the_log_says_so_where_the_client_is_not_known(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with route(Shows), pytest.raises(HandshakeRejected):
        async with WebSocketClient(
            PATH, origin="http://evil.example", application=with_scope(client=None)
        ):
            pass
    assert caplog.messages[0].endswith("(client unknown)")


# --- wss behind a proxy -------------------------------------------------------------------------

HTTPS = (b"x-forwarded-proto", b"https")


async def secure(*headers: tuple[bytes, bytes], origin: str | None) -> bool | int:
    """Whether the request is secure, or the status of the refusal."""
    with route(Shows):
        try:
            async with WebSocketClient(
                PATH, origin=origin, application=with_headers(*headers)
            ) as ws:
                is_secure: bool = (await ws.receive())[1]
                return is_secure
        except HandshakeRejected as refused:
            return refused.status


async def test_wss_is_recognised_by_the_header_that_the_setting_names(settings: Settings) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert await secure(HTTPS, origin="https://testserver") is True
    assert await secure((b"X-Forwarded-Proto", b"https"), origin="https://testserver") is True
    assert await secure(origin="http://testserver") is False
    assert await secure((b"x-forwarded-proto", b"http"), origin="http://testserver") is False


async def test_an_insecure_page_may_not_open_sockets_where_the_proxy_speaks_tls(
    settings: Settings,
) -> None:
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert await secure(HTTPS, origin="http://testserver") == 403


async def test_a_clients_own_header_changes_nothing_without_the_setting() -> None:
    assert await secure(HTTPS, origin="http://testserver") is False
    assert await secure(HTTPS, origin=None) is False
