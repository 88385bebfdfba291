"""Headers that a handler adds to the accept, and those that cannot be sent."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from django_ws import Reject, WebSocketHandler
from tests.support.asgi_peer import Peer, until

HTTP: dict[str, Any] = {"websocket.http.response": {}}


def adds(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        ws.accept_headers = [*ws.accept_headers, ("X-Middleware", "yes")]
        await func(ws)

    return middleware


async def test_the_class_a_middleware_and_on_connect_may_add_some() -> None:
    class Handler(WebSocketHandler):
        accept_headers: Sequence[tuple[str, str]] = (("X-Version", "2"),)

        async def on_connect(self) -> None:
            self.accept_headers = [*self.accept_headers, ("Set-Cookie", "seen=é; Path=/")]

    async with Peer(Handler, middleware=[f"{__name__}.adds"]) as peer:
        [accept] = peer.sent
        assert accept["headers"] == [
            (b"x-version", b"2"),
            (b"x-middleware", b"yes"),
            (b"set-cookie", b"seen=\xe9; Path=/"),
        ]


async def test_without_any_the_event_is_as_it_was() -> None:
    async with Peer(WebSocketHandler) as peer:
        assert peer.sent == [{"type": "websocket.accept"}]


async def test_the_early_accept_of_a_log_in_by_the_first_message_has_them_too() -> None:
    class Handler(WebSocketHandler):
        accept_headers = (("X-Version", "2"),)

        async def authenticate_first(self, message: Any) -> None: ...

    async with Peer(Handler) as peer:
        assert peer.sent[0]["headers"] == [(b"x-version", b"2")]


@pytest.mark.parametrize(
    ("headers", "text"),
    [
        ([("X-Version", 2)], "('X-Version', 2) is not a pair of str"),
        ([("X-Version",)], "('X-Version',) is not a pair of str"),
        (["X-Version: 2"], "'X-Version: 2' is not a pair of str"),
        ([("", "2")], "'': '2' cannot be sent"),
        ([("X-Split", "a\r\nSet-Cookie: b")], "cannot be sent"),
        ([("X-Far", "\u20ac")], "cannot be sent"),
        ([("Sec-WebSocket-Protocol", "chat")], "'Sec-WebSocket-Protocol' is the server's own"),
    ],
)
@pytest.mark.parametrize("first", [False, True], ids=["handshake", "first message"])
async def test_what_cannot_be_sent_refuses_with_500_and_words(
    headers: Any, text: str, first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(WebSocketHandler):
        accept_headers = headers

    if first:

        async def authenticate_first(self: Any, message: Any) -> None: ...

        Handler.authenticate_first = authenticate_first  # type: ignore[method-assign]
        Handler.__init_subclass__()
    Last: Any = type("Last", (Handler,), {})
    async with Peer(Last, opens=False, extensions=HTTP) as peer:
        await until(lambda: peer.sent)
        assert peer.sent[0].get("status") == 500
    assert "Last.accept_headers: " in caplog.text
    assert text in caplog.text


@pytest.mark.parametrize("headers", [[("X", 2)], [("X", "a\nb")], [("sec-websocket-accept", "x")]])
def test_a_rejection_is_as_strict(headers: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"Reject\(headers=...\)"):
        Reject(403, headers=headers)
