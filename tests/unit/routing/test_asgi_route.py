"""An ASGI application as a route: what the middleware's handler may and may not do there."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from django_ws import WebSocketHandler
from django_ws.exceptions import StateError
from tests.support.asgi_peer import Peer, turns, until

calls: list[str] = []


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Accepts, echoes, and raises what it is told to."""
    calls.append("called")
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        if event["text"] == "raise":
            raise LookupError("the application failed")
        await send({"type": "websocket.send", "text": event["text"]})
    calls.append(event["type"])


route: Any = application


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


def rejects_and_goes_on(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        await ws.reject(401)
        await func(ws)

    return middleware


async def test_the_application_has_the_connection() -> None:
    async with Peer(route) as peer:
        peer.say("1", "2")
        peer.leave()
        await peer.ended()
        assert peer.texts == ["1", "2"]
    assert calls == ["called", "websocket.disconnect"]


async def test_a_middleware_that_rejects_and_goes_on_does_not_call_the_application() -> None:
    async with Peer(
        route,
        opens=False,
        extensions={"websocket.http.response": {}},
        middleware=[f"{__name__}.rejects_and_goes_on"],
    ) as peer:
        await peer.ended()
        assert peer.sent[0]["status"] == 401
    assert calls == []


@pytest.mark.parametrize(("method", "argument"), [("send", 1), ("subscribe", "a"), ("reject", 403)])
async def test_the_middlewares_handler_may_not_act_for_the_application(
    method: str, argument: Any
) -> None:
    async with Peer(route) as peer:
        with pytest.raises(StateError):
            getattr(peer.handler, method)(argument)


async def test_the_middlewares_handler_may_close_under_the_application() -> None:
    async with Peer(route) as peer:
        await peer.handler.close(4403, "no longer allowed")
        assert peer.sent[-1] == {
            "type": "websocket.close", "code": 4403, "reason": "no longer allowed",
        }  # fmt: skip
        assert peer.handler.closed


async def test_an_exception_of_the_application_is_the_servers_to_answer() -> None:
    async with Peer(route) as peer:
        peer.say("raise")
        with pytest.raises(LookupError, match="the application failed"):
            await peer.ended()


async def test_tasks_of_the_middlewares_handler_end_with_the_application() -> None:
    async with Peer(route) as peer:
        task = peer.handler.start_task("task", asyncio.Event().wait)
        await turns()
        peer.leave()
        await peer.ended()
        assert task.cancelled()
        assert peer.handler.closed


async def test_a_cancellation_reaches_the_application() -> None:
    async with Peer(route) as peer:
        await until(lambda: calls)
        peer.task.cancel()
        await asyncio.wait([peer.task])
        assert peer.task.cancelled()
