"""Handshakes under way are bounded; those that wait have their turn, in order, or are told."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
from django.urls import clear_url_caches
from pytest_django import Settings

from django_ws import Reject, WebSocketHandler
from django_ws.auth import FirstMessageAuthMixin
from django_ws.drain import drain
from django_ws.limits import handshake_queue
from django_ws.limits.connection_limits import limits
from django_ws.limits.handshake_queue import handshake_queue_of
from tests.asgi import application
from tests.support import asgi_peer
from tests.support.asgi_peer import Event, HandlerClass, route, turns, until
from tests.support.routes import path

HTTP: dict[str, Any] = {"websocket.http.response": {}}
SECONDS = 50.0  # the bound of every wait


class Client:
    """A handshake: the test plays the server and the client."""

    def __init__(self, at: str = "/ws/") -> None:
        self.sent: list[Event] = []
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._events.put_nowait({"type": "websocket.connect"})
        scope = {
            "type": "websocket",
            "path": at,
            "raw_path": at.encode(),
            "query_string": b"",
            "headers": [(b"host", b"testserver")],
            "client": ("127.0.0.1", 50000),
            "extensions": HTTP,
        }
        self.task = asyncio.ensure_future(application(scope, self._events.get, self._send))

    async def _send(self, event: Any) -> None:
        self.sent.append(event)

    def say(self, text: str) -> None:
        self._events.put_nowait({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        self._events.put_nowait({"type": "websocket.disconnect", "code": 1006})

    @property
    def is_open(self) -> bool:
        return self.sent == [{"type": "websocket.accept"}]

    @property
    def status(self) -> int | None:
        """Of the refusal."""
        return self.sent[0].get("status") if self.sent else None

    @property
    def retry_after(self) -> int:
        return int(dict(self.sent[0]["headers"])[b"retry-after"])


class Slow(WebSocketHandler):
    """Its handshakes go on when the test lets them; ``begun`` tells which have begun."""

    begun: list[str]
    go_on: asyncio.Semaphore

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.begun = []
        cls.go_on = asyncio.Semaphore(0)

    async def on_connect(self) -> None:
        self.begun.append("on_connect")
        await self.go_on.acquire()


def let(handler: type[Slow], count: int) -> None:
    for _ in range(count):
        handler.go_on.release()


@pytest.fixture(autouse=True)
def settings_of_all(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.WS_MAX_HANDSHAKES = 2
    settings.WS_DRAIN_SECONDS = 0
    settings.WS_CONNECT_TIMEOUT = SECONDS
    monkeypatch.setattr(asgi_peer, "SECONDS", SECONDS)
    # Leaving is noticed at once.
    monkeypatch.setattr("django_ws.connection.inbound.SWEEP_SECONDS", 0.01)


@pytest.fixture(autouse=True)
async def nothing_stays() -> AsyncIterator[None]:
    """After every test: nobody is left in a gate, and no gate; nobody is counted."""
    count = vars(limits)["_count"]
    yield
    here = handshake_queue_of(asyncio.get_running_loop())
    await until(lambda: (here.inside, here.waiting) == (0, 0))
    assert vars(here)["_routes"] == vars(here)["_places"] == {}
    assert vars(limits)["_count"] == count


@asynccontextmanager
async def clients(handler: HandlerClass, count: int) -> AsyncIterator[list[Client]]:
    with route(handler):
        coming = [Client() for _ in range(count)]
        await turns()
        try:
            yield coming
        finally:
            await away(coming)


async def away(coming: list[Client]) -> None:
    for client in coming:
        client.leave()
    tasks = [client.task for client in coming]
    async with asyncio.timeout(SECONDS):
        await asyncio.wait(tasks)


async def test_so_many_are_under_way_and_no_more() -> None:
    class Handler(Slow):
        pass

    async with clients(Handler, 7) as coming:
        here = handshake_queue_of(asyncio.get_running_loop())
        assert len(Handler.begun) == here.inside == 2
        assert here.waiting == 5
        let(Handler, 1)
        await until(lambda: len(Handler.begun) == 3)
        await turns()
        assert len(Handler.begun) == 3
        assert here.waiting == 4
        let(Handler, 6)
        await until(lambda: all(client.is_open for client in coming))
        assert here.inside == 0  # open connections take no place


def opened(coming: list[Client], count: int) -> bool:
    return sum(client.is_open for client in coming) == count


async def test_first_come_first_served() -> None:
    class Handler(Slow):
        pass

    async with clients(Handler, 6) as coming:
        for count in range(1, 7):
            let(Handler, 1)
            await until(partial(opened, coming, count))
            assert [client.is_open for client in coming] == [True] * count + [False] * (6 - count)


async def test_whoever_comes_later_does_not_overtake() -> None:
    class Handler(Slow):
        pass

    async with clients(Handler, 3) as coming:
        let(Handler, 1)
        late = Client()  # comes before the third one has woken
        coming.append(late)
        await turns()
        let(Handler, 2)
        await until(lambda: all(client.is_open for client in coming[:3]))
        assert not late.is_open
        let(Handler, 1)
        await until(lambda: late.is_open)


@pytest.mark.parametrize("refusing", ["on_connect", "a middleware"])
async def test_a_refused_handshake_gives_its_place_away(refusing: str) -> None:
    class Handler(WebSocketHandler):
        async def on_connect(self) -> None:
            raise Reject(401)

    middleware = [] if refusing == "on_connect" else [f"{__name__}.refusing"]
    with route(Handler, middleware=middleware):
        coming = [Client() for _ in range(9)]
        await until(lambda: all(client.status == 401 for client in coming))
        await away(coming)


def refusing(func: Any) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        await asyncio.sleep(0)
        await ws.reject(401)

    return middleware


async def test_another_route_does_not_wait_for_a_slow_one() -> None:
    class Handler(Slow):
        pass

    class Quick(WebSocketHandler):
        pass

    async with clients(Handler, 7) as coming:
        asgi_peer.urlpatterns.append(path("quick/", Quick))
        clear_url_caches()
        quick = Client("/quick/")
        await until(lambda: quick.is_open)
        assert len(Handler.begun) == 2
        await away([quick])
        let(Handler, 7)
        await until(lambda: all(client.is_open for client in coming))


async def test_a_handler_that_cannot_be_made_gives_its_place_away() -> None:
    class Handler(WebSocketHandler):
        def __init__(self, *args: Any) -> None:
            raise LookupError("no handler")

    with route(Handler):
        coming = [Client() for _ in range(5)]
        for client in coming:
            with pytest.raises(LookupError):
                await client.task


async def test_the_application_of_a_route_has_its_place_until_it_is_called() -> None:
    async def accepting(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()

    any_route: Any = accepting
    async with clients(any_route, 5) as coming:
        await until(lambda: all(client.is_open for client in coming))


@dataclass
class Accepting:
    """Not hashable, as all that compares by value and may be changed."""

    code: int

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        await receive()


async def test_an_application_need_not_be_hashable() -> None:
    any_route: Any = Accepting(1000)
    async with clients(any_route, 5) as coming:
        await until(lambda: all(client.is_open for client in coming))


async def test_who_has_yet_to_say_the_first_message_takes_no_place() -> None:
    class Handler(FirstMessageAuthMixin, WebSocketHandler):
        pass

    async with clients(Handler, 5) as coming:
        await until(lambda: all(client.is_open for client in coming))
        assert handshake_queue_of(asyncio.get_running_loop()).inside == 0


# --- those who wait -----------------------------------------------------------------------------


async def test_more_than_may_wait_are_told_to_come_back(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(handshake_queue, "WAITING_FOR_EACH", 2)

    class Handler(Slow):
        pass

    async with clients(Handler, 9) as coming:
        refused = coming[6:]
        await until(lambda: all(client.status == 503 for client in refused))
        assert all(1 <= client.retry_after <= 10 for client in refused)
        let(Handler, 6)
        await until(lambda: all(client.is_open for client in coming[:6]))
    [warning] = [record.getMessage() for record in caplog.records]  # one for the three
    assert warning == (
        "WebSocket /ws/ refused with 503: too many wait already; 2 handshakes of this route are "
        "under way, as many as WS_MAX_HANDSHAKES allows, and 4 wait (1 refused so far)"
    )


async def test_no_turn_in_time_is_a_503(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(Slow):
        pass

    async with clients(Handler, 2) as coming:
        settings.WS_CONNECT_TIMEOUT = 0.02  # those inside began with a longer one
        late = Client()
        coming.append(late)
        await until(lambda: late.sent)
        assert late.status == 503
        assert len(Handler.begun) == 2
        let(Handler, 2)
        await until(lambda: coming[1].is_open)
    assert "no turn within WS_CONNECT_TIMEOUT (0.02 s)" in caplog.text


async def test_who_leaves_while_waiting_takes_no_turn() -> None:
    class Handler(Slow):
        pass

    async with clients(Handler, 5) as coming:
        gone = coming[3]
        gone.leave()
        await asyncio.wait_for(asyncio.shield(gone.task), SECONDS)
        assert gone.sent == [{"type": "websocket.close", "code": 1000}]  # what uvicorn needs
        let(Handler, 4)
        await until(lambda: all(client.is_open for client in coming if client is not gone))
        assert len(Handler.begun) == 4


async def test_messages_that_came_early_are_not_lost() -> None:
    """A client may speak before it has the answer to its handshake, or so a proxy may deliver."""
    messages: list[Any] = []

    class Handler(Slow):
        async def on_message(self, message: Any) -> None:
            messages.append(message)

    async with clients(Handler, 3) as coming:
        coming[2].say("1")
        await until(lambda: coming[2]._events.empty())  # read ahead, at the gate
        coming[2].say("2")
        let(Handler, 3)
        await until(lambda: messages == [1, 2])


async def test_a_server_that_cancels_who_waits() -> None:
    class Handler(Slow):
        pass

    async with clients(Handler, 5) as coming:
        waiting = coming.pop()
        waiting.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting.task
        let(Handler, 4)
        await until(lambda: all(client.is_open for client in coming))


async def test_a_server_that_cancels_whose_turn_has_just_come() -> None:
    class Handler(Slow):
        pass

    async with clients(Handler, 4) as coming:
        third = coming[2]
        third.task.cancel()
        # As if a place became free before that task has seen its cancellation.
        here = handshake_queue_of(asyncio.get_running_loop())
        (gate,) = vars(here)["_routes"].values()
        here.leave(next(iter(gate.inside)))
        with pytest.raises(asyncio.CancelledError):
            await third.task
        let(Handler, 3)
        await until(lambda: all(client.is_open for client in coming if client is not third))


async def test_who_waits_is_one_of_those_that_the_process_takes(settings: Settings) -> None:
    settings.WS_MAX_CONNECTIONS = 3

    class Handler(Slow):
        pass

    async with clients(Handler, 3) as coming:  # two under way, and one that waits
        full = Client()
        await until(lambda: full.status == 503)
        gone = coming.pop()
        await away([gone, full])
        coming.append(Client())  # there is room for one again
        let(Handler, 3)
        await until(lambda: all(client.is_open for client in coming))


async def test_a_drain_turns_away_who_waits() -> None:
    class Handler(Slow):
        pass

    async with clients(Handler, 5) as coming:
        draining = asyncio.create_task(drain())
        await until(lambda: all(client.status == 503 for client in coming))
        assert len(Handler.begun) == 2
        let(Handler, 2)
        async with asyncio.timeout(SECONDS):
            await draining


async def test_a_drain_turns_away_whose_turn_has_just_come() -> None:
    class Handler(Slow):
        pass

    async with clients(Handler, 5) as coming:
        here = handshake_queue_of(asyncio.get_running_loop())
        let(Handler, 2)
        while here.waiting > 1:  # noqa: ASYNC110  # the drain begins in that very turn of the loop
            await asyncio.sleep(0)
        assert here.inside == 2
        async with asyncio.timeout(SECONDS):
            await drain()
        await until(lambda: all(client.status == 503 for client in coming[2:]))
        assert len(Handler.begun) == 2
        assert [client.sent[-1]["code"] for client in coming[:2]] == [1012, 1012]


async def test_a_storm_is_worked_off_while_others_are_served(settings: Settings) -> None:
    """Counted in turns of the event loop, which are the same on every machine."""
    settings.WS_MAX_HANDSHAKES = 20
    most = 0

    class Handler(WebSocketHandler):
        async def on_connect(self) -> None:
            nonlocal most
            most = max(most, handshake_queue_of(asyncio.get_running_loop()).inside)
            await asyncio.sleep(0)

    class Echo(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            await self.send(message)

    with route(Handler):
        asgi_peer.urlpatterns.append(path("echo/", Echo))
        clear_url_caches()
        other = Client("/echo/")
        await until(lambda: other.is_open)
        storm = [Client() for _ in range(1000)]
        async with asyncio.timeout(SECONDS):
            while not all(client.is_open for client in storm):
                count = len(other.sent)
                other.say("1")
                while len(other.sent) == count:  # noqa: ASYNC110  # in turns
                    await asyncio.sleep(0)
        answers = len(other.sent) - 1
        await away([other, *storm])
    assert most <= 20
    assert answers >= 20  # one for each fifty handshakes, or more
