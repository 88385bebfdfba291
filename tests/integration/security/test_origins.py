"""Pages of other sites, with the cookie of somebody who is logged in."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.auth.models import User

from django_ws import WebSocketHandler
from django_ws.auth import LoginRequiredMixin
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.altered import with_headers
from tests.support.asgi_peer import route
from tests.support.output import listening
from tests.support.raw import RawClient
from tests.support.servers import Server
from tests.support.ways import session
from tests.unit.test_origin import TRICKS

OWN = b"http://testserver"
SEVERAL = {
    "ours twice": (OWN, OWN),
    "ours and another": (OWN, b"http://evil.example"),
    "another and ours": (b"http://evil.example", OWN),
    "ours and null": (OWN, b"null"),
}
opened: list[WebSocketHandler] = []


class Private(LoginRequiredMixin, WebSocketHandler):
    async def on_connect(self) -> None:
        opened.append(self)


@pytest.fixture
def cookies(db: None) -> dict[str, str]:
    opened.clear()
    return {"sessionid": session(User.objects.create_user("alice"))}


def attempt(**options: Any) -> tuple[int, str, list[str]]:
    """Status, body, and the warnings of the log."""
    with route(Private), listening() as output:
        try:
            with WebSocketClient("/ws/", **options):
                return 101, "", output.logged("WARNING")
        except HandshakeRejected as refused:
            return refused.status, refused.reason, output.logged("WARNING")


@pytest.mark.parametrize("origin", TRICKS.values(), ids=TRICKS)
def test_no_other_origin_gets_in(origin: str, cookies: dict[str, str]) -> None:
    status, body, warnings = attempt(origin=origin, cookies=cookies)
    assert (status, body, opened) == (403, "", [])
    [warning] = warnings
    assert warning.startswith("WebSocket /ws/ refused with 403: the origin ")
    assert cookies["sessionid"] not in warning


@pytest.mark.parametrize("origins", SEVERAL.values(), ids=SEVERAL)
def test_no_page_with_several_origins_gets_in(
    origins: tuple[bytes, ...], cookies: dict[str, str]
) -> None:
    application = with_headers(*((b"origin", origin) for origin in origins))
    assert attempt(origin=None, application=application, cookies=cookies)[:2] == (403, "")
    assert opened == []


@pytest.mark.parametrize("origin", [OWN.decode(), None], ids=["own page", "no browser"])
def test_the_own_page_and_who_is_no_browser_get_in(
    origin: str | None, cookies: dict[str, str]
) -> None:
    """No page can leave the header out: a program that has the cookie could send any origin."""
    assert attempt(origin=origin, cookies=cookies) == (101, "", [])
    assert len(opened) == 1


# On a real server, which may read a header differently

ON_THE_WIRE = [
    [("Origin", origin)]
    for origin in TRICKS.values()
    if len(origin) < 5000 and not {*origin} & {*"\n\0"}
] + [
    [("Origin", "http://{host}"), ("Origin", "http://evil.example")],
    [("Origin", "http://{host}"), ("origin", "http://{host}")],
    [("Origin", "http://{host}\r\n\thttp://evil.example")],
    [("oRiGiN", "http://evil.example")],
    [("Origin", "http://evil.example"), ("Host", "{host}")],
]


@pytest.mark.django_db(transaction=True)
def test_no_other_origin_gets_in_on_the_wire(attacked: Server) -> None:
    host = f"127.0.0.1:{attacked.port}"
    cookie = f"sessionid={session(User.objects.create_user('alice'))}"

    def status(*headers: tuple[str, str]) -> int:
        raw = [(name.encode(), value.replace("{host}", host).encode("latin-1"))
               for name, value in headers]  # fmt: skip
        with RawClient(attacked.port, b"/private/", [(b"Cookie", cookie.encode()), *raw]) as client:
            return client.status()

    # 400: the server itself takes no such header, or not twice the same.
    answers = {repr(headers): status(*headers) for headers in ON_THE_WIRE}
    assert {name: got for name, got in answers.items() if got not in (400, 403)} == {}
    assert list(answers.values()).count(400) < 5
    assert status(("Origin", f"http://{host}")) == status() == 101
