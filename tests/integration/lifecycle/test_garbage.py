"""A connection that has ended leaves no reference cycle: nothing waits for the collector."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import Client

from django_ws import ConnectionClosed, WebSocketHandler, abroadcast
from django_ws.auth.login import Login
from tests.support.asgi_peer import Peer, handlers, turns, until
from tests.support.leftovers import leftovers

pytestmark = pytest.mark.django_db(transaction=True)

MIDDLEWARE = "django_ws.middleware.AuthMiddleware"

Visit = Callable[[], Awaitable[None]]


class Quiet(WebSocketHandler):
    async def on_message(self, message: Any) -> None:
        await self.send(message)


class Sync(WebSocketHandler):
    def on_message(self, message: Any) -> None:
        self.send(message)


class SyncSendsLate(WebSocketHandler):
    def on_message(self, message: Any) -> None:
        self.close(4001)
        with suppress(ConnectionClosed):
            self.send(message)


class Busy(WebSocketHandler):
    """Has topics, tasks, all hooks."""

    topics = ("room",)
    idle_timeout = 60
    rate_limit = "1000/s"

    async def on_connect(self) -> None:
        pass

    async def on_open(self) -> None:
        await self.subscribe("other")
        self.start_task("endless", self.endless, callback=self.called_back)
        self.start_ping()
        self.start_task("short", self.short)

    async def on_message(self, message: Any) -> None:
        await self.send(message)

    async def on_broadcast(self, topic: str, message: Any) -> None:
        await self.send(message)

    async def on_close(self) -> None:
        pass

    async def endless(self) -> None:
        await asyncio.Event().wait()

    async def short(self) -> None:
        pass

    def called_back(self, task: Any) -> None:
        pass


class Fails(Busy):
    async def on_message(self, message: Any) -> None:
        raise LookupError("a mistake")


class JoinsLate(Busy):
    async def on_message(self, message: Any) -> None:
        await self.close(4001)
        await self.subscribe(["a", "b"])


class Slow(Busy):
    async def on_message(self, message: Any) -> None:
        await self.send(message)
        await asyncio.sleep(1.2)  # long enough for what comes next to be read meanwhile


class TaskFails(Busy):
    async def short(self) -> None:
        raise LookupError("a mistake")


class Rejects(WebSocketHandler):
    async def on_connect(self) -> None:
        await self.reject(401)


class Waits(WebSocketHandler):
    async def on_connect(self) -> None:
        await asyncio.sleep(0.9)  # long enough for the client's leaving to be read meanwhile


class RejectsByClose(Rejects):
    reject_with = "close"


class FirstMessage(Quiet):
    async def authenticate_first(self, message: Any) -> Login | None:
        return Login(None) if message == "secret" else None


async def application(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


class Breaking(Peer):
    """Its ``send`` and ``receive`` raise, on demand, an exception that nothing else refers to."""

    sends = receives = True

    async def _take(self, event: Any) -> None:
        await super()._take(event)
        if not self.sends:
            raise OSError("gone")

    async def _receive(self) -> Any:
        event = await super()._receive()
        if not self.receives:
            raise OSError("gone")
        return event


def talk(handler: Any, **options: Any) -> Visit:
    async def visit() -> None:
        async with Peer(handler, **options) as peer:
            peer.say("1", "2")
            await until(lambda: peer.texts)
            peer.leave(code=1000)
            await peer.ended()

    return visit


async def logged_in() -> None:
    user = await User.objects.acreate_user("alice" + str(await User.objects.acount()))
    client = Client()
    await client.aforce_login(user)
    cookie = f"sessionid={client.cookies['sessionid'].value}".encode()
    await talk(Busy, headers=[(b"cookie", cookie)], middleware=[MIDDLEWARE])()


async def with_broadcasts() -> None:
    async with Peer(Busy) as peer:
        await abroadcast("room", "hello")
        await until(lambda: peer.texts)
        peer.leave()
        await peer.ended()


async def closed_by_us() -> None:
    async with Peer(Busy) as peer:
        await peer.handler.close(4001)
        await peer.ended()


async def ended_by_a_message(handler: Any = Fails) -> None:
    async with Peer(handler) as peer:
        peer.say("1")
        await peer.ended()


async def send_failed() -> None:
    async with Breaking(Busy) as peer:
        peer.sends = False
        peer.say("1")
        await until(lambda: peer.handler.dropped)
        peer.leave()
        await peer.ended()


async def send_failed_after_it_blocked() -> None:
    async with Breaking(Busy) as peer:
        peer.block()
        peer.say("1")
        await turns()
        peer.sends = False
        peer.unblock()
        await until(lambda: peer.handler.dropped)
        peer.leave()
        await peer.ended()


async def left_while_blocked() -> None:
    async with Peer(Busy) as peer:
        peer.block()
        peer.say("1")
        peer.handler.send(1)
        await turns()
        peer.leave()
        await peer.ended()


async def receive_failed() -> None:
    async with Breaking(Busy) as peer:
        peer.receives = False
        peer.say("1")
        await peer.ended()


async def receive_failed_in_a_hook() -> None:
    async with Breaking(Slow) as peer:
        peer.say("1")
        await until(lambda: peer.texts)
        peer.receives = False
        peer.say("2")
        await peer.ended()


async def refused(handler: Any = Rejects) -> None:
    extensions: dict[str, Any] = {"websocket.http.response": {}}
    async with Peer(handler, opens=False, extensions=extensions) as peer:
        await peer.ended()


async def no_route() -> None:
    extensions: dict[str, Any] = {"websocket.http.response": {}}
    peer = Peer(Quiet, opens=False, extensions=extensions)
    peer.scope["path"] = "/nowhere/"
    async with peer:
        await peer.ended()
        assert peer.sent[0]["status"] == 404


async def foreign_origin() -> None:
    headers = [(b"origin", b"https://foreign.example")]
    async with Peer(Quiet, opens=False, headers=headers) as peer:
        await peer.ended()
        assert peer.closes


async def left_in_the_handshake() -> None:
    async with Peer(Waits, opens=False) as peer:
        peer.leave()
        await peer.ended()


async def first_message(text: str = '"secret"') -> None:
    async with Peer(FirstMessage) as peer:
        peer.say(text, "1")
        # Not while the log-in is checked: asgiref leaves a cycle where that is cancelled.
        await until(lambda: peer.texts or peer.closes)
        peer.leave()
        await peer.ended()


async def asgi_application(how: str) -> None:
    route: Any = application
    async with Peer(route) as peer:
        peer.say("1")
        await until(lambda: peer.texts)
        if how == "closed":
            await handlers[-1].close(4001)
        peer.leave()
        await peer.ended()


VISITS: dict[str, Visit] = {
    "plain": talk(Quiet),
    "sync hooks": talk(Sync),
    "topics, tasks, all hooks": talk(Busy),
    "a task that fails": talk(TaskFails),
    "broadcasts": with_broadcasts,
    "logged in": logged_in,
    "closed by us": closed_by_us,
    "an error in a hook": ended_by_a_message,
    "a sync hook that sends after the close": lambda: ended_by_a_message(SyncSendsLate),
    "a topic that is joined after the close": lambda: ended_by_a_message(JoinsLate),
    "send failed": send_failed,
    "send failed after it blocked": send_failed_after_it_blocked,
    "left while the server was blocked": left_while_blocked,
    "receive failed": receive_failed,
    "receive failed while a hook ran": receive_failed_in_a_hook,
    "refused": refused,
    "refused after the accept": lambda: refused(RejectsByClose),
    "no route": no_route,
    "a foreign origin": foreign_origin,
    "left in the handshake": left_in_the_handshake,
    "first message": first_message,
    "wrong first message": lambda: first_message('"wrong"'),
    "an ASGI application": lambda: asgi_application("left"),
    "an ASGI application, closed by us": lambda: asgi_application("closed"),
}


@pytest.mark.parametrize("name", list(VISITS))
async def test_nothing_waits_for_the_garbage_collector(name: str) -> None:
    visit = VISITS[name]
    await visit()  # fills caches
    await turns()
    for _ in range(5):  # what a thread lets go of meanwhile looks the same, but not each time
        with leftovers() as left:
            for _ in range(2):
                await visit()
            await turns()
            left.look()
        if not left.found:
            return
    assert left.found == {}


async def test_asgiref_still_leaves_a_cycle_for_each_exception() -> None:
    """When this fails, docs/running.md need not name it any more."""

    def fail() -> None:
        raise LookupError("a mistake")

    async def call() -> None:
        with suppress(LookupError):
            await sync_to_async(fail)()

    await call()
    with leftovers() as left:
        await call()
        left.look()
    assert "builtins.LookupError" in left.found
