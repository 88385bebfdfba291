"""Every line of the log that a client or a broadcast can cause is bounded in number.

Two lists, both complete: the kinds of lines that are throttled, each with a flood that causes it,
and the calls of a logger that are not throttled, each with the reason why nobody can cause many.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import logging
import pkgutil
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.exceptions import BadRequest, PermissionDenied
from pytest_django import Settings

import django_ws
from django_ws import ConnectionClosed, WebSocketHandler, abroadcast, broadcast_on_commit
from django_ws.auth.tokens import once
from django_ws.auth.tokens.ticket_session import session_key_of
from django_ws.exceptions import BroadcastError, InvalidMessage
from django_ws.logs import throttled as throttled_log
from django_ws.logs.throttled import MAX_KEYS, ThrottledLog
from django_ws.pubsub.backends import sequence
from django_ws.pubsub.backends.breaker import Breaker
from django_ws.pubsub.backends.memory import MemoryPublisher
from django_ws.pubsub.hub import arrivals
from django_ws.pubsub.hub.registry import running_hub
from django_ws.testing import HandshakeRejected, WebSocketClient
from django_ws.threads import pool, stalls
from tests.support.asgi_peer import PATH, SECONDS, Peer, handlers, route, until
from tests.support.fickle import CONFIG, FickleBackend, fickle  # noqa: F401  (a fixture)

MANY = 3 * MAX_KEYS
PACKAGE = Path(django_ws.__file__).parent

pytestmark = pytest.mark.django_db(transaction=True)


# --- the calls that are not throttled ------------------------------------------------------------

ONCE = "once for each start, end or restart"
OUTAGE = "at growing intervals while a server is away, and once when it is back"
OPERATOR = "what the operator does or has set"
SITE = "an exception in the site's own code, as in a view"

NOT_THROTTLED = {
    "auth/orders.py": {"_publish_here": "one for each log-in, log-out or change of a user"},
    "auth/session_rows.py": {"_note_deleted": "a defect of the library"},
    "auth/signals.py": {"_session_ended": SITE},
    "auth/tokens/ticket.py": {"__init__": ONCE},
    "drain.py": {"_await_end": ONCE, "drain": ONCE},
    "conf/installed.py": {"tell_what_is_missing": ONCE},
    "missed_upgrades.py": {"_tell": "once in each process"},
    "pubsub/backends/redis/outage.py": {"end": OUTAGE, "go_on": OUTAGE},
    "pubsub/backends/zeromq/backend.py": {"_come_back": OUTAGE, "_lose": OUTAGE},
    "pubsub/backends/zeromq/broker.py": {"_log": OUTAGE},
    "pubsub/hub/task_group.py": {"_run": "a defect of the library"},
    "pubsub/hub/hub.py": {
        "_check_all": OUTAGE,
        "_listen_always": "once a second at most, while a backend fails",
    },
    "pubsub/outbox/loss_log.py": {"end": OUTAGE, "tell": OUTAGE},
    "logs/error_reports.py": {
        "_report": SITE,
        "report_error": "a log handler of the site's that fails",
    },
    "server/base.py": {"_wait_until_over": ONCE, "shutdown": ONCE},
    "server/workers/file_changes.py": {"__init__": ONCE},
    "server/dev/server.py": {"stop": ONCE},
    "server/dev/log.py": {"_log": "the access log, while developing"},
    "server/workers/loading.py": {"prepared": ONCE},
    "server/workers/open_files.py": {"raise_limit": ONCE},
    "server/workers/last_threads.py": {"_end": ONCE},
    "server/workers/broker_process.py": {"_discard": ONCE, "_start": ONCE, "look": ONCE},
    "server/workers/running.py": {"serve": ONCE},
    "server/workers/supervisor.py": {},  # all of it is about workers
    "server/workers/worker.py": {"_read": ONCE},
}
LEVELS = {"info", "warning", "error", "exception", "critical", "log"}


def direct_calls(path: Path) -> Iterator[str]:
    """The functions in which a line of at least INFO is logged past a ``ThrottledLog``."""

    class Visitor(ast.NodeVisitor):
        function = ""

        def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
            outer, self.function = self.function, node.name
            self.generic_visit(node)
            self.function = outer

        def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
            self.visit_FunctionDef(node)

        def visit_Call(self, node: ast.Call) -> None:
            match node.func:
                case ast.Attribute(value=ast.Name(id="logger"), attr=attr) if attr in LEVELS:
                    found.append(self.function)
            self.generic_visit(node)

    found: list[str] = []
    Visitor().visit(ast.parse(path.read_text()))
    return iter(found)


def test_every_line_that_is_not_throttled_has_a_reason() -> None:
    found = {
        str(path.relative_to(PACKAGE)): {*direct_calls(path)}
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    unknown = {
        (name, function)
        for name, functions in found.items()
        for function in functions
        if not (name == "server/workers/supervisor.py" or function in NOT_THROTTLED.get(name, {}))
    }
    assert unknown == set(), "throttle these lines, or say why nobody can cause many of them"
    gone = {
        (name, function)
        for name, functions in NOT_THROTTLED.items()
        for function in functions
        if function not in found.get(name, set())
    }
    assert gone == set(), "these log nothing any more"


# --- the kinds that are throttled ----------------------------------------------------------------

Flood = Callable[["Floods"], Awaitable[None]]
FLOODS: dict[str, Flood] = {}


def floods(kind: str) -> Callable[[Flood], Flood]:
    def register(flood: Flood) -> Flood:
        FLOODS[kind] = flood
        return flood

    return register


class Floods:
    """What the floods below have in common."""

    def __init__(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = settings
        self.monkeypatch = monkeypatch

    async def connect(
        self, handler: type[WebSocketHandler], *, url: str = "ws/", at: str = PATH, **options: Any
    ) -> None:
        """Many connections, one after the other, each with one message."""
        middleware = options.pop("middleware", None)
        with route(handler, url=url, middleware=middleware):
            for number in range(MANY):
                with suppress(HandshakeRejected, ConnectionClosed, TimeoutError):
                    async with WebSocketClient(at.format(number), timeout=SECONDS, **options) as ws:
                        await ws.send(number + 10)
                        if handler.closes:  # type: ignore[attr-defined]
                            await ws.wait_closed()

    async def say(self, handler: type[WebSocketHandler], *texts: str) -> None:
        """Many messages on one connection, the last of which is handled."""
        handled = asyncio.Event()

        class Last(handler):  # type: ignore[misc, valid-type]
            async def on_bytes(self, data: bytes) -> None:
                handled.set()

        async with Peer(Last) as peer:
            peer.say(*texts * MANY)
            peer.feed({"type": "websocket.receive", "bytes": b"last"})
            await until(handled.is_set)


class Plain(WebSocketHandler):
    closes = True


def unanswered(func: Any) -> Any:
    async def middleware(ws: WebSocketHandler) -> None: ...

    return middleware


@floods("handshakes that a middleware left unanswered")
async def _(it: Floods) -> None:
    await it.connect(Plain, url="ws/<n>/", at="/ws/{}/", middleware=[f"{__name__}.unanswered"])


@floods("handshakes that took too long")
async def _(it: Floods) -> None:
    class Hanging(Plain):
        async def on_connect(self) -> None:
            await asyncio.Event().wait()

    it.settings.WS_CONNECT_TIMEOUT = 0.001
    await it.connect(Hanging, url="ws/<n>/", at="/ws/{}/")


@floods("handshakes refused for their origin or host")
async def _(it: Floods) -> None:
    with route(Plain):
        for number in range(MANY):
            with suppress(HandshakeRejected):
                async with WebSocketClient(PATH, origin=f"https://{number}.example"):
                    pass


@floods("handshakes whose cookies do not count")
async def _(it: Floods) -> None:
    class Quiet(Plain):
        closes = False

    it.settings.WS_ALLOWED_ORIGINS = ["null"]
    cookies = {"theme": "dark"}
    await it.connect(Quiet, url="ws/<n>/", at="/ws/{}/", origin="null", cookies=cookies)


@floods("handshakes on unknown paths")
async def _(it: Floods) -> None:
    await it.connect(Plain, at="/unknown/{}/")


@floods("suspicious handshakes")
async def _(it: Floods) -> None:
    class Suspicious(Plain):
        async def on_connect(self) -> None:
            raise BadRequest

    await it.connect(Suspicious, url="ws/<n>/", at="/ws/{}/")


@floods("calls of close() before the accept")
async def _(it: Floods) -> None:
    class Closing(Plain):
        async def on_connect(self) -> None:
            await self.close(4001)

    await it.connect(Closing, url="ws/<n>/", at="/ws/{}/")


@floods("connections without a valid first message")
async def _(it: Floods) -> None:
    class First(Plain):
        async def authenticate_first(self, message: Any) -> None: ...

    await it.connect(First, url="ws/<n>/", at="/ws/{}/")


@floods("handshakes with tokens that are not valid")
async def _(it: Floods) -> None:
    middleware = ["django_ws.middleware.TokenAuthMiddleware"]
    headers = {"Authorization": "Token wrong"}
    await it.connect(Plain, url="ws/<n>/", at="/ws/{}/", middleware=middleware, headers=headers)


@floods("tokens in URLs that were ignored")
async def _(it: Floods) -> None:
    class Quiet(Plain):
        closes = False

    middleware = ["django_ws.middleware.TokenAuthMiddleware"]
    await it.connect(Quiet, url="ws/<n>/", at="/ws/{}/?token=x", middleware=middleware)


@floods("messages that could not be decoded")
async def _(it: Floods) -> None:
    class Lenient(WebSocketHandler):
        async def on_decode_error(self, error: Any) -> None: ...

    await it.say(Lenient, "{")


@floods("messages that a handler found invalid")
async def _(it: Floods) -> None:
    class Lenient(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            raise InvalidMessage

        async def on_invalid_message(self, error: Any) -> None: ...

    await it.say(Lenient, "1")


@floods("messages above a rate_limit")
async def _(it: Floods) -> None:
    over = 0

    class Limited(WebSocketHandler):
        rate_limit = "1/h"

        async def on_rate_limited(self) -> None:
            nonlocal over
            over += 1

    async with Peer(Limited) as peer:
        peer.say(*["1"] * MANY)
        await until(lambda: over == MANY - 1)


@floods("messages that were too large")
async def _(it: Floods) -> None:
    class Small(Plain):
        max_message_size = 1

    await it.connect(Small, url="ws/<n>/", at="/ws/{}/")


@floods("connections closed by what a hook raised")
async def _(it: Floods) -> None:
    class Denied(Plain):
        async def on_message(self, message: Any) -> None:
            raise PermissionDenied

    await it.connect(Denied, url="ws/<n>/", at="/ws/{}/")


@floods("idle connections")
async def _(it: Floods) -> None:
    class Idle(Plain):
        idle_timeout = 0.001

    await it.connect(Idle, url="ws/<n>/", at="/ws/{}/")


@floods("hooks and tasks that outlived WS_CLOSE_TIMEOUT")
async def _(it: Floods) -> None:
    class Late(Plain):
        async def on_message(self, message: Any) -> None:
            self.close()
            await asyncio.Event().wait()

    it.settings.WS_CLOSE_TIMEOUT = 0.001
    await it.connect(Late, url="ws/<n>/", at="/ws/{}/")


@floods("hooks that ignored their cancellation")
async def _(it: Floods) -> None:
    class Stubborn(Plain):
        async def on_message(self, message: Any) -> None:
            self.close()
            until_then = asyncio.get_running_loop().time() + 0.1
            while asyncio.get_running_loop().time() < until_then:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.01)

    it.settings.WS_CLOSE_TIMEOUT = 0.001
    it.monkeypatch.setattr("django_ws.lifecycle.end.LAST_SECONDS", 0.001)
    await it.connect(Stubborn, url="ws/<n>/", at="/ws/{}/")


@floods("connections ended by an overflow")
async def _(it: Floods) -> None:
    class Sending(WebSocketHandler):
        pass

    it.settings.WS_SEND_BUFFER = 1
    for _ in range(MANY):
        async with Peer(Sending) as peer:
            peer.block()
            peer.handler.send(1)
            peer.handler.send(2)


@floods("messages dropped on overflow")
async def _(it: Floods) -> None:
    class Dropping(WebSocketHandler):
        send_overflow = "drop_newest"

    it.settings.WS_SEND_BUFFER = 1
    async with Peer(Dropping) as peer:
        peer.block()
        for _ in range(MANY):
            peer.handler.send(1)


@floods("handshakes refused for WS_MAX_HANDSHAKES")
async def _(it: Floods) -> None:
    go_on = asyncio.Event()

    class Hanging(WebSocketHandler):
        async def on_connect(self) -> None:
            await go_on.wait()

    it.settings.WS_MAX_HANDSHAKES = 1
    it.monkeypatch.setattr("django_ws.limits.handshake_queue.WAITING_FOR_EACH", 0)
    with route(Hanging):
        async with AsyncExitStack() as stack:
            first = asyncio.create_task(
                stack.enter_async_context(WebSocketClient(PATH, timeout=SECONDS))
            )
            await until(lambda: handlers)
            for _ in range(MANY):
                with suppress(HandshakeRejected):
                    async with WebSocketClient(PATH, timeout=SECONDS):
                        pass
            go_on.set()
            await first


@floods("connections refused for a limit of their number")
async def _(it: Floods) -> None:
    it.settings.WS_MAX_CONNECTIONS = 1
    with route(Plain):
        async with WebSocketClient(PATH):
            await it.connect(Plain)


class Room(WebSocketHandler):
    topics = ("room",)


async def flood_room(handler: type[WebSocketHandler], *data: bytes) -> None:
    """Publish what no publisher of this version would, and see that the next one arrives."""
    with route(handler):
        async with WebSocketClient(PATH, timeout=SECONDS) as ws:
            MemoryPublisher(None, "django_ws:", {}).publish([("room", each) for each in data])
            await abroadcast("room", 1)
            assert await ws.receive() == 1


@floods("broadcasts in an unknown envelope")
async def _(it: Floods) -> None:
    await flood_room(Room, *[b"rubbish"] * MANY)


@floods("broadcasts that could not be handed on")
async def _(it: Floods) -> None:
    await flood_room(Room, *[b"1D;\nno JSON"] * MANY)


@floods("subscribers that could not be told")
async def _(it: Floods) -> None:
    with route(Room):
        async with WebSocketClient(PATH, timeout=SECONDS):
            hub = running_hub("default")
            assert hub is not None

            def fail(member: Any) -> None:
                raise ZeroDivisionError

            for _ in hub._for_each([*hub.topics.members_of("room")] * MANY, fail):
                pass


@floods("broadcasts that a codec could not send")
async def _(it: Floods) -> None:
    from django_ws.codecs import TextCodec

    class Texts(Room):
        codec = TextCodec()

    with route(Texts):
        async with AsyncExitStack() as stack:
            clients = [
                await stack.enter_async_context(WebSocketClient(PATH, timeout=SECONDS))
                for _ in range(5)
            ]
            for number in range(MANY):
                await abroadcast("room", {"number": number})
            await abroadcast("room", "text")
            for client in clients:
                assert await client.receive_data() == "text"


@floods("exceptions in hooks of broadcasts")
async def _(it: Floods) -> None:
    class Failing(Room):
        async def on_broadcast(self, topic: str, message: Any) -> None:
            raise ZeroDivisionError

    with route(Failing):
        peers = []
        async with AsyncExitStack() as stack:
            for _ in range(MANY):
                peers.append(await stack.enter_async_context(WebSocketClient(PATH)))
            await abroadcast("room", 1)
            for peer in peers:
                assert await peer.wait_closed() == 1011


@floods("checks of log-ins that failed")
async def _(it: Floods) -> None:
    user = await User.objects.acreate(username="alice")
    asked = 0

    async def fails(*args: Any) -> Any:
        nonlocal asked
        asked += 1
        raise ZeroDivisionError

    with route(WebSocketHandler):
        async with WebSocketClient(PATH, user=user, timeout=SECONDS):
            login: Any = handlers[-1].request.login
            it.monkeypatch.setattr(type(login), "ended", fails)
            for number in range(MANY):
                login.check()
                await until(lambda: asked > number)  # noqa: B023


@floods("tickets refused, since the cache keeps nothing")
async def _(it: Floods) -> None:
    it.settings.CACHES = {"default": {"BACKEND": "django.core.cache.backends.dummy.DummyCache"}}
    it.monkeypatch.setattr(once, "TRY_SECONDS", 0.0)
    for number in range(MANY):
        await sync_to_async(once.is_first)(str(number), 1)


@floods("connections whose sync work waits")
async def _(it: Floods) -> None:
    it.monkeypatch.setattr(pool, "LONG_SECONDS", 0.001)
    go_on = threading.Event()

    class Busy(WebSocketHandler):
        async def on_open(self) -> None:
            for _ in range(2):
                self.start_task(f"task {_}", sync_to_async(go_on.wait), args=[SECONDS])

    with route(Busy):
        async with WebSocketClient(PATH, timeout=SECONDS):
            await asyncio.sleep(0.05)
            go_on.set()


@floods("waits for a free thread")
async def _(it: Floods) -> None:
    it.monkeypatch.setattr(pool, "LONG_SECONDS", 0.0)

    class Working(WebSocketHandler):
        def on_message(self, message: Any) -> None: ...

    async with Peer(Working) as peer:
        peer.say(*["1"] * MANY)


@floods("subscriptions that were not confirmed")
async def _(it: Floods) -> None:
    async with Peer(WebSocketHandler) as peer:
        await peer.handler.subscribe("first")
        it.monkeypatch.setattr("django_ws.pubsub.hub.topic_registry.SUBSCRIBE_SECONDS", 0.001)
        hub = running_hub("default")
        assert hub is not None

        async def never(topics: Any) -> None:
            await asyncio.Event().wait()

        it.monkeypatch.setattr(hub.topics.backend, "subscribe", never)
        for number in range(MANY):
            with pytest.raises(BroadcastError):
                await peer.handler.subscribe(f"topic {number}")


@floods("hooks that a broadcast's failure has ended")
async def _(it: Floods) -> None:
    class Broadcasting(Plain):
        async def on_message(self, message: Any) -> None:
            await self.broadcast("room", message)

    it.settings.WS_BROADCAST = CONFIG
    it.monkeypatch.setattr(FickleBackend, "is_down", True)
    await it.connect(Broadcasting, url="ws/<n>/", at="/ws/{}/")


@floods("broadcasts after a commit that failed")
async def _(it: Floods) -> None:
    it.settings.WS_BROADCAST = CONFIG
    it.monkeypatch.setattr(FickleBackend, "is_down", True)
    for number in range(MANY):
        await sync_to_async(broadcast_on_commit)("room", number)


@floods("failures of the server's send()")
async def _(it: Floods) -> None:
    for _ in range(MANY):
        async with Peer(WebSocketHandler) as peer:
            peer.send_error = TypeError("text must be a str")
            peer.handler.send(1)


@floods("tickets whose session was not in the cache")
async def _(it: Floods) -> None:
    for number in range(MANY):
        assert await sync_to_async(session_key_of)(str(number)) is None


@floods("times that broadcasts were dropped")
async def _(it: Floods) -> None:
    it.monkeypatch.setattr(arrivals, "MAX_WAITING_BYTES", 1)
    waiting = arrivals.Arrivals()
    for number in range(MANY):
        waiting.put((f"topic {number}", b"data"))


@floods("broadcasts that came too late")
async def _(it: Floods) -> None:
    sender = sequence.Sender()
    with sender.call() as old:
        pass
    with sender.call() as new:
        pass
    found = sequence.Receiver("redis")
    assert found.read(new + b"new") == b"new"
    for _ in range(MANY):
        assert found.read(old + b"old") is None


@floods("servers that do not answer")
@floods("servers that answer again")
async def _(it: Floods) -> None:
    breaker = Breaker("redis")
    for _ in range(MANY):
        breaker.open("Timeout", TimeoutError())
        breaker.close()


@floods("stalls of the event loop")
async def _(it: Floods) -> None:
    watch = stalls.StallWatch(asyncio.get_running_loop())
    for _ in range(MANY):
        await asyncio.to_thread(watch._tell, 1.0)
    await asyncio.to_thread(watch.stop)


def kinds() -> dict[str, ThrottledLog]:
    for module in pkgutil.walk_packages([str(PACKAGE)], "django_ws."):
        if "management" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    return {
        each._kind: each
        for each in list(throttled_log._all)
        if each._logger.name.startswith("django.ws")
    }


def test_every_kind_of_line_has_its_flood() -> None:
    assert {*kinds()} == {*FLOODS}


@pytest.mark.parametrize("kind", sorted(FLOODS))
async def test_a_flood_is_a_few_lines_and_a_count(
    kind: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    throttled = kinds()[kind]
    admitted: list[str] = []
    admits = ThrottledLog.admits

    def note(self: ThrottledLog, key: Any, message: str, *args: Any) -> bool:
        is_logged = admits(self, key, message, *args)
        if self is throttled and is_logged:
            admitted.append(message % args)
        return is_logged

    monkeypatch.setattr(ThrottledLog, "admits", note)
    monkeypatch.setattr(throttled_log, "reset_all", lambda: None)  # which the clients call
    await FLOODS[kind](Floods(settings, monkeypatch))
    count = throttled._count
    assert 1 <= len(admitted) <= MAX_KEYS
    throttled.flush()
    assert count == 0 or caplog.messages[-1].startswith(
        f"Further {kind} in 10 s: {count}. The last"
    )
    assert kind in ONE_IS_ENOUGH or count >= MANY - 2 * MAX_KEYS


ONE_IS_ENOUGH = {"connections whose sync work waits"}
