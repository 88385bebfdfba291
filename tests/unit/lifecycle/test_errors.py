"""Exceptions in the user's code: who is told, how often, and what it means for the connection."""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from django.core import mail
from django.core.signals import got_request_exception
from django.utils.log import AdminEmailHandler
from pytest_django import Settings

from django_ws import WebSocketHandler
from django_ws.testing import HandshakeRejected
from tests.support.asgi_peer import Peer, client, the_handler, until
from tests.support.error_mails import admins_setting

LOG = "django.ws.request"


class Boom(Exception):
    pass


def handler_failing_in(name: str, kind: str = "async") -> type[WebSocketHandler]:
    async def hook(self: Any, *args: Any) -> None:
        raise Boom("it broke")

    def sync_hook(self: Any, *args: Any) -> None:
        raise Boom("it broke")

    async def on_error(self: Any, error: BaseException) -> None:
        type(self).told.append(repr(error))

    async def on_close(self: Any) -> None:
        type(self).ends.append(self.close_code)

    attributes = {"told": [], "ends": [], "on_error": on_error, "on_close": on_close}
    return type(
        "Failing",
        (WebSocketHandler,),
        {**attributes, name: hook if kind == "async" else sync_hook},
    )


WHILE_OPEN = ["on_open", "on_message", "on_bytes", "on_decode_error"]
ALL = ["on_connect", *WHILE_OPEN, "on_close"]
each_hook = pytest.mark.parametrize("name", ALL)
each_kind = pytest.mark.parametrize("kind", ["async", "sync"])


async def fail(handler_class: type[WebSocketHandler], **options: Any) -> Peer:
    """A whole life in which every hook gets its turn."""
    async with Peer(
        handler_class, opens=False, extensions={"websocket.http.response": {}}, **options
    ) as peer:
        await until(lambda: peer.sent)
        name = next(name for name in [*ALL, "on_error"] if name in vars(handler_class))
        match name:
            case "on_message" | "on_error":
                peer.say("1")
            case "on_bytes":
                peer.feed({"type": "websocket.receive", "bytes": b"1"})
            case "on_decode_error":
                peer.say("{")
            case "on_close":
                # Every class here has this one: what else it has decides.
                others = [other for other in ALL[:-1] if other in vars(handler_class)]
                if not others:
                    peer.leave(code=1001)
        await peer.ended()
        handler_class.life = peer.handler  # type: ignore[attr-defined]
    return peer


@each_hook
@each_kind
async def test_an_exception_in_a_hook_is_logged_once_with_traceback_path_user_and_id(
    name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    handler_class: Any = handler_failing_in(name, kind)
    await fail(handler_class)
    (record,) = [r for r in caplog.records if r.levelname == "ERROR"]
    assert record.name == LOG
    assert record.exc_info is not None
    assert record.exc_info[0] is Boom
    handler = handler_class.life
    for part in ("/ws/", name, "AnonymousUser", handler.id):
        assert part in record.getMessage()
    assert record.__dict__["request"] is handler.request
    assert record.__dict__["status_code"] == 500


@pytest.fixture
def signals() -> Iterator[list[tuple[Any, Any, Any]]]:
    received: list[tuple[Any, Any, Any]] = []

    def receive(sender: Any, request: Any, **kwargs: Any) -> None:
        received.append((sender, request, sys.exc_info()[1]))

    got_request_exception.connect(receive)
    yield received
    got_request_exception.disconnect(receive)


@each_hook
async def test_an_exception_in_a_hook_is_sent_through_got_request_exception(
    name: str, signals: list[tuple[Any, Any, Any]]
) -> None:
    handler_class: Any = handler_failing_in(name)
    await fail(handler_class)
    ((sender, request, error),) = signals
    assert sender is handler_class
    assert request is handler_class.life.request
    assert isinstance(error, Boom)


@each_hook
@each_kind
async def test_on_error_is_called_with_the_exception(name: str, kind: str) -> None:
    handler_class: Any = handler_failing_in(name, kind)
    await fail(handler_class)
    assert handler_class.told == ["Boom('it broke')"]


@pytest.mark.parametrize("name", WHILE_OPEN)
@each_kind
async def test_an_exception_while_open_closes_with_1011_and_on_close_runs_once(
    name: str, kind: str
) -> None:
    handler_class: Any = handler_failing_in(name, kind)
    peer = await fail(handler_class)
    assert peer.closes == [(1011, "")]
    assert handler_class.ends == [1011]


async def test_an_exception_in_on_connect_refuses_with_500_and_on_close_does_not_run() -> None:
    handler_class: Any = handler_failing_in("on_connect")
    peer = await fail(handler_class)
    assert peer.sent[0]["status"] == 500
    assert peer.sent[1]["body"] == b"Internal Server Error"
    assert handler_class.ends == []


@pytest.mark.parametrize("name", WHILE_OPEN)
async def test_with_debug_the_reason_names_the_exception(name: str, settings: Settings) -> None:
    settings.DEBUG = True
    peer = await fail(handler_failing_in(name))
    assert peer.closes == [(1011, "Boom: it broke")]


async def test_with_debug_the_refusals_body_names_the_exception(settings: Settings) -> None:
    settings.DEBUG = True
    peer = await fail(handler_failing_in("on_connect"))
    assert peer.sent[1]["body"] == b"Boom: it broke"


async def test_on_error_runs_before_the_close() -> None:
    states: list[bool] = []

    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            raise Boom

        async def on_error(self, error: BaseException) -> None:
            states.append(self.connected)
            await self.send("sorry")

    async with client(Handler) as ws:
        await ws.send(1)
        assert await ws.receive() == "sorry"
        assert await ws.wait_closed() == 1011
    assert states == [True]


async def test_on_error_may_close_with_a_code_of_its_own() -> None:
    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            raise Boom

        async def on_error(self, error: BaseException) -> None:
            await self.close(4000, "own")

    async with client(Handler) as ws:
        await ws.send(1)
        assert await ws.wait_closed() == 4000


async def test_on_error_may_choose_the_status_of_a_refusal() -> None:
    class Handler(WebSocketHandler):
        async def on_connect(self) -> None:
            raise Boom

        async def on_error(self, error: BaseException) -> None:
            await self.reject(503)

    with pytest.raises(HandshakeRejected) as caught:
        async with client(Handler):
            pass
    assert caught.value.status == 503


@each_kind
async def test_an_exception_in_on_error_itself_is_logged_and_closes_with_1011(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    handler_class: Any = handler_failing_in("on_error", kind)

    class Handler(handler_class):
        async def on_message(self, message: Any) -> None:
            raise LookupError("first")

    async with client(Handler) as ws:
        await ws.send(1)
        assert await ws.wait_closed() == 1011
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [
        LookupError,
        Boom,
    ]
    assert handler_class.ends == [1011]


async def test_no_message_is_handled_after_an_exception() -> None:
    handled: list[Any] = []

    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            handled.append(message)
            raise Boom

    async with Peer(Handler) as peer:
        peer.say("1", "2")
        await peer.ended()
    assert handled == [1]


async def test_connection_closed_escaping_a_hook_after_the_close_is_quiet(
    caplog: pytest.LogCaptureFixture,
) -> None:
    errors: list[BaseException] = []

    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            await self.close()
            await self.send(1)

        async def on_error(self, error: BaseException) -> None:
            errors.append(error)

    async with client(Handler) as ws:
        await ws.send(1)
        assert await ws.wait_closed() == 1000
    assert errors == []
    assert caplog.records == []


async def test_connection_closed_of_another_connection_is_an_error_while_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Peer(WebSocketHandler) as gone:
        await gone.handler.close()
        await gone.ended()
        other = gone.handler

    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            await other.send(1)

    async with client(Handler) as ws:
        await ws.send(1)
        assert await ws.wait_closed() == 1011
    assert len(caplog.records) == 1


@pytest.mark.parametrize("name", ["on_message", "on_close"])
async def test_a_cancelled_future_that_a_hook_awaited_is_the_hooks_own_error(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def hook(self: Any, *args: Any) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    ws = client(type("Handler", (WebSocketHandler,), {name: hook}))
    if name == "on_message":
        async with ws as client_of_it:
            await client_of_it.send(1)
            assert await client_of_it.wait_closed() == 1011
    else:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with ws:
                pass
        assert caught.value.subgroup(asyncio.CancelledError)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_stop_iteration_in_a_sync_hook_is_an_error_like_any_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(WebSocketHandler):
        def on_message(self, message: Any) -> None:
            next(iter(()))

    async with client(Handler) as ws:
        await ws.send(1)
        assert await ws.wait_closed() == 1011
    assert len(caplog.records) == 1


async def test_a_log_handler_that_fails_changes_nothing(settings: Settings) -> None:
    """For example the mail of AdminEmailHandler: a receiver of the signal stands for it."""

    def receive(**kwargs: Any) -> None:
        raise OSError("no mail today")

    handler_class: Any = handler_failing_in("on_message")
    got_request_exception.connect(receive)
    try:
        peer = await fail(handler_class)
    finally:
        got_request_exception.disconnect(receive)
    assert peer.closes == [(1011, "")]
    assert handler_class.ends == [1011]


# --- middleware -------------------------------------------------------------------------------


def fails_before(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        raise Boom("it broke")

    return middleware


def fails_after(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        await func(ws)
        raise Boom("it broke")

    return middleware


async def test_an_exception_in_middleware_before_the_handler_refuses_with_500(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handler_class: Any = handler_failing_in("on_bytes")
    async with Peer(
        handler_class,
        opens=False,
        extensions={"websocket.http.response": {}},
        middleware=[f"{__name__}.fails_before"],
    ) as peer:
        await peer.ended()
        assert peer.sent[0]["status"] == 500
    assert handler_class.ends == []
    assert "exception in the middleware" in caplog.messages[0]
    assert len(caplog.records) == 1


async def test_an_exception_in_middleware_after_the_handler_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handler_class: Any = handler_failing_in("on_bytes")
    with pytest.raises(Boom):
        async with client(handler_class, middleware=[f"{__name__}.fails_after"]):
            pass
    assert handler_class.ends == [1000]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


# --- what the admins get ----------------------------------------------------------------------


@pytest.fixture
def admins(settings: Settings) -> None:
    settings.ADMINS = admins_setting("admin@example.com")


@pytest.fixture
def html_mail(admins: None) -> Iterator[None]:
    """Mail with Django's whole error page in it."""
    handler = AdminEmailHandler(include_html=True)
    logger = logging.getLogger(LOG)
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)


class BrokenLog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise LookupError("a defect of the log")


async def test_a_broken_log_harms_no_connection(capfd: pytest.CaptureFixture[str]) -> None:
    """It closes with 1011, and the exception is told on stderr."""
    handler = BrokenLog()
    logger = logging.getLogger(LOG)
    logger.addHandler(handler)
    try:
        handler_class: Any = handler_failing_in("on_message")
        async with client(handler_class) as ws:
            await ws.send("")
            assert await ws.wait_closed() == 1011
    finally:
        logger.removeHandler(handler)
    assert handler_class.ends == [1011]
    assert "a defect of the log" in capfd.readouterr().err


TOKEN = "very-secret-token"


async def fail_with_a_token() -> None:
    class Handler(WebSocketHandler):
        subprotocols = ["chat"]

        async def on_message(self, message: Any) -> None:
            raise Boom

    async with client(Handler, subprotocols=["chat", f"bearer.{TOKEN}"]) as ws:
        await ws.send(1)
        await ws.wait_closed()


@pytest.mark.usefixtures("admins")
async def test_admins_get_one_mail_with_the_path_by_djangos_default_logging() -> None:
    await fail_with_a_token()
    (sent,) = mail.outbox
    assert "/ws/" in sent.subject


@pytest.mark.usefixtures("html_mail")
@pytest.mark.parametrize("debug", [False, True])
async def test_the_mails_hide_the_subprotocol_header(settings: Settings, debug: bool) -> None:
    settings.DEBUG = debug
    await fail_with_a_token()
    assert any("SEC_WEBSOCKET_PROTOCOL" in sent.body for sent in mail.outbox)
    for sent in mail.outbox:
        assert TOKEN not in sent.message().as_string()


# --- the client that vanishes meanwhile -------------------------------------------------------


async def test_an_exception_after_the_client_left_is_still_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    go_on = asyncio.Event()
    ends: list[Any] = []

    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            await go_on.wait()
            raise Boom

        async def on_close(self) -> None:
            ends.append(self.close_code)

    async with Peer(Handler) as peer:
        peer.say("1")
        peer.leave(code=1001)
        await until(lambda: peer.handler.closed)
        go_on.set()
        await peer.ended()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert ends == [1001]


async def test_no_error_of_the_library_names_a_server_exception() -> None:
    """What a hook catches after the server failed has our type and no foreign base."""
    caught: list[BaseException] = []

    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            try:
                await self.send(1)
            except Exception as error:
                caught.append(error)

    async with Peer(Handler) as peer:
        peer.send_error = RuntimeError("the server's own words")
        peer.say("1")
        await until(lambda: caught)
        assert [type(error).__module__ for error in caught] == ["django_ws.exceptions"]
        assert the_handler().id
