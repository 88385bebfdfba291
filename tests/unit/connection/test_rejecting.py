"""Refusing a handshake in middleware or on_connect: what the client sees and what does not run."""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from django.core.exceptions import (
    BadRequest,
    PermissionDenied,
    SuspiciousOperation,
    TooManyFieldsSent,
)
from django.core.signals import got_request_exception
from django.http import Http404
from pytest_django import Settings

from django_ws import Reject, WebSocketHandler, abroadcast
from django_ws.exceptions import StateError
from django_ws.testing import HandshakeRejected
from tests.support.asgi_peer import Event, Peer, client, until

HTTP: dict[str, Any] = {"websocket.http.response": {}}
WHILE_OPEN = [
    *("on_open", "on_message", "on_bytes", "on_decode_error", "on_rate_limited", "on_broadcast"),
]

rejecting: list[Callable[[Any], Awaitable[None]]] = []  # what the middleware below does


def rejects(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        await rejecting[0](ws)

    return middleware


def rejects_and_goes_on(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        await rejecting[0](ws)
        await func(ws)

    return middleware


def forgets(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None: ...

    return middleware


def fails_after(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        await func(ws)
        await rejecting[0](ws)

    return middleware


class Recording(WebSocketHandler):
    """Records which hooks ran."""

    ran: list[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.ran = []

    async def on_connect(self) -> None:
        self.ran.append("on_connect")

    async def on_open(self) -> None:
        self.ran.append("on_open")

    async def on_close(self) -> None:
        self.ran.append("on_close")

    async def on_error(self, error: BaseException) -> None:
        self.ran.append("on_error")


def rejecting_handler(rejection: Callable[[Any], Awaitable[None]]) -> type[Recording]:
    class Handler(Recording):
        async def on_connect(self) -> None:
            await rejection(self)
            self.ran.append("after the rejection")

    return Handler


def raising(error: Exception) -> Callable[[Any], Awaitable[None]]:
    async def rejection(handler: Any) -> None:
        raise error

    return rejection


async def by_method(handler: Any) -> None:
    await handler.reject(429, "slow down", [("Retry-After", "5")])


async def without_await(handler: Any) -> None:
    handler.reject(429, "slow down", [("Retry-After", "5")])


REJECTIONS: list[tuple[Callable[[Any], Awaitable[None]], int, str]] = [
    (by_method, 429, "slow down"),
    (without_await, 429, "slow down"),
    (raising(Reject(429, "slow down")), 429, "slow down"),
    (raising(Reject()), 403, ""),
    (raising(PermissionDenied()), 403, ""),
    (raising(Http404()), 404, ""),
]
IDS = ["reject()", "reject() not awaited", "Reject(429)", "Reject()", "PermissionDenied", "Http404"]
each_rejection = pytest.mark.parametrize(("rejection", "status", "reason"), REJECTIONS, ids=IDS)


@each_rejection
async def test_a_rejection_in_on_connect(
    rejection: Callable[[Any], Awaitable[None]], status: int, reason: str
) -> None:
    with pytest.raises(HandshakeRejected) as caught:
        async with client(rejecting_handler(rejection)):
            pass
    assert (caught.value.status, caught.value.reason) == (status, reason)


@each_rejection
@pytest.mark.parametrize("middleware", ["rejects", "rejects_and_goes_on"])
async def test_a_rejection_in_middleware(
    rejection: Callable[[Any], Awaitable[None]], status: int, reason: str, middleware: str
) -> None:
    class Handler(Recording):
        pass

    rejecting[:] = [rejection]
    with pytest.raises(HandshakeRejected) as caught:
        async with client(Handler, middleware=[f"{__name__}.{middleware}"]):
            pass
    assert (caught.value.status, caught.value.reason) == (status, reason)
    assert Handler.ran == []


@each_rejection
async def test_a_rejection_is_no_error(
    rejection: Callable[[Any], Awaitable[None]],
    status: int,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(HandshakeRejected):
        async with client(rejecting_handler(rejection)):
            pass
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_the_hook_runs_on_after_reject_but_nothing_opens() -> None:
    handler_class = rejecting_handler(by_method)
    async with Peer(handler_class, opens=False, extensions=HTTP) as peer:
        await peer.ended()
        assert handler_class.ran == ["after the rejection"]
        assert [event["type"] for event in peer.sent] == [
            "websocket.http.response.start", "websocket.http.response.body",
        ]  # fmt: skip


async def test_raising_ends_the_hook() -> None:
    handler_class = rejecting_handler(raising(Reject(403)))
    async with Peer(handler_class, opens=False) as peer:
        await peer.ended()
        assert handler_class.ran == []


async def test_the_response_has_the_headers_given_and_those_of_its_body() -> None:
    async with Peer(rejecting_handler(by_method), opens=False, extensions=HTTP) as peer:
        await peer.ended()
        start, body = peer.sent
        assert dict(start["headers"]) == {
            b"content-type": b"text/plain; charset=utf-8",
            b"content-length": b"9",
            b"retry-after": b"5",
        }
        assert body["body"] == b"slow down"


async def test_content_length_counts_bytes() -> None:
    handler_class = rejecting_handler(raising(Reject(403, "é")))
    async with Peer(handler_class, opens=False, extensions=HTTP) as peer:
        await peer.ended()
        assert (b"content-length", b"2") in peer.sent[0]["headers"]


@pytest.mark.parametrize("extensions", [None, {}])
async def test_a_server_without_the_extension_is_told_to_close(
    extensions: dict[str, Any] | None,
) -> None:
    handler_class = rejecting_handler(by_method)
    async with Peer(handler_class, opens=False, extensions=extensions) as peer:
        await peer.ended()
        assert peer.sent == [{"type": "websocket.close", "code": 1000}]


async def test_the_first_rejection_counts() -> None:
    async def twice(handler: Any) -> None:
        await handler.reject(404)
        await handler.reject(401)
        raise Reject(429)

    with pytest.raises(HandshakeRejected) as caught:
        async with client(rejecting_handler(twice)):
            pass
    assert caught.value.status == 404


async def test_the_state_after_a_rejection() -> None:
    async with Peer(rejecting_handler(by_method), opens=False) as peer:
        await peer.ended()
        handler = peer.handler
        assert (handler.connected, handler.closed, handler.close_code) == (False, True, 1006)


@pytest.mark.parametrize("status", [0, 200, 302, 399, 600])
async def test_a_status_that_is_no_error_is_a_value_error(status: int) -> None:
    caught: list[Exception] = []

    async def wrong(handler: Any) -> None:
        try:
            handler.reject(status)
        except ValueError as error:
            caught.append(error)

    async with client(rejecting_handler(wrong)):
        pass
    assert str(status) in str(caught[0])


async def test_reject_after_the_accept_is_a_state_error() -> None:
    async with Peer(WebSocketHandler) as peer:
        with pytest.raises(StateError, match="after the accept"):
            peer.handler.reject()


async def test_a_sync_on_connect_may_reject() -> None:
    class Handler(WebSocketHandler):
        def on_connect(self) -> None:
            self.reject(401, "who?")

    with pytest.raises(HandshakeRejected) as caught:
        async with client(Handler):
            pass
    assert (caught.value.status, caught.value.reason) == (401, "who?")


async def test_a_sync_on_connect_may_raise() -> None:
    class Handler(WebSocketHandler):
        def on_connect(self) -> None:
            raise PermissionDenied

    with pytest.raises(HandshakeRejected) as caught:
        async with client(Handler):
            pass
    assert caught.value.status == 403


async def test_a_middleware_that_does_nothing_refuses_with_403_and_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(HandshakeRejected) as caught:
        async with client(WebSocketHandler, middleware=[f"{__name__}.forgets"]):
            pass
    assert caught.value.status == 403
    assert "neither called the next one nor rejected" in caplog.messages[0]


async def test_reject_in_on_connect_from_a_task_wins_over_the_hook_that_goes_on() -> None:
    class Handler(Recording):
        async def on_connect(self) -> None:
            self.start_task("check", self.check)
            await asyncio.Event().wait()

        async def check(self) -> None:
            await self.reject(401)

    async with Peer(Handler, opens=False, extensions=HTTP) as peer:
        await until(lambda: peer.sent)
        assert peer.sent[0]["status"] == 401
        peer.task.cancel()
        await asyncio.wait([peer.task])


# --- after the accept -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (Reject(401, "log in"), 4401, "log in"),
        (Reject(403), 4403, ""),
        (Reject(429), 4429, ""),
        (Reject(418), 4418, ""),
        (Reject(500), 1011, ""),
        (PermissionDenied("no"), 4403, ""),
        (Http404("no"), 4404, ""),
        (BadRequest("no"), 4400, "Bad Request"),
        (SuspiciousOperation("no"), 4400, "Bad Request"),
        (TooManyFieldsSent("no"), 4400, "Bad Request"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", WHILE_OPEN)
async def test_a_refusal_in_a_later_hook_closes_with_its_code_and_is_no_error(
    name: str, error: Exception, code: int, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    reported: list[Any] = []

    def note(**told: Any) -> None:
        reported.append(told)

    got_request_exception.connect(note)

    async def hook(self: Any, *args: Any) -> None:
        raise error

    Handler: Any = type(
        "Handler", (WebSocketHandler,), {"topics": ["a"], "rate_limit": "2/h", name: hook}
    )
    async with Peer(Handler) as peer:
        match name:
            case "on_bytes":
                peer.feed({"type": "websocket.receive", "bytes": b"1"})
            case "on_decode_error":
                peer.say("{")
            case "on_broadcast":
                await abroadcast("a", 1)
            case "on_rate_limited":
                peer.say("1", "2", "3")
            case _:
                peer.say("1")
        await peer.ended()
        assert peer.closes == [(code, reason)]
    got_request_exception.disconnect(note)
    assert reported == []
    [record] = [each for each in caplog.records if "closed with" in each.getMessage()]
    assert record.levelno == logging.WARNING
    assert record.exc_info is None
    assert record.getMessage() == (
        f"WebSocket /ws/ closed with {code}: {type(error).__name__} in {name}"
    )


async def test_reject_raised_in_on_close_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    class Handler(WebSocketHandler):
        async def on_close(self) -> None:
            raise Reject

    async with client(Handler):
        pass
    assert caplog.records == []


# --- close() before the accept ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status"),
    [(1000, 403), (1008, 403), (1012, 503), (1013, 503), (4001, 403), (4404, 404), (4599, 599)],
)
async def test_close_before_the_accept_refuses_and_tells_how_clients_could_see_the_code(
    code: int, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(WebSocketHandler):
        async def on_connect(self) -> None:
            await self.close(code, "go away")

    caplog.set_level(logging.INFO)
    async with Peer(Handler, opens=False, extensions=HTTP) as peer:
        await until(lambda: len(peer.sent) == 2)
        start, body = peer.sent
        assert (start["status"], body["body"]) == (status, b"go away")
        assert (b"retry-after" in dict(start["headers"])) is (status == 503)
    [line] = [record.getMessage() for record in caplog.records]
    assert line == (
        f"WebSocket /ws/: close({code}, 'go away') before the accept refuses the handshake with an "
        "HTTP status, and browsers see 1006. To let clients see the code and the reason, set "
        f'reject_with = "close" on {Handler.__qualname__}.'
    )


async def test_who_was_accepted_for_its_first_message_sees_the_code_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(WebSocketHandler):
        async def authenticate_first(self, message: Any) -> Any:
            await self.close(4001, "go away")

    caplog.set_level(logging.INFO)
    async with Peer(Handler) as peer:
        peer.say("1")
        await peer.ended()
        assert peer.closes == [(4001, "go away")]
    assert caplog.records == []


@pytest.mark.parametrize("code", [1000, 1012, 4001, 4401])
async def test_with_reject_with_close_the_client_sees_the_code_and_the_reason(
    code: int, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(WebSocketHandler):
        reject_with = "close"

        async def on_connect(self) -> None:
            await self.close(code, "go away")

    caplog.set_level(logging.INFO)
    async with Peer(Handler) as peer:
        await peer.ended()
        assert peer.closes == [(code, "go away")]
    assert caplog.records == []


# --- reject_with = "close" --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"), [(401, 4401), (403, 4403), (404, 4404), (429, 4429), (503, 4503)]
)
@pytest.mark.parametrize("where", ["on_connect", "middleware"])
async def test_reject_with_close_accepts_and_closes_with_4000_and_the_status(
    status: int, code: int, where: str
) -> None:
    class Handler(Recording):
        reject_with = "close"

        async def on_connect(self) -> None:
            await self.reject(status, "why")

    async def rejection(handler: Any) -> None:
        await handler.reject(status, "why")

    rejecting[:] = [rejection]
    middleware = [f"{__name__}.rejects"] if where == "middleware" else []
    async with Peer(Handler, opens=False, extensions=HTTP, middleware=middleware) as peer:
        await peer.ended()
        assert [event["type"] for event in peer.sent] == ["websocket.accept", "websocket.close"]
        assert peer.closes == [(code, "why")]
        assert Handler.ran == []


async def test_reject_with_close_answers_the_subprotocol() -> None:
    """A browser fails a connection whose subprotocol was not answered, and hides the code."""

    class Handler(WebSocketHandler):
        reject_with = "close"
        subprotocols = ["a"]

        async def on_connect(self) -> None:
            raise Reject(401)

    async with Peer(Handler, opens=False, subprotocols=["a"]) as peer:
        await peer.ended()
        assert peer.sent[0] == {"type": "websocket.accept", "subprotocol": "a"}


async def test_an_exception_in_on_connect_with_reject_with_close_is_1011(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(WebSocketHandler):
        reject_with = "close"

        async def on_connect(self) -> None:
            raise LookupError

    async with Peer(Handler, opens=False) as peer:
        await peer.ended()
        assert [code for code, _ in peer.closes] == [1011]


# --- time -------------------------------------------------------------------------------------


def never_ends(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        await asyncio.Event().wait()

    return middleware


@pytest.mark.parametrize("where", ["on_connect", "the middleware"])
async def test_a_handshake_that_never_ends_is_refused_with_503_and_named(
    where: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(Recording):
        async def on_connect(self) -> None:
            await asyncio.Event().wait()

    settings.WS_CONNECT_TIMEOUT = 0.01
    middleware = [f"{__name__}.never_ends"] if where == "the middleware" else []
    with pytest.raises(HandshakeRejected) as caught:
        async with client(Handler, middleware=middleware):
            pass
    assert caught.value.status == 503
    assert f"{where} took longer than WS_CONNECT_TIMEOUT (0.01 s)" in caplog.messages[0]
    assert Handler.ran == []


async def test_a_sync_on_connect_that_takes_too_long_is_refused_with_503(
    settings: Settings,
) -> None:
    enough = threading.Event()

    class Handler(WebSocketHandler):
        def on_connect(self) -> None:
            enough.wait(5)

    settings.WS_CONNECT_TIMEOUT = 0.01
    try:
        async with Peer(Handler, opens=False, extensions=HTTP) as peer:
            await until(lambda: peer.sent)
            assert peer.sent[0]["status"] == 503
            enough.set()
    finally:
        enough.set()


async def test_an_on_connect_that_swallows_the_time_out_opens_nothing(
    settings: Settings,
) -> None:
    class Handler(Recording):
        async def on_connect(self) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.ran.append("swallowed")

    settings.WS_CONNECT_TIMEOUT = 0.01
    async with Peer(Handler, opens=False, extensions=HTTP) as peer:
        await peer.ended()
        assert peer.sent[0]["status"] == 503
        assert Handler.ran == ["swallowed"]


async def test_the_time_out_of_the_handshake_does_not_bound_later_hooks(
    settings: Settings,
) -> None:
    class Handler(WebSocketHandler):
        async def on_open(self) -> None:
            await asyncio.sleep(0.03)
            await self.send(1)

    settings.WS_CONNECT_TIMEOUT = 0.02
    async with client(Handler) as ws:
        assert await ws.receive() == 1


# --- the client leaves ------------------------------------------------------------------------


async def test_a_client_that_left_before_the_server_called_gets_no_handler() -> None:
    class Handler(Recording):
        pass

    async with Peer(Handler, opens=False) as peer:
        peer.task.cancel()  # one that gets the disconnect first
        await asyncio.wait([peer.task])
        peer._events.get_nowait()
        peer.leave()
        peer.task = asyncio.create_task(peer._serve())
        await peer.ended()
        assert peer.sent == []
        assert Handler.ran == []


async def test_a_client_that_leaves_while_on_connect_runs_gets_no_on_close() -> None:
    go_on = asyncio.Event()

    class Handler(Recording):
        async def on_connect(self) -> None:
            await go_on.wait()
            self.ran.append(f"closed: {self.closed}")

    async with Peer(Handler, opens=False) as peer:
        await until(lambda: peer.received == 1)
        peer.leave(code=1006)
        await until(lambda: peer.received == 2)  # noticed while the hook runs
        go_on.set()
        await peer.ended()
        assert Handler.ran == ["closed: True"]


@pytest.mark.parametrize("blocks", [False, True])
async def test_a_client_that_is_gone_at_the_accept_gets_no_on_close(blocks: bool) -> None:
    class Handler(Recording):
        pass

    async with Peer(Handler, opens=False) as peer:
        peer.send_error = OSError()
        if blocks:
            peer.block()
            await asyncio.sleep(0)
            peer.unblock()
        await peer.ended()
        assert Handler.ran == ["on_connect"]
        assert peer.handler.closed


async def test_a_client_that_is_gone_at_the_refusal_ends_quietly(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Peer(rejecting_handler(by_method), opens=False, extensions=HTTP) as peer:
        peer.send_error = OSError()
        await peer.ended()
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []


async def test_a_refusal_that_the_server_takes_late_is_waited_for() -> None:
    async with Peer(rejecting_handler(without_await), opens=False, extensions=HTTP) as peer:
        peer.block()
        await until(lambda: peer.received)
        assert not peer.task.done()
        peer.unblock()
        await peer.ended()
        events: list[Event] = peer.sent
        assert [event["type"].rpartition(".")[2] for event in events] == ["start", "body"]
