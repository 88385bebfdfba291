"""Hooks: async or sync, their order, what each is called with, and the codec between."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pytest_django import Settings

from django_ws import WebSocketHandler
from django_ws.codecs import BytesCodec, JSONCodec, MessagePackCodec, TextCodec
from django_ws.exceptions import DecodeError, WebSocketError
from tests.support.asgi_peer import Peer, client, until

KINDS = ["async", "sync", "sync around async"]
each_kind = pytest.mark.parametrize("kind", KINDS)


def as_kind(kind: str, function: Callable[..., None]) -> Any:
    """A hook of one kind that calls ``function(self, *args)``."""

    async def hook(self: Any, *args: Any) -> None:
        function(self, *args)

    def sync_hook(self: Any, *args: Any) -> None:
        function(self, *args)

    def around(self: Any, *args: Any) -> Any:
        return hook(self, *args)

    return {"async": hook, "sync": sync_hook, "sync around async": around}[kind]


def with_hook(name: str, kind: str, function: Callable[..., None]) -> type[WebSocketHandler]:
    return type("Handler", (WebSocketHandler,), {name: as_kind(kind, function)})


@each_kind
@pytest.mark.parametrize("name", ["on_connect", "on_open", "on_message", "on_close"])
async def test_a_hook_is_called_once(name: str, kind: str) -> None:
    calls: list[tuple[Any, ...]] = []
    handler_class = with_hook(name, kind, lambda self, *args: calls.append(args))
    async with Peer(handler_class) as peer:
        peer.say('"hello"')
        peer.leave()
        await peer.ended()
    assert calls == [("hello",) if name == "on_message" else ()]


@each_kind
async def test_on_error_is_called_with_the_exception(kind: str) -> None:
    errors: list[str] = []

    class Failing(with_hook("on_error", kind, lambda self, error: errors.append(str(error)))):  # type: ignore[misc]
        async def on_message(self, message: Any) -> None:
            raise LookupError("the hook failed")

    async with client(Failing) as ws:
        await ws.send(1)
        await ws.wait_closed()
    assert errors == ["the hook failed"]


@each_kind
async def test_on_decode_error_is_called_with_a_decode_error(kind: str) -> None:
    errors: list[Exception] = []
    handler_class = with_hook("on_decode_error", kind, lambda self, error: errors.append(error))
    async with client(handler_class) as ws:
        await ws.send_text("{")
        await ws.send(1)
        await ws.close()
    assert [type(error) for error in errors] == [DecodeError]
    assert isinstance(errors[0], WebSocketError)


@each_kind
async def test_on_bytes_is_called_with_the_raw_data(kind: str) -> None:
    data: list[bytes] = []
    async with client(with_hook("on_bytes", kind, lambda self, sent: data.append(sent))) as ws:
        await ws.send_bytes(b"\xff\x00")
        await ws.close()
    assert data == [b"\xff\x00"]


async def test_the_order_of_the_hooks() -> None:
    order: list[str] = []

    class Handler(WebSocketHandler):
        async def on_connect(self) -> None:
            order.append("on_connect")

        async def on_open(self) -> None:
            order.append("on_open")

        async def on_message(self, message: Any) -> None:
            order.append("on_message")

        async def on_close(self) -> None:
            order.append("on_close")

    async with client(Handler) as ws:
        await ws.send(1)
        await ws.close()
    assert order == ["on_connect", "on_open", "on_message", "on_close"]


async def test_on_connect_runs_before_the_accept() -> None:
    go_on = asyncio.Event()

    class Handler(WebSocketHandler):
        async def on_connect(self) -> None:
            await go_on.wait()

    async with Peer(Handler, opens=False) as peer:
        await until(lambda: peer.received)
        assert peer.sent == []
        go_on.set()
        await until(lambda: peer.sent)
        assert peer.sent[0]["type"] == "websocket.accept"


async def test_on_open_runs_after_the_accept() -> None:
    class Handler(WebSocketHandler):
        async def on_open(self) -> None:
            await self.send(1)

    async with Peer(Handler) as peer:
        await until(lambda: peer.texts)
        assert [event["type"] for event in peer.sent] == ["websocket.accept", "websocket.send"]


@each_kind
async def test_messages_are_handled_one_at_a_time_in_order(kind: str) -> None:
    handled: list[int] = []
    async with Peer(with_hook("on_message", kind, lambda self, n: handled.append(n))) as peer:
        peer.say(*(str(number) for number in range(50)))
        peer.leave()
        await peer.ended()
    assert handled == list(range(50))


async def test_a_message_waits_until_the_hook_before_it_has_ended() -> None:
    under_way: list[int] = []
    most: list[int] = []

    class Handler(WebSocketHandler):
        async def on_message(self, message: int) -> None:
            under_way.append(message)
            most.append(len(under_way))
            await asyncio.sleep(0)
            under_way.remove(message)

    async with Peer(Handler) as peer:
        peer.say("1", "2", "3")
        peer.leave()
        await peer.ended()
    assert most == [1, 1, 1]


async def test_messages_sent_before_on_open_has_returned_wait_for_it() -> None:
    order: list[str] = []
    go_on = asyncio.Event()

    class Handler(WebSocketHandler):
        async def on_open(self) -> None:
            await go_on.wait()
            order.append("on_open")

        async def on_message(self, message: Any) -> None:
            order.append("on_message")

    async with Peer(Handler) as peer:
        peer.say("1")
        go_on.set()
        peer.leave()
        await peer.ended()
    assert order == ["on_open", "on_message"]


async def test_a_sync_hook_runs_in_one_thread_that_is_not_the_loops() -> None:
    threads: list[threading.Thread] = []
    handler_class = with_hook(
        "on_message", "sync", lambda self, message: threads.append(threading.current_thread())
    )
    async with client(handler_class) as ws:
        await ws.send(1)
        await ws.close()
    assert threads[0] is not threading.current_thread()
    assert threads[0].name.startswith("django_ws")


async def test_the_coroutine_of_a_sync_hook_runs_in_the_event_loop() -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    class Handler(WebSocketHandler):
        def on_message(self, message: Any) -> Any:
            return self.handle()

        async def handle(self) -> None:
            loops.append(asyncio.get_running_loop())

    async with client(Handler) as ws:
        await ws.send(1)
        await ws.close()
    assert loops == [asyncio.get_running_loop()]


async def test_hooks_that_nobody_overrode_cost_no_thread() -> None:
    async with client(WebSocketHandler) as ws:
        await ws.send(1)
        await ws.close()
        before = threading.active_count()
        async with client(WebSocketHandler) as other:
            await other.send(1)
        assert threading.active_count() == before


@pytest.mark.parametrize("kind", ["static", "class", "async class", "async static"])
async def test_a_hook_may_be_a_static_or_class_method(kind: str) -> None:
    calls: list[Any] = []

    class Handler(WebSocketHandler):
        pass

    async def hook(message: Any) -> None:
        calls.append(message)

    async def class_hook(cls: Any, message: Any) -> None:
        calls.append(message)

    methods: dict[str, Any] = {
        "static": staticmethod(calls.append),
        "class": classmethod(lambda cls, message: calls.append(message)),
        "async static": staticmethod(hook),
        "async class": classmethod(class_hook),
    }
    built = type("Built", (Handler,), {"on_message": methods[kind]})
    async with client(built) as ws:
        await ws.send(1)
        await ws.close()
    assert calls == [1]


async def test_a_hook_may_call_what_it_overrides() -> None:
    called: list[str] = []

    class Mixin(WebSocketHandler):
        async def on_open(self) -> None:
            await super().on_open()
            called.append("mixin")

    class Handler(Mixin):
        async def on_open(self) -> None:
            await super().on_open()
            called.append("handler")

    async with Peer(Handler):
        await until(lambda: called == ["mixin", "handler"])


@pytest.mark.parametrize("kind", ["async", "sync"])
@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("on_connect", ()),
        ("on_open", ()),
        ("on_message", (1,)),
        ("on_bytes", (b"1",)),
        ("on_text", ("1",)),
        ("on_close", ()),
        ("on_error", (LookupError(),)),
    ],
)
async def test_every_default_hook_may_be_called(
    name: str, args: tuple[Any, ...], kind: str
) -> None:
    called: list[Any] = []

    class Asynchronous(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            called.append(await getattr(super(), name)(*args))

    class Synchronous(WebSocketHandler):
        def on_message(self, message: Any) -> None:
            getattr(super(), name)(*args)
            called.append(None)

    async with client(Asynchronous if kind == "async" else Synchronous) as ws:
        await ws.send(1)
        await ws.close()
    assert called == [None]


async def test_a_default_on_decode_error_may_be_called_from_a_sync_one() -> None:
    class Handler(WebSocketHandler):
        def on_decode_error(self, error: DecodeError) -> None:
            super().on_decode_error(error)

    async with client(Handler) as ws:
        await ws.send_text("{")
        assert await ws.wait_closed() == 1007


async def test_a_handler_without_hooks_opens_takes_messages_and_closes() -> None:
    class Nothing(WebSocketHandler):
        pass

    async with client(Nothing) as ws:
        await ws.send(1)
        await ws.send_bytes(b"2")
        await ws.receive_nothing(0.01)


# --- decoding ---------------------------------------------------------------------------------


class Received(WebSocketHandler):
    messages: list[Any]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.messages = []

    async def on_message(self, message: Any) -> None:
        self.messages.append(message)


@pytest.mark.parametrize(
    ("of_handler", "data", "message"),
    [
        (JSONCodec(), '{"a": 1}', {"a": 1}),
        (JSONCodec(), b'{"a": 1}', {"a": 1}),
        (MessagePackCodec(), b"\x81\xa1a\x01", {"a": 1}),
        (TextCodec(), "text", "text"),
        (BytesCodec(), b"\xff", b"\xff"),
    ],
)
async def test_text_and_binary_frames_are_decoded(
    of_handler: Any, data: str | bytes, message: Any
) -> None:
    class Handler(Received):
        codec = of_handler

    async with client(Handler) as ws:
        if isinstance(data, str):
            await ws.send_text(data)
        else:
            await ws.send_bytes(data)
        await ws.close()
    assert Handler.messages == [message]


async def test_text_frames_are_decoded_beside_on_bytes() -> None:
    class Handler(Received):
        async def on_bytes(self, data: bytes) -> None:
            self.messages.append(data)

    async with client(Handler) as ws:
        await ws.send({"a": 1})
        await ws.send_bytes(b"\xff")
        await ws.close()
    assert Handler.messages == [{"a": 1}, b"\xff"]


@pytest.mark.parametrize(
    "event",
    [{"text": None, "bytes": b"1"}, {"bytes": b"1"}, {"text": "1", "bytes": None}, {"text": "1"}],
)
async def test_servers_may_leave_out_the_other_key_or_set_it_to_none(
    event: dict[str, Any],
) -> None:
    class Handler(Received):
        pass

    async with Peer(Handler) as peer:
        peer.feed({"type": "websocket.receive", **event})
        peer.leave()
        await peer.ended()
    assert Handler.messages == [1]


async def test_an_empty_text_frame_is_a_message() -> None:
    class Handler(Received):
        codec = TextCodec()

    async with Peer(Handler) as peer:
        peer.say("")
        peer.leave()
        await peer.ended()
    assert Handler.messages == [""]


async def test_undecodable_data_closes_with_1007_and_says_why() -> None:
    class Handler(Received):
        pass

    async with client(Handler) as ws:
        await ws.send_text("{")
        assert await ws.wait_closed() == 1007
        assert ws.close_reason != ""
    assert Handler.messages == []


async def test_undecodable_data_is_a_warning_without_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with client(WebSocketHandler) as ws:
        await ws.send_text("{")
        await ws.wait_closed()
    assert [(r.name, r.levelname, r.exc_info) for r in caplog.records] == [
        ("django.ws.request", "WARNING", None)
    ]
    assert "/ws/" in caplog.messages[0]


async def test_on_decode_error_is_not_on_error() -> None:
    errors: list[BaseException] = []

    class Handler(WebSocketHandler):
        async def on_error(self, error: BaseException) -> None:
            errors.append(error)

    async with client(Handler) as ws:
        await ws.send_text("{")
        await ws.wait_closed()
    assert errors == []


async def test_an_overridden_on_decode_error_may_let_the_connection_go_on() -> None:
    class Handler(Received):
        async def on_decode_error(self, error: DecodeError) -> None:
            await self.send({"wrong": error.reason})

    async with client(Handler) as ws:
        await ws.send_text("{")
        assert "wrong" in await ws.receive()
        await ws.send(1)
        await ws.close()
    assert Handler.messages == [1]


# --- sizes ------------------------------------------------------------------------------------


class Small(Received):
    max_message_size = 8


@pytest.mark.parametrize(
    "data",
    ['"123456"', '"ééé"', b'"123456"', "1"],
    ids=["8 ASCII", "8 bytes of UTF-8", "8 binary", "1"],
)
async def test_a_message_of_max_message_size_bytes_is_handled(data: str | bytes) -> None:
    class Handler(Small):
        pass

    async with client(Handler) as ws:
        await (ws.send_text(data) if isinstance(data, str) else ws.send_bytes(data))
        await ws.close()
    assert len(Handler.messages) == 1


@pytest.mark.parametrize(
    "data",
    ['"1234567"', '"éééé"', '"\U0001f600\U0001f600"', b'"1234567"'],
    ids=["9 ASCII", "10 bytes in 6 characters", "10 bytes in 4 characters", "9 binary"],
)
async def test_a_larger_message_closes_with_1009_and_is_not_handled(data: str | bytes) -> None:
    class Handler(Small):
        pass

    async with client(Handler) as ws:
        await (ws.send_text(data) if isinstance(data, str) else ws.send_bytes(data))
        assert await ws.wait_closed() == 1009
        assert "8 bytes" in ws.close_reason
    assert Handler.messages == []


async def test_too_large_a_message_is_one_warning_with_both_sizes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(Small):
        pass

    async with client(Handler) as ws:
        await ws.send_text("é" * 10)
        await ws.wait_closed()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "20 bytes, 8 allowed" in caplog.messages[0]


async def test_the_setting_bounds_messages_where_the_class_does_not(settings: Settings) -> None:
    settings.WS_MAX_MESSAGE_SIZE = 8
    async with client(WebSocketHandler) as ws:
        await ws.send_text('"1234567"')
        assert await ws.wait_closed() == 1009


async def test_by_default_a_message_may_take_1_mib() -> None:
    class Handler(Received):
        codec = TextCodec()

    async with client(Handler) as ws:
        await ws.send_text("x" * 1024 * 1024)
        await ws.send_text("x" * (1024 * 1024 + 1))
        assert await ws.wait_closed() == 1009
    assert [len(message) for message in Handler.messages] == [1024 * 1024]
