"""WebSocketClient: every option, in every kind of test."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.test import SimpleTestCase, TestCase, override_settings
from pytest_django import Settings

from django_ws import ConnectionClosed, WebSocketHandler
from django_ws.codecs import MessagePackCodec
from django_ws.testing import HandshakeRejected, WebSocketClient
from django_ws.types import Receive, Scope, Send
from tests.support.routes import path


class EchoHandler(WebSocketHandler):
    async def on_message(self, message: Any) -> None:
        await self.send(message)


class MessagePackHandler(EchoHandler):
    codec = MessagePackCodec()


class InfoHandler(WebSocketHandler):
    """Tells the client what its handshake looks like."""

    subprotocols = ("v2", "v1")

    async def on_open(self) -> None:
        request = self.request
        session = getattr(request, "session", None)
        await self.send(
            {
                "headers": dict(request.headers),
                "cookies": request.COOKIES,
                "query": request.GET.dict(),
                "user": str(request.user),
                "colour": None if session is None else await session.aget("colour"),
            }
        )


class CountHandler(WebSocketHandler):
    """Counts users in a sync hook, and tells in which thread."""

    def on_message(self, message: Any) -> None:
        if message == "create":
            User.objects.create(username="made by the handler")
        self.send([User.objects.count(), threading.current_thread().name])


class RoomHandler(WebSocketHandler):
    """Counts with the ORM before it passes a message on."""

    topics = ("room",)

    def on_open(self) -> None:
        self.broadcast("room", f"{User.objects.count()} came")

    async def on_message(self, message: Any) -> None:
        await asyncio.sleep(0.05)  # when the test waits for another client
        await self.broadcast("room", [message, await User.objects.acount()])


entered: list[str] = []


class SurroundedHandler(WebSocketHandler):
    def unit_of_work(self) -> Any:
        @contextmanager
        def surround() -> Iterator[None]:
            entered.append(threading.current_thread().name)
            yield

        return surround()

    def on_message(self, message: Any) -> None:
        if message == "stop":
            next(iter(()))
        self.send(len(entered))


class ClosingHandler(WebSocketHandler):
    async def on_message(self, message: Any) -> None:
        await self.send("last words")
        await self.close(4321, "enough")


class RejectingHandler(WebSocketHandler):
    async def on_connect(self) -> None:
        await self.reject(429, "later", [("Retry-After", "7")])


class RaisingHandler(WebSocketHandler):
    async def on_connect(self) -> None:
        if self.request.GET.get("in") == "connect":
            raise LookupError("in on_connect")

    async def on_message(self, message: Any) -> None:
        raise LookupError("in on_message")


class TaskHandler(WebSocketHandler):
    """Its background task fails, and the connection stays open."""

    async def on_open(self) -> None:
        await self.start_task("failing", self.fail)

    async def fail(self) -> None:
        raise LookupError("in a task")


class FailingAtTheEndHandler(WebSocketHandler):
    """Answers; then raises, and once more in the hooks that the message names."""

    async def on_message(self, message: str) -> None:
        self.hooks_that_raise = message
        await self.send("answered")
        if "on_message" in message:
            raise LookupError("in on_message")
        if "awaited" in message:
            cancelled: asyncio.Future[None] = asyncio.Future()
            cancelled.cancel()
            await cancelled
        if "close" in message:
            await self.close(4000)

    async def on_error(self, error: BaseException) -> None:
        if "on_error" in self.hooks_that_raise:
            raise error

    async def on_close(self) -> None:
        if "on_close" in self.hooks_that_raise:
            raise ValueError("in on_close")


class StuckHandler(WebSocketHandler):
    async def on_connect(self) -> None:
        if self.request.GET.get("in") == "connect":
            await asyncio.Event().wait()

    async def on_message(self, message: Any) -> None:
        await asyncio.Event().wait()


async def count_app(scope: Scope, receive: Receive, send: Send) -> None:
    """An ASGI application with nothing of ours around it."""
    await receive()
    await send({"type": "websocket.accept", "subprotocol": "bare"})
    count = await sync_to_async(User.objects.count)()
    await send({"type": "websocket.send", "text": str(count)})
    await send({"type": "websocket.send", "bytes": b"\x00"})


async def refusing_app(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.close"})


async def returning_app(scope: Scope, receive: Receive, send: Send) -> None:
    return


urlpatterns = [
    path("echo/", EchoHandler),
    path("echo/é/", EchoHandler),
    path("msgpack/", MessagePackHandler),
    path("info/", InfoHandler),
    path("count/", CountHandler),
    path("closing/", ClosingHandler),
    path("room/", RoomHandler),
    path("surrounded/", SurroundedHandler),
    path("rejecting/", RejectingHandler),
    path("raising/", RaisingHandler),
    path("task/", TaskHandler),
    path("stuck/", StuckHandler),
    path("end/", FailingAtTheEndHandler),
]


@pytest.fixture(autouse=True)
def routes(settings: Settings) -> None:
    settings.ROOT_WS_URLCONF = __name__


# Kinds of tests


@override_settings(ROOT_WS_URLCONF=__name__)
class SyncTests(TestCase):
    def test_handler_works_inside_the_transaction_of_the_test(self) -> None:
        User.objects.create(username="alice")
        with WebSocketClient("/count/") as ws:
            ws.send("count")
            assert ws.receive() == [1, threading.current_thread().name]

    def test_what_the_handler_writes_is_seen_by_the_test(self) -> None:
        with WebSocketClient("/count/") as ws:
            ws.send("create")
            assert ws.receive()[0] == 1
        assert User.objects.get().username == "made by the handler"

    def test_database_is_empty_again_in_the_next_test(self) -> None:
        assert not User.objects.exists()

    def test_user_of_the_test_is_logged_in(self) -> None:
        alice = User.objects.create(username="alice")
        with WebSocketClient("/info/", user=alice) as ws:
            assert ws.receive()["user"] == "alice"

    def test_plain_asgi_application_works_inside_the_transaction_too(self) -> None:
        User.objects.create(username="alice")
        with WebSocketClient("/", application=count_app) as ws:
            assert ws.receive_data() == "1"

    def test_two_clients_at_once(self) -> None:
        with WebSocketClient("/count/") as one, WebSocketClient("/count/") as two:
            one.send("create")
            assert one.receive()[0] == 1
            two.send("count")
            assert two.receive()[0] == 1


@override_settings(ROOT_WS_URLCONF=__name__)
class AsyncTests(TestCase):
    async def test_handler_works_inside_the_transaction_of_the_test(self) -> None:
        await User.objects.acreate(username="alice")
        async with WebSocketClient("/count/") as ws:
            await ws.send("count")
            assert (await ws.receive())[0] == 1

    async def test_user_of_the_test_is_logged_in(self) -> None:
        alice = await User.objects.acreate(username="alice")
        async with WebSocketClient("/info/", user=alice) as ws:
            assert (await ws.receive())["user"] == "alice"


@override_settings(ROOT_WS_URLCONF=__name__)
class SimpleTests(SimpleTestCase):
    def test_sync_use_needs_no_database(self) -> None:
        with WebSocketClient("/echo/") as ws:
            ws.send("hi")
            assert ws.receive() == "hi"

    async def test_async_use_needs_no_database(self) -> None:
        async with WebSocketClient("/echo/") as ws:
            await ws.send("hi")
            assert await ws.receive() == "hi"


@pytest.mark.django_db(transaction=True)
async def test_pytest_with_a_user() -> None:
    alice = await User.objects.acreate(username="alice")
    async with WebSocketClient("/info/", user=alice) as ws:
        assert (await ws.receive())["user"] == "alice"


# Messages


async def test_messages_are_json_both_ways() -> None:
    async with WebSocketClient("/echo/") as ws:
        await ws.send({"text": ["hi", 1, None]})
        assert await ws.receive() == {"text": ["hi", 1, None]}


async def test_frames_may_be_sent_and_received_as_they_are() -> None:
    async with WebSocketClient("/echo/") as ws:
        await ws.send_text('"text"')
        assert await ws.receive_data() == '"text"'
        await ws.send_bytes(b'"bytes"')
        assert await ws.receive() == "bytes"


async def test_codec_of_the_client_may_be_another() -> None:
    async with WebSocketClient("/msgpack/", codec=MessagePackCodec()) as ws:
        await ws.send({"data": b"\x00"})
        assert isinstance(await ws.receive(), dict)


def test_sync_client_has_the_same_methods() -> None:
    with WebSocketClient("/echo/", subprotocols=["none of ours"]) as ws:
        ws.send({"text": "hi"})
        assert ws.receive() == {"text": "hi"}
        ws.send_text("1")
        assert ws.receive_data() == "1"
        ws.send_bytes(b"2")
        assert ws.receive() == 2
        ws.receive_nothing()
        assert (ws.subprotocol, ws.close_code, ws.close_reason) == (None, None, "")
        ws.close(4000, "bye")
        assert (ws.close_code, ws.close_reason) == (4000, "bye")


async def test_receive_nothing_passes_where_nothing_comes() -> None:
    async with WebSocketClient("/echo/") as ws:
        await ws.receive_nothing()
        await ws.send("hi")
        assert await ws.receive() == "hi"


async def test_receive_nothing_shows_what_came() -> None:
    async with WebSocketClient("/echo/") as ws:
        await ws.send("hi")
        with pytest.raises(AssertionError, match=r"expected nothing, received .*hi"):
            await ws.receive_nothing()


# Options


async def info(**options: Any) -> Any:
    async with WebSocketClient("/info/?a=1", **options) as ws:
        return await ws.receive()


async def test_query_is_part_of_the_path() -> None:
    assert (await info())["query"] == {"a": "1"}


@pytest.mark.parametrize("url", ["/echo/é/", "/echo/%C3%A9/"])
async def test_path_may_be_quoted_or_not(url: str) -> None:
    async with WebSocketClient(url) as ws:
        await ws.send("hi")
        assert await ws.receive() == "hi"


@pytest.mark.parametrize("headers", [{"X-Colour": "blue"}, [("X-Colour", "blue")]])
async def test_headers_are_sent(headers: Any) -> None:
    assert (await info(headers=headers))["headers"]["X-Colour"] == "blue"


async def test_header_replaces_the_one_of_the_client() -> None:
    answer = await info(headers={"Host": "localhost"}, origin="http://localhost")
    assert answer["headers"]["Host"] == "localhost"


async def test_cookies_are_sent() -> None:
    assert (await info(cookies={"a": "1", "b": "2"}))["cookies"] == {"a": "1", "b": "2"}


async def test_origin_is_the_sites_own_by_default() -> None:
    assert (await info())["headers"]["Origin"] == "http://testserver"


async def test_origin_none_sends_none() -> None:
    assert "Origin" not in (await info(origin=None))["headers"]


async def test_foreign_origin_is_refused() -> None:
    with pytest.raises(HandshakeRejected) as refused:
        await info(origin="http://evil.example")
    assert refused.value.status == 403


async def test_subprotocol_that_was_selected_is_known() -> None:
    async with WebSocketClient("/info/", subprotocols=["v0", "v1"]) as ws:
        assert ws.subprotocol == "v1"


async def test_application_may_be_any() -> None:
    async with WebSocketClient("/", application=refusing_or_accepting) as ws:
        assert ws.subprotocol == "bare"
        assert await ws.receive_data() == b"\x00"


async def refusing_or_accepting(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept", "subprotocol": "bare"})
    await send({"type": "websocket.send", "bytes": b"\x00"})


@pytest.mark.django_db
@pytest.mark.parametrize("logged_in", [False, True])
@pytest.mark.parametrize("as_session", [False, True])
def test_session_may_be_a_dict_or_a_session(logged_in: bool, as_session: bool) -> None:
    user = User.objects.create(username="alice") if logged_in else None
    session: Any = {"colour": "blue"}
    if as_session:
        session = SessionStore()
        session["colour"] = "blue"
    with WebSocketClient("/info/", user=user, session=session) as ws:
        answer = ws.receive()
    assert answer["colour"] == "blue"
    assert (answer["user"] == "alice") is logged_in


# The end


@pytest.mark.parametrize("url", ["/rejecting/"])
async def test_refused_handshake_has_status_reason_and_headers(url: str) -> None:
    with pytest.raises(HandshakeRejected, match="429: later") as refused:
        await WebSocketClient(url).__aenter__()
    assert (refused.value.status, refused.value.reason) == (429, "later")
    assert refused.value.headers["retry-after"] == "7"


async def test_refused_handshake_names_the_path() -> None:
    with pytest.raises(HandshakeRejected, match=r"^/nowhere/\?a=1: the .* 404: ") as refused:
        await WebSocketClient("/nowhere/?a=1").__aenter__()
    assert refused.value.path == "/nowhere/?a=1"


def test_refused_handshake_raises_in_sync_tests_too() -> None:
    with pytest.raises(HandshakeRejected) as refused, WebSocketClient("/rejecting/"):
        pass
    assert refused.value.status == 429


def test_refused_handshake_leaves_no_thread() -> None:
    with pytest.raises(HandshakeRejected), WebSocketClient("/rejecting/"):
        pass
    assert "django_ws test client" not in {thread.name for thread in threading.enumerate()}


async def test_application_that_closes_before_the_accept_refuses_with_403() -> None:
    with pytest.raises(HandshakeRejected) as refused:
        await WebSocketClient("/", application=refusing_app).__aenter__()
    assert refused.value.status == 403


async def test_application_that_returns_before_the_accept_refuses_with_500() -> None:
    with pytest.raises(HandshakeRejected) as refused:
        await WebSocketClient("/", application=returning_app).__aenter__()
    assert (refused.value.status, refused.value.path) == (500, "/")


async def test_application_that_returns_after_the_accept_closes_with_1006() -> None:
    async with WebSocketClient("/", application=refusing_or_accepting) as ws:
        assert await ws.wait_closed() == 1006


async def test_exception_in_on_connect_is_the_cause_of_the_refusal() -> None:
    with pytest.raises(HandshakeRejected) as refused:
        await WebSocketClient("/raising/?in=connect").__aenter__()
    assert refused.value.status == 500
    assert repr(refused.value.__cause__) == "LookupError('in on_connect')"


async def test_close_of_the_server_has_code_and_reason() -> None:
    async with WebSocketClient("/closing/") as ws:
        await ws.send("?")
        assert await ws.wait_closed() == 4321
        assert (ws.close_code, ws.close_reason) == (4321, "enough")


@pytest.mark.django_db
def test_whichever_client_a_sync_test_waits_for_the_others_go_on() -> None:
    with WebSocketClient("/room/") as a, WebSocketClient("/room/") as b:
        User.objects.create(username="alice")
        b.send("hello")
        assert receive_list(a) == ["hello", 1]
        assert receive_list(b) == ["hello", 1]
        a.send("hi")
        assert receive_list(b) == ["hi", 1]
        assert receive_list(a) == ["hi", 1]


def receive_list(client: Any) -> list[Any]:
    while not isinstance(message := client.receive(), list):
        pass
    return message


def test_units_of_work_are_surrounded_in_sync_tests_too() -> None:
    entered.clear()
    with WebSocketClient("/surrounded/") as ws:
        ws.send(1)
        assert ws.receive() == 1
        ws.send("stop")
        assert ws.wait_closed() == 1011
        assert isinstance(ws.error, RuntimeError)
    assert len(entered) >= 2
    assert {*entered} == {threading.current_thread().name}


def test_close_of_the_server_is_seen_by_a_sync_client() -> None:
    with WebSocketClient("/closing/") as ws:
        ws.send("?")
        assert ws.wait_closed() == 4321
        assert (ws.close_code, ws.close_reason) == (4321, "enough")


async def test_waiting_for_the_close_a_second_time_gives_the_code_again() -> None:
    async with WebSocketClient("/closing/") as ws:
        await ws.send("?")
        assert [await ws.wait_closed(), await ws.wait_closed()] == [4321, 4321]


async def test_messages_before_the_close_are_received_first() -> None:
    async with WebSocketClient("/closing/") as ws:
        await ws.send("?")
        assert await ws.receive() == "last words"
        with pytest.raises(ConnectionClosed, match="4321: enough"):
            await ws.receive()


@pytest.mark.parametrize("method", ["send", "receive"])
async def test_after_the_close_nothing_goes_either_way(method: str) -> None:
    async with WebSocketClient("/echo/") as ws:
        await ws.close()
        with pytest.raises(ConnectionClosed) as closed:
            await (ws.send("?") if method == "send" else ws.receive())
    assert closed.value.code == 1000


async def test_every_receive_after_the_close_raises() -> None:
    async with WebSocketClient("/echo/") as ws:
        await ws.close(4000)
        for _ in range(3):
            with pytest.raises(ConnectionClosed, match="4000"):
                await ws.receive()


async def test_client_closes_with_code_and_reason() -> None:
    async with WebSocketClient("/echo/") as ws:
        await ws.close(4000, "bye")
    assert (ws.close_code, ws.close_reason) == (4000, "bye")


async def test_leaving_the_block_closes() -> None:
    async with WebSocketClient("/echo/") as ws:
        pass
    assert ws.close_code == 1000


async def test_exception_in_a_hook_is_the_cause_of_the_close() -> None:
    async with WebSocketClient("/raising/") as ws:
        await ws.send("?")
        with pytest.raises(ConnectionClosed) as closed:
            await ws.receive()
    assert closed.value.code == 1011
    assert repr(closed.value.__cause__) == "LookupError('in on_message')"


def test_exception_in_a_hook_is_the_cause_in_sync_tests_too() -> None:
    with WebSocketClient("/raising/") as ws:
        ws.send("?")
        with pytest.raises(ConnectionClosed) as closed:
            ws.receive()
    assert repr(closed.value.__cause__) == "LookupError('in on_message')"


# Exceptions that nobody was told of


async def answered(raising_in: str) -> None:
    async with WebSocketClient("/end/") as ws:
        await ws.send(raising_in)
        assert await ws.receive() == "answered"


async def test_handler_that_raises_nothing_leaves_the_block_quietly() -> None:
    await answered("nowhere")


@pytest.mark.parametrize(
    ("raising_in", "error"),
    [
        ("on_message", "LookupError('in on_message')"),
        ("on_close", "ValueError('in on_close')"),
        ("close and on_close", "ValueError('in on_close')"),
        ("on_message and on_error", "LookupError('in on_message')"),
    ],
)
async def test_exception_that_the_test_did_not_see_is_raised_on_leaving(
    raising_in: str, error: str
) -> None:
    with pytest.raises((LookupError, ValueError)) as raised:
        await answered(raising_in)
    assert repr(raised.value) == error


def test_exception_that_the_test_did_not_see_is_raised_in_sync_tests_too() -> None:
    def answered() -> None:
        with WebSocketClient("/end/") as ws:
            ws.send("on_message")
            assert ws.receive() == "answered"

    with pytest.raises(LookupError, match="in on_message"):
        answered()


async def test_several_exceptions_are_raised_as_a_group() -> None:
    with pytest.raises(ExceptionGroup, match="raised for /end/") as raised:
        await answered("on_message and on_close")
    assert [repr(error) for error in raised.value.exceptions] == [
        "LookupError('in on_message')",
        "ValueError('in on_close')",
    ]


async def test_cancellation_of_what_a_hook_awaits_does_not_cancel_the_test() -> None:
    with pytest.raises(BaseExceptionGroup) as raised:
        await answered("awaited")
    assert [type(error) for error in raised.value.exceptions] == [asyncio.CancelledError]


async def test_exception_of_the_application_after_its_accept_is_raised() -> None:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        raise LookupError("after the disconnect")

    with pytest.raises(LookupError, match="after the disconnect"):
        async with WebSocketClient("/", application=application):
            pass


async def test_exception_in_a_task_is_raised_on_leaving() -> None:
    with pytest.raises(LookupError, match="in a task"):
        async with WebSocketClient("/task/"):
            pass


async def test_close_that_was_read_is_not_raised_again() -> None:
    async with WebSocketClient("/end/") as ws:
        await ws.send("on_message")
        assert await ws.receive() == "answered"
        assert await ws.wait_closed() == 1011


async def test_exception_after_a_close_that_was_read_is_raised() -> None:
    async def closed() -> None:
        async with WebSocketClient("/end/") as ws:
            await ws.send("on_message and on_close")
            assert await ws.wait_closed() == 1011

    with pytest.raises(ValueError, match="in on_close"):
        await closed()


async def test_close_is_caused_by_what_came_before_it_alone() -> None:
    async with WebSocketClient("/end/") as ws:
        await ws.send("close and on_close")
        assert await ws.receive() == "answered"
        with pytest.raises(ConnectionClosed) as closed:
            await ws.receive()
        await ws.close()  # waits until the handler has ended
        assert repr(ws.error) == "ValueError('in on_close')"
    assert closed.value.__cause__ is None


async def test_error_tells_what_was_raised() -> None:
    async with WebSocketClient("/end/") as ws:
        assert ws.error is None
        await ws.send("on_message")
        await ws.close()
        assert repr(ws.error) == "LookupError('in on_message')"


def test_error_of_the_sync_client_tells_what_was_raised() -> None:
    with WebSocketClient("/end/") as ws:
        ws.send("on_message")
        ws.close()
        assert repr(ws.error) == "LookupError('in on_message')"


async def test_exception_of_the_block_goes_before_that_of_the_handler() -> None:
    async def failing() -> None:
        async with WebSocketClient("/end/") as ws:
            await ws.send("on_message")
            raise KeyError("of the test")

    with pytest.raises(KeyError, match="of the test"):
        await failing()


# Time-outs


async def test_wait_for_a_message_is_bounded() -> None:
    async with WebSocketClient("/echo/") as ws:
        ws.timeout = 0.02
        with pytest.raises(TimeoutError, match=r"/echo/: no message within 0\.02 s"):
            await ws.receive()


async def test_wait_for_the_close_is_bounded() -> None:
    async with WebSocketClient("/echo/") as ws:
        ws.timeout = 0.02
        with pytest.raises(TimeoutError, match=r"/echo/: not closed within 0\.02 s"):
            await ws.wait_closed()


async def test_wait_for_the_handshake_is_bounded() -> None:
    client = WebSocketClient("/stuck/?in=connect", timeout=0.02)
    with pytest.raises(TimeoutError, match=r"no answer to the handshake within 0\.02 s"):
        await client.__aenter__()


async def test_time_out_shows_the_exception_of_a_background_task() -> None:
    async with WebSocketClient("/task/") as ws:
        ws.timeout = 0.2
        with pytest.raises(TimeoutError) as raised:
            await ws.receive()
    assert repr(raised.value.__cause__) == "LookupError('in a task')"


async def test_exception_of_another_connection_is_not_shown() -> None:
    async with WebSocketClient("/echo/") as ws, WebSocketClient("/raising/") as other:
        ws.timeout = 0.2
        await other.send("?")
        assert await other.wait_closed() == 1011
        with pytest.raises(TimeoutError) as raised:
            await ws.receive()
    assert raised.value.__cause__ is None


async def test_cancelling_a_wait_is_no_time_out() -> None:
    async with WebSocketClient("/echo/") as ws:
        task = asyncio.create_task(ws.receive())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_handler_that_does_not_end_is_a_time_out() -> None:
    client = WebSocketClient("/stuck/")
    await client.__aenter__()
    client.timeout = 0.05
    await client.send("?")
    with pytest.raises(TimeoutError, match=r"did not end within 0\.05 s of the close"):
        await client.__aexit__()


def test_handler_that_does_not_end_is_a_time_out_in_sync_tests_too() -> None:
    with (
        pytest.raises(TimeoutError, match="did not end within 1 s of the close"),
        WebSocketClient("/stuck/", timeout=1) as ws,
    ):
        ws.send("?")


def test_handshake_that_is_not_answered_leaves_no_thread() -> None:
    with (
        pytest.raises(TimeoutError, match="no answer to the handshake"),
        WebSocketClient("/stuck/?in=connect", timeout=0.02),
    ):
        pass
    assert "django_ws test client" not in {thread.name for thread in threading.enumerate()}


def test_exception_of_the_test_itself_passes_through() -> None:
    with pytest.raises(LookupError, match="of the test"), WebSocketClient("/echo/"):
        raise LookupError("of the test")


def test_sync_client_ends_what_the_application_left_running() -> None:
    left: list[asyncio.Task[None]] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "websocket.accept"})
        left.append(asyncio.create_task(asyncio.sleep(3600)))

    with WebSocketClient("/", application=application):
        pass
    assert [task.cancelled() for task in left] == [True]
