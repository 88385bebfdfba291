"""Sending: awaited or not, from anywhere, in order, and what is told when it fails."""

import asyncio
import contextvars
import gc
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from pytest_django import Settings

from django_ws import ConnectionClosed, WebSocketHandler
from django_ws.codecs import BytesCodec
from django_ws.exceptions import EncodeError, SendTimeout, StateError, WebSocketError
from tests.support.asgi_peer import Peer, client, turns, until
from tests.support.handlers import Quiet

LOG = "django.ws.request"


async def test_awaiting_send_returns_when_the_server_has_taken_the_message() -> None:
    async with Peer(Quiet) as peer:
        await peer.handler.send({"a": 1})
        assert peer.texts == ['{"a":1}']


async def test_a_message_goes_out_without_await() -> None:
    async with Peer(Quiet) as peer:
        peer.handler.send(1)
        assert peer.texts == ["1"]


async def test_awaiting_send_waits_while_the_server_blocks() -> None:
    async with Peer(Quiet) as peer:
        peer.block()
        sending = asyncio.ensure_future(peer.handler.send(1))
        peer.handler.send(2)
        done, _ = await asyncio.wait([sending], timeout=0.02)
        assert not done
        peer.unblock()
        await sending
        assert peer.texts[0] == "1"


@pytest.mark.parametrize("coroutines", [True, False], ids=["coroutine", "other awaitable"])
async def test_frames_keep_the_order_of_the_calls_while_the_server_blocks_and_goes_on(
    coroutines: bool,
) -> None:
    async with Peer(Quiet, coroutines=coroutines) as peer:
        send = peer.handler.send
        send(0)
        peer.block()
        send(1)
        send(2)
        peer.unblock()
        send(3)  # the writer has not gone on yet
        await send(4)
        send(5)
        await send(6)
        assert peer.texts == list("0123456")


async def test_frames_of_several_tasks_keep_the_order_of_the_calls() -> None:
    async with Peer(Quiet) as peer:
        peer.block()

        async def say(number: int) -> None:
            await peer.handler.send(number)

        tasks = [asyncio.ensure_future(say(number)) for number in range(5)]
        await asyncio.sleep(0)
        peer.unblock()
        await asyncio.gather(*tasks)
        assert peer.texts == list("01234")


async def test_one_send_may_be_awaited_twice() -> None:
    async with Peer(Quiet) as peer:
        peer.block()
        sending = peer.handler.send(1)
        peer.unblock()
        await asyncio.gather(sending, sending)
        await sending
        assert peer.texts == ["1"]


async def test_cancelling_who_awaits_does_not_take_the_message_back() -> None:
    async with Peer(Quiet) as peer:
        peer.block()
        first, second = peer.handler.send(1), peer.handler.send(2)
        cancelled = asyncio.ensure_future(second)
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        peer.unblock()
        await asyncio.gather(first, second)
        assert peer.texts == ["1", "2"]


async def test_a_callback_of_the_loop_may_send() -> None:
    async with Peer(Quiet) as peer:
        asyncio.get_running_loop().call_soon(peer.handler.send, 1)
        await until(lambda: peer.texts)


@pytest.mark.parametrize(
    ("method", "argument", "event"),
    [
        ("send", {"a": 1}, {"text": '{"a":1}'}),
        ("send_text", "é", {"text": "é"}),
        ("send_bytes", b"\x00", {"bytes": b"\x00"}),
        ("send_bytes", bytearray(b"\x00"), {"bytes": b"\x00"}),
        ("send_bytes", memoryview(b"\x00"), {"bytes": b"\x00"}),
    ],
)
async def test_the_frame_of(method: str, argument: Any, event: dict[str, Any]) -> None:
    async with Peer(Quiet) as peer:
        await getattr(peer.handler, method)(argument)
        assert peer.sent[-1] == {"type": "websocket.send", **event}


async def test_the_codec_says_whether_a_frame_is_text_or_binary() -> None:
    class Binary(WebSocketHandler):
        codec = BytesCodec()

    async with Peer(Binary) as peer:
        await peer.handler.send(b"x")
        assert peer.sent[-1] == {"type": "websocket.send", "bytes": b"x"}


# --- what cannot be encoded -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "argument", "path"),
    [
        ("send", {"user": {"avatar": object()}}, '$["user"]["avatar"]'),
        ("send", [1, {2: object()}], "$[1][2]"),
        ("send_text", b"bytes", "$"),
        ("send_bytes", "text", "$"),
    ],
)
async def test_an_unencodable_message_fails_at_the_call_and_names_the_path(
    method: str, argument: Any, path: str
) -> None:
    async with Peer(Quiet) as peer:
        with pytest.raises(EncodeError) as caught:
            getattr(peer.handler, method)(argument)
        assert caught.value.path == path
        assert path in str(caught.value)


async def test_encode_error_is_a_type_error_and_a_websocket_error() -> None:
    async with Peer(Quiet) as peer:
        with pytest.raises(EncodeError) as caught:
            peer.handler.send(object())
        assert isinstance(caught.value, TypeError)
        assert isinstance(caught.value, WebSocketError)


async def test_a_message_is_encoded_at_the_call() -> None:
    async with Peer(Quiet) as peer:
        peer.block()
        message = ["before"]
        first, sending = peer.handler.send(0), peer.handler.send(message)
        message[0] = "after"
        peer.unblock()
        await asyncio.gather(first, sending)
        assert peer.texts == ["0", '["before"]']


async def test_sending_before_the_accept_is_a_state_error() -> None:
    caught: list[BaseException] = []

    class Early(WebSocketHandler):
        async def on_connect(self) -> None:
            try:
                self.send(1)
            except StateError as error:
                caught.append(error)

    async with Peer(Early) as peer:
        assert "before the accept" in str(caught[0])
        assert peer.texts == []


# --- after the close --------------------------------------------------------------------------


async def test_awaiting_a_send_after_the_close_raises_connection_closed_with_the_code() -> None:
    async with Peer(Quiet) as peer:
        handler = peer.handler
        await handler.close(4403, "gone")
        with pytest.raises(ConnectionClosed) as caught:
            await handler.send(1)
        assert (caught.value.code, caught.value.reason) == (4403, "gone")


async def test_a_send_after_the_close_that_nobody_awaits_is_counted_and_logged_at_debug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, LOG)
    async with Peer(Quiet) as peer:
        await peer.handler.close()
        peer.handler.send(1)
        assert peer.handler.dropped == 1
        lines = [record for record in caplog.records if "dropped" in record.message]
        assert [record.levelname for record in lines] == ["DEBUG"]


class ServersOwnError(Exception):
    """What a server might raise: user code must never see it."""


@pytest.mark.parametrize("error", [ServersOwnError("gone"), OSError(32, "Broken pipe")])
@pytest.mark.parametrize("blocks", [False, True], ids=["at once", "after it blocked"])
@pytest.mark.parametrize("coroutines", [True, False], ids=["coroutine", "other awaitable"])
async def test_an_error_of_the_servers_send_reaches_user_code_as_connection_closed(
    error: Exception, blocks: bool, coroutines: bool
) -> None:
    async with Peer(Quiet, coroutines=coroutines) as peer:
        peer.send_error = error
        if blocks:
            peer.block()
        sending = peer.handler.send(1)
        peer.unblock()
        with pytest.raises(ConnectionClosed) as caught:
            await sending
        assert caught.value.code == 1006
        assert peer.handler.dropped == 1


async def test_an_error_of_the_servers_send_drops_what_waits_behind_it() -> None:
    async with Peer(Quiet) as peer:
        peer.block()
        peer.send_error = OSError()
        waiting = [peer.handler.send(number) for number in range(3)]
        peer.unblock()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [ConnectionClosed] * 3
        assert peer.handler.dropped == 3


async def test_an_unawaited_send_that_the_server_refuses_is_counted_and_logged_at_debug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, LOG)
    async with Peer(Quiet) as peer:
        peer.send_error = OSError("the client is gone")
        peer.handler.send(1)
        peer.handler.send(2)
        assert peer.handler.dropped == 2
        lines = [record for record in caplog.records if "dropped" in record.message]
        assert [record.levelname for record in lines] == ["DEBUG", "DEBUG"]


async def test_a_client_that_leaves_while_send_blocks_ends_the_waiting() -> None:
    class Talks(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            await self.send(message)

    async with Peer(Talks) as peer:
        handler = peer.handler
        peer.block()
        waiting = [handler.send(1), handler.send(2)]
        peer.leave(code=1001)
        for sending in waiting:
            with pytest.raises(ConnectionClosed) as caught:
                await sending
            assert caught.value.code == 1001
        await peer.ended()
        assert handler.dropped == 2


@pytest.mark.parametrize("when", ["open", "blocked", "broken", "closed"])
async def test_an_action_that_nobody_awaits_never_warns(
    when: str, recwarn: pytest.WarningsRecorder
) -> None:
    async def task() -> None: ...

    async with Peer(Quiet) as peer:
        handler = peer.handler
        match when:
            case "blocked":
                peer.block()
            case "broken":
                peer.send_error = OSError()
            case "closed":
                handler.close()
        handler.send(1)
        handler.send_text("1")
        handler.send_bytes(b"1")
        if when != "closed":
            handler.start_task("task", task)
        handler.cancel_task("task")
        handler.close()
        handler.close()
    del handler
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


# --- from elsewhere ---------------------------------------------------------------------------


async def test_send_in_a_sync_hook_blocks_until_the_server_has_taken_it() -> None:
    taken: list[list[str]] = []

    class Sync(WebSocketHandler):
        def on_message(self, message: Any) -> None:
            self.send(message)
            taken.append(list(peer.texts))

    async with Peer(Sync) as peer:
        peer.say("1")
        await until(lambda: taken)
        assert taken == [["1"]]


async def in_thread(call: Callable[[], Any]) -> Any:
    """Call in a thread of its own, without an event loop."""
    return await asyncio.get_running_loop().run_in_executor(None, call)


async def test_send_in_another_thread_blocks_until_the_server_has_taken_it() -> None:
    async with Peer(Quiet) as peer:
        handler = peer.handler
        peer.block()
        sending = asyncio.ensure_future(in_thread(lambda: handler.send(1)))
        await until(lambda: peer.handler._connection.outbound.size)
        assert not sending.done()
        peer.unblock()
        await sending
        assert peer.texts == ["1"]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda handler: handler.send(object()), EncodeError),
        (lambda handler: handler.close(1005), ValueError),
    ],
    ids=["EncodeError", "ValueError"],
)
async def test_a_wrong_call_fails_in_the_thread_that_made_it(
    call: Callable[[Any], Any], error: type[Exception]
) -> None:
    async with Peer(Quiet) as peer:
        handler = peer.handler
        with pytest.raises(error):
            await in_thread(lambda: call(handler))


async def test_a_thread_gets_connection_closed_after_the_close() -> None:
    async with Peer(Quiet) as peer:
        handler = peer.handler
        await handler.close(4000)
        with pytest.raises(ConnectionClosed, match="4000"):
            await in_thread(lambda: handler.send(1))


async def test_a_thread_waits_a_bounded_time(settings: Settings) -> None:
    settings.WS_SEND_TIMEOUT = 0.01
    async with Peer(Quiet) as peer:
        handler = peer.handler
        peer.block()
        with pytest.raises(SendTimeout) as caught:
            await in_thread(lambda: handler.send(1))
        assert caught.value.action == "send"
        assert caught.value.seconds == 0.01
        assert isinstance(caught.value, TimeoutError)


async def test_an_action_that_timed_out_in_a_thread_still_happens(settings: Settings) -> None:
    settings.WS_SEND_TIMEOUT = 0.01
    async with Peer(Quiet) as peer:
        handler = peer.handler
        peer.block()
        with pytest.raises(SendTimeout):
            await in_thread(lambda: handler.send(1))
        peer.unblock()
        await until(lambda: peer.texts == ["1"])


async def test_another_event_loop_may_await_send() -> None:
    async def elsewhere(handler: Any) -> None:
        await handler.send(1)
        assert peer.texts == ["1"]

    async with Peer(Quiet) as peer:
        handler = peer.handler
        await in_thread(lambda: asyncio.run(elsewhere(handler)))


async def test_another_event_loop_gets_connection_closed() -> None:
    async def elsewhere(handler: Any) -> None:
        with pytest.raises(ConnectionClosed):
            await handler.send(1)

    async with Peer(Quiet) as peer:
        handler = peer.handler
        await handler.close()
        await in_thread(lambda: asyncio.run(elsewhere(handler)))


async def test_another_event_loop_need_not_await_send() -> None:
    async def elsewhere(handler: Any) -> None:
        handler.send(1)

    async with Peer(Quiet) as peer:
        handler = peer.handler
        await in_thread(lambda: asyncio.run(elsewhere(handler)))
        await until(lambda: peer.texts == ["1"])


async def test_another_event_loop_that_does_not_await_never_warns(
    recwarn: pytest.WarningsRecorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def elsewhere(handler: Any) -> None:
        handler.send(1)
        await asyncio.sleep(0.01)
        gc.collect()

    async with Peer(Quiet) as peer:
        handler = peer.handler
        await handler.close()
        await in_thread(lambda: asyncio.run(elsewhere(handler)))
        gc.collect()
    assert [str(warning.message) for warning in recwarn] == []
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


async def test_send_inside_async_to_sync_in_a_sync_hook() -> None:
    class Sync(WebSocketHandler):
        def on_message(self, message: Any) -> None:
            async_to_sync(self.answer)(message)

        async def answer(self, message: Any) -> None:
            await self.send(message)

    async with client(Sync) as ws:
        await ws.send(1)
        assert await ws.receive() == 1


async def test_send_in_sync_to_async_code_of_an_async_hook() -> None:
    class Mixed(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            await sync_to_async(self.send)(message)

    async with client(Mixed) as ws:
        await ws.send(1)
        assert await ws.receive() == 1


async def test_frames_of_one_thread_keep_the_order_of_the_calls() -> None:
    class Sync(WebSocketHandler):
        def on_message(self, message: Any) -> None:
            for number in range(20):
                self.send(number)

    async with client(Sync) as ws:
        await ws.send(None)
        assert [await ws.receive() for _ in range(20)] == list(range(20))


# --- contextvars ------------------------------------------------------------------------------

tracing: contextvars.ContextVar[str] = contextvars.ContextVar("tracing", default="none")


class Contextual(Peer):
    """A server (or a tracing layer in it) whose ``send`` uses context variables."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[str] = []

    async def _take(self, event: dict[str, Any]) -> None:
        self.seen.append(tracing.get())
        token = tracing.set("sending")
        try:
            await super()._take(event)
        finally:
            tracing.reset(token)

    async def _serve(self) -> None:
        tracing.set("connection")
        await super()._serve()


async def send_in_another_context(handler: Any) -> None:
    tracing.set("a background task")
    await handler.send(1)


@pytest.mark.parametrize("blocks", [False, True], ids=["at once", "after a suspension"])
async def test_the_servers_send_runs_in_the_connections_context(blocks: bool) -> None:
    async with Contextual(Quiet) as peer:
        if blocks:
            peer.block()
        sending = [asyncio.ensure_future(send_in_another_context(peer.handler)) for _ in range(2)]
        await asyncio.sleep(0)
        peer.unblock()
        await asyncio.gather(*sending)
        assert peer.seen == ["connection"] * 3


async def test_user_code_keeps_its_own_context_after_a_send() -> None:
    async with Contextual(Quiet) as peer:
        tracing.set("the test")
        await peer.handler.send(1)
        assert tracing.get() == "the test"


async def test_a_send_that_is_cancelled_by_the_server_itself_ends_the_connections_sending() -> None:
    async with Peer(Quiet) as peer:
        peer.block()
        peer.send_error = asyncio.CancelledError()
        sending = peer.handler.send(1)
        peer.unblock()
        with pytest.raises(ConnectionClosed):
            await sending


async def test_a_send_under_way_is_cancelled_when_the_client_leaves() -> None:
    cancelled: list[str] = []

    class Noticing(Peer):
        async def _take(self, event: dict[str, Any]) -> None:
            try:
                await super()._take(event)
            except asyncio.CancelledError:
                cancelled.append(event["text"])
                raise

    async with Noticing(Quiet) as peer:
        peer.block()
        peer.handler.send(1)
        peer.leave()
        await peer.ended()
        assert cancelled == ["1"]


async def test_a_server_that_refuses_to_be_cancelled_changes_nothing() -> None:
    class Stubborn(Peer):
        async def _take(self, event: dict[str, Any]) -> None:
            with suppress(asyncio.CancelledError):
                await super()._take(event)

    async with Stubborn(Quiet) as peer:
        handler = peer.handler
        peer.block()
        sending = handler.send(1)
        await turns()
        peer.leave()
        with pytest.raises(ConnectionClosed):
            await sending
        await peer.ended()
        assert handler.dropped == 1


async def test_a_server_may_give_up_its_turn_without_waiting_for_anything() -> None:
    class Polite(Peer):
        async def _take(self, event: dict[str, Any]) -> None:
            await asyncio.sleep(0)
            await super()._take(event)

    async with Polite(Quiet) as peer:
        await asyncio.gather(*(peer.handler.send(number) for number in range(3)))
        assert peer.texts == ["0", "1", "2"]


@pytest.mark.parametrize("blocks", [False, True], ids=["at once", "after it blocked"])
async def test_a_server_that_refuses_the_codes_of_the_protocol_gets_one_of_ours(
    blocks: bool,
) -> None:
    class Strict(Peer):
        async def _take(self, event: dict[str, Any]) -> None:
            if 1000 < event.get("code", 1000) < 3000:
                raise ValueError("invalid close code")
            await super()._take(event)

    async with Strict(Quiet) as peer:
        if blocks:
            peer.block()
            peer.handler.send(1)
        closing = peer.handler.close(1011, "why")
        peer.unblock()
        await closing
        assert peer.closes == [(4011, "why")]


async def test_cancelling_who_awaits_in_another_loop_does_not_take_the_message_back() -> None:
    async def elsewhere(handler: Any) -> None:
        sending = asyncio.ensure_future(wait_for(handler.send(1)))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])
        loop.call_soon_threadsafe(peer.unblock)
        await handler.send(2)

    async def wait_for(action: Any) -> None:
        await action

    loop = asyncio.get_running_loop()
    async with Peer(Quiet) as peer:
        handler = peer.handler
        peer.block()
        await in_thread(lambda: asyncio.run(elsewhere(handler)))
        assert peer.texts == ["1", "2"]


async def test_a_loop_that_ends_while_it_waits_for_a_send_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def elsewhere(handler: Any) -> None:
        waiting.append(asyncio.ensure_future(wait_for(handler.send(1))))
        await asyncio.sleep(0)

    async def wait_for(action: Any) -> None:
        await action

    waiting: list[Any] = []
    async with Peer(Quiet) as peer:
        handler = peer.handler
        peer.block()
        await in_thread(lambda: asyncio.run(elsewhere(handler)))
        peer.unblock()
        await until(lambda: peer.texts == ["1"])
        await handler.send(2)
    assert caplog.records == []


def handler_of_an_ended_loop() -> Any:
    async def life() -> Any:
        async with Peer(Quiet) as peer:
            return peer.handler

    return asyncio.run(life())


def test_a_thread_gets_connection_closed_from_a_loop_that_has_ended(
    recwarn: pytest.WarningsRecorder,
) -> None:
    handler = handler_of_an_ended_loop()
    with pytest.raises(ConnectionClosed):
        handler.send(1)
    gc.collect()
    assert list(recwarn) == []


def test_another_loop_gets_connection_closed_from_a_loop_that_has_ended() -> None:
    async def elsewhere() -> None:
        handler.send(1)
        with pytest.raises(ConnectionClosed):
            await handler.send(1)

    handler = handler_of_an_ended_loop()
    asyncio.run(elsewhere())


@pytest.mark.parametrize("blocks", [False, True], ids=["at once", "after a suspension"])
async def test_what_the_servers_send_leads_to_itself_waits_behind_it(blocks: bool) -> None:
    """A server logs the event, and a handler of the log tells the same client."""
    async with Peer(Quiet) as peer:

        def log(event: dict[str, Any]) -> None:
            peer.on_send = lambda event: None
            peer.handler.send("log")

        peer.on_send = log
        if blocks:
            peer.block()
        sending = peer.handler.send("message")
        await asyncio.sleep(0)
        peer.unblock()
        await sending
        await until(lambda: len(peer.texts) == 2)
        assert peer.texts == ['"message"', '"log"']


async def test_a_send_that_raises_before_it_gives_a_coroutine_is_the_end_of_sending() -> None:
    class Plain(Peer):
        def _send(self, event: dict[str, Any]) -> Any:
            if event["type"] == "websocket.send":
                raise OSError("gone")
            return super()._send(event)

    async with Plain(Quiet) as peer:
        with pytest.raises(ConnectionClosed):
            await peer.handler.send(1)
