"""Reading while a hook runs: a closing client is noticed soon, and nobody fills the memory."""

import asyncio
from typing import Any

import pytest

from django_ws import WebSocketHandler
from django_ws.connection.inbound import MAX_WAITING_MESSAGES
from tests.support.asgi_peer import Peer, turns, until


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook counts as slow at once, for quick tests."""
    monkeypatch.setattr("django_ws.connection.inbound.SWEEP_SECONDS", 0.01)


class Slow(WebSocketHandler):
    """Its ``on_message`` waits for the test."""

    go_on: asyncio.Event
    handled: list[Any]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.handled = []

    async def on_open(self) -> None:
        type(self).go_on = asyncio.Event()

    async def on_message(self, message: Any) -> None:
        await self.go_on.wait()
        self.handled.append(message)


async def test_a_closing_client_is_noticed_within_1_s_while_a_hook_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()

    class Handler(Slow):
        pass

    async with Peer(Handler) as peer:
        loop = asyncio.get_running_loop()
        peer.say("1")
        await until(lambda: peer.received == 2)
        left = loop.time()
        peer.leave()
        await until(lambda: peer.handler.closed)
        assert loop.time() - left < 1.0
        Handler.go_on.set()


@pytest.mark.parametrize("name", ["on_open", "on_message", "on_bytes", "on_decode_error"])
async def test_the_client_is_noticed_in_every_hook(name: str) -> None:
    go_on = asyncio.Event()

    async def hook(self: Any, *args: Any) -> None:
        await go_on.wait()

    async with Peer(type("Handler", (WebSocketHandler,), {name: hook})) as peer:
        match name:
            case "on_message":
                peer.say("1")
            case "on_bytes":
                peer.feed({"type": "websocket.receive", "bytes": b"1"})
            case "on_decode_error":
                peer.say("{")
        peer.leave()
        await until(lambda: peer.handler.closed)
        go_on.set()
        await peer.ended()


async def test_background_tasks_are_cancelled_while_the_hook_still_runs() -> None:
    class Handler(Slow):
        pass

    async with Peer(Handler) as peer:
        task = peer.handler.start_task("task", asyncio.Event().wait)
        peer.say("1")
        peer.leave()
        await asyncio.wait([task])
        assert task.cancelled()
        assert not peer.task.done()
        Handler.go_on.set()


async def test_a_sleep_loop_in_a_hook_ends_when_the_client_leaves() -> None:
    reached: list[str] = []

    async def nothing() -> None: ...

    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            await self.sleep_loop(nothing, 3600)
            reached.append("after the loop")

    async with Peer(Handler) as peer:
        peer.say("1")
        peer.leave()
        await peer.ended()
    assert reached == ["after the loop"]


async def test_reading_stops_when_more_than_16_messages_wait() -> None:
    class Handler(Slow):
        pass

    async with Peer(Handler) as peer:
        peer.say(*(str(number) for number in range(40)))
        await until(lambda: peer.received >= 2 + MAX_WAITING_MESSAGES + 1)
        await turns()
        assert peer.received == 2 + MAX_WAITING_MESSAGES + 1  # connect, the first, 17 waiting
        Handler.go_on.set()
        peer.leave()
        await peer.ended()
    assert Handler.handled == list(range(40))


@pytest.mark.parametrize("key", ["text", "bytes"])
async def test_reading_stops_when_more_than_1_mib_waits(key: str) -> None:
    class Handler(Slow):
        pass

    big: Any = '"' + "x" * 600_000 + '"'
    if key == "bytes":
        big = big.encode()
    async with Peer(Handler) as peer:
        for _ in range(6):
            peer.feed({"type": "websocket.receive", key: big})
        await until(lambda: peer.received >= 4)
        await turns()
        assert peer.received == 4  # connect, the first, two waiting
        Handler.go_on.set()
        peer.leave()
        await peer.ended()
    assert len(Handler.handled) == 6


async def test_a_full_buffer_is_read_on_when_the_next_hook_is_slow_too() -> None:
    class Handler(Slow):
        async def on_message(self, message: Any) -> None:
            await self.go_on.wait()
            self.go_on.clear()
            self.handled.append(message)

    async with Peer(Handler) as peer:
        peer.say(*(str(number) for number in range(20)))
        await until(lambda: peer.received == 19)
        Handler.go_on.set()
        await until(lambda: peer.received == 20)
        assert Handler.handled == [0]
        while len(Handler.handled) < 20:
            Handler.go_on.set()
            await asyncio.sleep(0)
    assert Handler.handled == list(range(20))


async def test_messages_read_ahead_keep_their_order_with_those_that_come_later() -> None:
    class Handler(Slow):
        pass

    async with Peer(Handler) as peer:
        peer.say("1", "2", "3")
        await until(lambda: peer.received == 4)
        Handler.go_on.set()
        await until(lambda: len(Handler.handled) == 3)
        peer.say("4")
        peer.leave()
        await peer.ended()
    assert Handler.handled == [1, 2, 3, 4]


async def test_a_hook_that_ends_while_nothing_comes_leaves_the_next_message_to_the_reader() -> None:
    """The reader is in the middle of a receive when the hook ends: no event may get lost."""

    class Handler(Slow):
        pass

    async with Peer(Handler) as peer:
        peer.say("1", "2")
        await until(lambda: peer.received == 3)  # the reader waits for a third
        Handler.go_on.set()
        await until(lambda: len(Handler.handled) == 2)
        for number in range(3, 6):
            peer.say(str(number))
            await until(lambda: len(Handler.handled) == number)  # noqa: B023  # waits right here
        peer.leave()
        await peer.ended()
    assert Handler.handled == [1, 2, 3, 4, 5]


async def test_the_application_is_cancelled_while_it_waits_for_the_reader() -> None:
    ends: list[int | None] = []

    class Handler(Slow):
        async def on_close(self) -> None:
            ends.append(self.close_code)

    async with Peer(Handler) as peer:
        peer.say("1", "2")
        await until(lambda: peer.received == 3)
        Handler.go_on.set()
        await until(lambda: len(Handler.handled) == 2)
        await turns()
        peer.task.cancel()
        await asyncio.wait([peer.task])
        assert peer.task.cancelled()
    assert ends == [1001]


async def test_a_server_close_ends_the_wait_for_the_reader() -> None:
    class Handler(Slow):
        pass

    async with Peer(Handler) as peer:
        peer.say("1", "2")
        await until(lambda: peer.received == 3)
        Handler.go_on.set()
        await until(lambda: len(Handler.handled) == 2)
        await turns()
        await peer.handler.close(4000)
        await peer.ended()
        assert peer.closes == [(4000, "")]


async def test_a_slow_handler_does_not_keep_the_loops_timer_going() -> None:
    """After the hooks have ended nothing looks at them any more."""

    class Handler(Slow):
        pass

    async with Peer(Handler) as peer:
        peer.say("1")
        peer.say("2")
        await until(lambda: peer.received == 3)
        Handler.go_on.set()
        peer.leave()
        await peer.ended()
    await until(lambda: not watched())


def watched() -> bool:
    """Whether a timer of this loop looks for slow hooks."""
    loop: Any = asyncio.get_running_loop()
    return any("Watch" in repr(handle) for handle in loop._scheduled if not handle.cancelled())


async def test_a_slow_hook_is_noticed_on_a_connection_that_was_idle() -> None:
    class Handler(Slow):
        pass

    async with Peer(Handler) as peer:
        await until(lambda: not watched())
        peer.say("1")
        peer.leave()
        await until(lambda: peer.handler.closed)
        Handler.go_on.set()
