"""How many connections there may be, and that none is counted when it is over."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.test import override_settings
from django.urls.converters import get_converters, register_converter
from pytest_django import Settings

from django_ws import Reject, WebSocketHandler
from django_ws.limits import connection_limits as limits_module
from django_ws.limits.connection_limits import Limits, limits
from django_ws.logs import throttled
from django_ws.request import WebSocketRequest
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.altered import with_headers, with_scope
from tests.support.asgi_peer import PATH, SECONDS, Peer, client, handlers, route, until
from tests.support.handlers import Quiet

HTTP: dict[str, Any] = {"websocket.http.response": {}}


@pytest.fixture(autouse=True)
def counts_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier test has counted does not count here."""
    monkeypatch.setattr(limits, "_refused", {})


def refusal(peer: Peer) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of the answer to the handshake."""
    start, body = peer.sent
    return start["status"], dict(start["headers"]), body["body"]


async def refused_with(**options: Any) -> int:
    """The status of a handshake that is refused."""
    with pytest.raises(HandshakeRejected) as refused:
        async with WebSocketClient(PATH, timeout=SECONDS, **options):
            pass
    return refused.value.status


async def connect(stack: AsyncExitStack, count: int = 1, **options: Any) -> None:
    for _ in range(count):
        await stack.enter_async_context(WebSocketClient(PATH, timeout=SECONDS, **options))


def from_address(address: str | None) -> Any:
    return with_scope(client=None if address is None else (address, 50000))


# --- in the process -----------------------------------------------------------------------------


async def test_one_more_than_the_process_takes_is_answered_503(settings: Settings) -> None:
    settings.WS_MAX_CONNECTIONS = 2
    async with AsyncExitStack() as stack:
        with route(Quiet):
            await connect(stack, 2)
            with pytest.raises(HandshakeRejected) as refused:
                await connect(stack)
            assert refused.value.status == 503
            assert refused.value.reason == "Service Unavailable"
            assert 1 <= int(refused.value.headers["retry-after"]) <= 10


async def test_without_the_setting_there_is_no_limit() -> None:
    async with AsyncExitStack() as stack:
        with route(Quiet):
            await connect(stack, 30)


async def test_there_is_room_again_when_one_has_gone(settings: Settings) -> None:
    settings.WS_MAX_CONNECTIONS = 1
    with route(Quiet):
        for _ in range(3):
            async with WebSocketClient(PATH):
                assert await refused_with() == 503


user_code: list[str] = []


def noting_user_code(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        user_code.append("middleware")
        await func(ws)

    return middleware


class NotingUserCode(WebSocketHandler):
    def __init__(self, *args: Any) -> None:
        user_code.append("__init__")
        super().__init__(*args)

    async def on_connect(self) -> None:
        user_code.append("on_connect")


async def test_no_code_of_the_site_runs_for_it(settings: Settings) -> None:
    settings.WS_MAX_CONNECTIONS = 1
    with route(NotingUserCode, middleware=[f"{__name__}.noting_user_code"]):
        async with WebSocketClient(PATH):
            user_code.clear()
            assert await refused_with() == 503
            with pytest.raises(HandshakeRejected) as refused:
                async with WebSocketClient("/no/route/"):
                    pass
            assert refused.value.status == 503
    assert user_code == []


async def test_handshakes_under_way_count(settings: Settings) -> None:
    settings.WS_MAX_CONNECTIONS = 1
    go_on = asyncio.Event()

    class Slow(WebSocketHandler):
        async def on_connect(self) -> None:
            await go_on.wait()

    async with Peer(Slow, opens=False) as peer:
        await until(lambda: handlers)
        assert await refused_with() == 503
        go_on.set()
        await until(lambda: peer.sent)
        assert peer.sent[0]["type"] == "websocket.accept"


async def test_handshakes_that_are_being_refused_do_not(settings: Settings) -> None:
    """However many of them there are, and however slowly they read their refusal."""
    settings.WS_MAX_CONNECTIONS = 1
    with route(Quiet):
        async with WebSocketClient(PATH):
            stuck = []
            for _ in range(5):
                peer = Peer(Quiet, opens=False, extensions=HTTP)
                peer.block()
                peer.feed({"type": "websocket.connect"})
                stuck.append((peer, asyncio.create_task(peer._serve())))
            await until(lambda: limits._refused.get("WS_MAX_CONNECTIONS") == 5)
        async with WebSocketClient(PATH):
            pass
        for peer, task in stuck:
            peer.unblock()
            await asyncio.wait_for(task, SECONDS)
            assert refusal(peer)[0] == 503


async def asgi_application(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] != "websocket.disconnect":
        if event["text"] == '"raise"':
            raise LookupError("the application failed")


asgi_route: Any = asgi_application


@pytest.mark.parametrize(
    ("setting", "status"), [("WS_MAX_CONNECTIONS", 503), ("WS_MAX_CONNECTIONS_PER_ADDRESS", 429)]
)
async def test_routes_to_asgi_applications_count(
    settings: Settings, setting: str, status: int
) -> None:
    setattr(settings, setting, 1)
    with route(asgi_route):
        async with WebSocketClient(PATH):
            assert await refused_with() == status
        async with WebSocketClient(PATH):
            pass


# --- of one address -----------------------------------------------------------------------------


async def test_one_more_than_an_address_may_have_is_answered_429(settings: Settings) -> None:
    settings.WS_MAX_CONNECTIONS_PER_ADDRESS = 2
    async with AsyncExitStack() as stack:
        with route(Quiet):
            await connect(stack, 2, application=from_address("203.0.113.7"))
            assert await refused_with(application=from_address("203.0.113.7")) == 429
            await connect(stack, 2, application=from_address("203.0.113.8"))


@pytest.mark.parametrize(
    ("first", "second", "is_one"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:0:ffff:ffff:ffff:ffff", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:203.0.113.7", "203.0.113.7", True),
        ("::ffff:203.0.113.7", "::ffff:203.0.113.8", False),
        ("203.0.113.7", "203.0.113.8", False),
    ],
)
async def test_ipv6_counts_by_its_network(
    settings: Settings, first: str, second: str, is_one: bool
) -> None:
    settings.WS_MAX_CONNECTIONS_PER_ADDRESS = 1
    async with AsyncExitStack() as stack:
        with route(Quiet):
            await connect(stack, application=from_address(first))
            if is_one:
                assert await refused_with(application=from_address(second)) == 429
            else:
                await connect(stack, application=from_address(second))


async def test_clients_behind_a_trusted_proxy_count_each_for_itself(settings: Settings) -> None:
    settings.WS_MAX_CONNECTIONS_PER_ADDRESS = 1
    settings.WS_TRUSTED_PROXIES = ["127.0.0.1"]

    def forwarded(address: bytes) -> Any:
        return with_headers((b"x-forwarded-for", address))

    async with AsyncExitStack() as stack:
        with route(Quiet):
            await connect(stack, application=forwarded(b"203.0.113.7"))
            await connect(stack, application=forwarded(b"203.0.113.8"))
            assert await refused_with(application=forwarded(b"1.1.1.1, 203.0.113.7")) == 429


async def test_a_client_cannot_give_itself_other_addresses(settings: Settings) -> None:
    settings.WS_MAX_CONNECTIONS_PER_ADDRESS = 1
    async with AsyncExitStack() as stack:
        with route(Quiet):
            await connect(stack)
            other = with_headers((b"x-forwarded-for", b"203.0.113.8"))
            assert await refused_with(application=other) == 429


async def test_clients_without_an_address_count_as_one_and_the_log_says_what_to_do(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_MAX_CONNECTIONS_PER_ADDRESS = 2

    def unknown(forwarded: bytes | None = None) -> Any:
        async def application(scope: Any, receive: Any, send: Any) -> None:
            headers = [] if forwarded is None else [(b"x-forwarded-for", forwarded)]
            await with_headers(*headers)({**scope, "client": None}, receive, send)

        return application

    async with AsyncExitStack() as stack:
        with route(Quiet):
            await connect(stack, 2, application=unknown())
            assert await refused_with(application=unknown()) == 429
            await connect(stack, 2, application=from_address("203.0.113.7"))
            [line] = caplog.messages
            assert "address unknown has as many connections" in line
            assert 'WS_TRUSTED_PROXIES = ["unix"]' in line
            assert "X-Forwarded-For" in line
            # Following that, each counts for itself again.
            settings.WS_TRUSTED_PROXIES = ["unix"]
            await connect(stack, 2, application=unknown(b"203.0.113.8"))
            await connect(stack, 2, application=unknown(b"203.0.113.9"))
            throttled.reset_all()
            assert await refused_with(application=unknown(b"203.0.113.9")) == 429
            assert "unix" not in caplog.messages[-1]


@pytest.mark.parametrize("user", [None, AnonymousUser()], ids=["none", "anonymous"])
async def test_an_unknown_address_is_not_looked_at_without_the_limit(user: Any) -> None:
    async with AsyncExitStack() as stack:
        with route(Quiet):
            await connect(stack, 5, application=from_address(None))


async def test_a_browser_can_read_the_refusal_where_the_handler_says_so(
    settings: Settings,
) -> None:
    class Readable(WebSocketHandler):
        reject_with = "close"

    settings.WS_MAX_CONNECTIONS_PER_ADDRESS = 1
    async with client(Readable), WebSocketClient(PATH) as second:
        assert await second.wait_closed() == 4429


# --- of one user --------------------------------------------------------------------------------


@pytest.fixture
def users(transactional_db: None) -> list[User]:
    return [User.objects.create_user(name, password="x") for name in ("alice", "bob")]


async def test_one_more_than_a_user_may_have_is_answered_429(
    settings: Settings, users: list[User]
) -> None:
    settings.WS_MAX_CONNECTIONS_PER_USER = 2
    settings.WS_MAX_CONNECTIONS_PER_ADDRESS = 1
    alice, bob = users
    async with AsyncExitStack() as stack:
        with route(Quiet):
            await connect(stack, 2, user=alice)
            assert await refused_with(user=alice) == 429
            # Neither others nor those who are not logged in feel it.
            await connect(stack, 2, user=bob)
            await connect(stack)
            assert await refused_with() == 429


async def test_there_is_room_for_a_user_again_when_one_has_gone(
    settings: Settings, users: list[User]
) -> None:
    settings.WS_MAX_CONNECTIONS_PER_USER = 1
    with route(Quiet):
        for _ in range(2):
            async with WebSocketClient(PATH, user=users[0], timeout=SECONDS):
                assert await refused_with(user=users[0]) == 429


async def test_a_connection_that_logs_in_later_counts_for_its_user_from_then_on(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_MAX_CONNECTIONS_PER_USER = settings.WS_MAX_CONNECTIONS_PER_ADDRESS = 1
    with route(Quiet):
        async with WebSocketClient(PATH) as first:
            log_in(handlers[0], User(pk=1))
            async with WebSocketClient(PATH) as second:  # there is room for its address again
                log_in(handlers[1], User(pk=1))
                assert await second.wait_closed() == 4429
                assert second.close_reason == "too many connections"
            log_in(handlers[0], User(pk=1))  # once more: it is not in its own way
            await first.receive_nothing()
            assert await has_room_for_one()


def log_in(handler: WebSocketHandler, user: User) -> None:
    handler.request.user = user
    limits.admit(handler._connection, handler.request)


@pytest.mark.parametrize("user", [None, AnonymousUser(), User()], ids=["none", "anonymous", "new"])
def test_who_is_no_saved_user_counts_by_address(settings: Settings, user: Any) -> None:
    settings.WS_MAX_CONNECTIONS_PER_USER = settings.WS_MAX_CONNECTIONS_PER_ADDRESS = 1
    counting = Limits()
    connection: Any = object()
    request = WebSocketRequest({"path": "/", "headers": [], "client": ("203.0.113.7", 1)})
    request.user = user
    counting.admit(connection, request)
    assert counting._counts == {"203.0.113.7": 1}


# --- nothing stays counted ----------------------------------------------------------------------


async def has_room_for_one() -> bool:
    """Whether exactly one connection from this address is let in, where 1 is the limit."""
    async with WebSocketClient(PATH, timeout=SECONDS):
        return await refused_with() in (429, 503)


@pytest.fixture(params=["WS_MAX_CONNECTIONS", "WS_MAX_CONNECTIONS_PER_ADDRESS"])
def one_alone(
    request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Only one connection is let in; nothing stays counted after the test."""
    setattr(settings, request.param, 1)
    settings.WS_CLOSE_TIMEOUT = 0.5
    # Leaving is noticed at once.
    monkeypatch.setattr("django_ws.connection.inbound.SWEEP_SECONDS", 0.01)
    yield
    assert (limits._count, limits._counted_as, limits._counts) == (0, {}, {})


async def forever() -> None:
    await asyncio.Event().wait()


def rejecting(func: Any) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        await ws.reject(401)

    return middleware


def rejecting_and_going_on(func: Any) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        ws.reject(401)
        await func(ws)

    return middleware


def raising(func: Any) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        raise RuntimeError("in the middleware")

    return middleware


def raising_behind(func: Any) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        await func(ws)
        raise RuntimeError("behind the handler")

    return middleware


def silent(func: Any) -> Any:
    async def middleware(ws: WebSocketHandler) -> None: ...

    return middleware


def waiting(func: Any) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        await forever()

    return middleware


def calling_twice(func: Any) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        await func(ws)
        await func(ws)

    return middleware


def in_a_task(func: Any) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        await asyncio.create_task(func(ws))

    return middleware


class Rejecting(WebSocketHandler):
    async def on_connect(self) -> None:
        raise Reject(403)


class RaisingOnConnect(WebSocketHandler):
    async def on_connect(self) -> None:
        raise RuntimeError("in on_connect")


class Raising(WebSocketHandler):
    async def on_message(self, message: Any) -> None:
        raise RuntimeError("in on_message")


class RaisingOnClose(WebSocketHandler):
    async def on_close(self) -> None:
        raise RuntimeError("in on_close")


class Closing(WebSocketHandler):
    async def on_open(self) -> None:
        await self.close()


class Waiting(WebSocketHandler):
    async def on_connect(self) -> None:
        await forever()


class WaitingOpen(WebSocketHandler):
    async def on_message(self, message: Any) -> None:
        await forever()


async def waiting_application(scope: Any, receive: Any, send: Any) -> None:
    await forever()


async def silent_application(scope: Any, receive: Any, send: Any) -> None: ...


async def rejecting_application(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.close"})


@asynccontextmanager
async def ending(handler_class: Any, *middleware: str) -> AsyncIterator[Peer]:
    """A connection that has ended at the exit; then another one is let in."""
    names = [f"{__name__}.{name}" for name in middleware]
    async with Peer(handler_class, opens=False, extensions=HTTP, middleware=names) as peer:
        yield peer
        await asyncio.wait([peer.task], timeout=SECONDS)
        assert peer.task.done()
        if not peer.task.cancelled():
            peer.task.exception()  # some are meant to fail
    with route(Quiet, middleware=[]):
        assert await has_room_for_one()


WAYS: dict[str, tuple[Any, ...]] = {
    "a middleware rejects": (Quiet, "rejecting"),
    "a middleware rejects and goes on": (Quiet, "rejecting_and_going_on"),
    "a middleware raises": (Quiet, "raising"),
    "a middleware does nothing": (Quiet, "silent"),
    "on_connect rejects": (Rejecting,),
    "on_connect raises": (RaisingOnConnect,),
    "on_open closes": (Closing,),
    "the application returns": (silent_application,),
    "the application rejects": (rejecting_application,),
    "the application is rejected": (asgi_application, "rejecting_and_going_on"),
}


@pytest.mark.usefixtures("one_alone")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_nothing_stays_counted_of_what_ends_by_itself(way: tuple[Any, ...]) -> None:
    async with ending(*way):
        pass


OPEN = {
    "a handler": (Quiet,),
    "on_close raises": (RaisingOnClose,),
    "a middleware raises behind it": (Quiet, "raising_behind"),
    "a middleware calls twice": (Quiet, "calling_twice"),
    "a middleware makes a task": (Quiet, "in_a_task"),
    "a hook waits": (WaitingOpen,),
    "a hook raises": (Raising,),
    "an application": (asgi_application,),
}
ENDS: dict[str, Callable[[Peer], Any]] = {
    "the client closes": lambda peer: peer.leave(code=1000),
    "the client vanishes": lambda peer: peer.break_receive(OSError("gone")),
    "the server cancels": lambda peer: peer.task.cancel(),
}


@pytest.mark.usefixtures("one_alone")
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize("way", OPEN.values(), ids=OPEN)
async def test_nothing_stays_counted_of_what_was_open(
    way: tuple[Any, ...], end: Callable[[Peer], Any], settings: Settings
) -> None:
    settings.WS_CLOSE_TIMEOUT = 0.02
    async with ending(*way) as peer:
        await until(lambda: peer.sent)
        peer.say('"raise"')
        await until(lambda: peer.received == 2)
        end(peer)


HANDSHAKES = {
    "a middleware waits": (Quiet, "waiting"),
    "on_connect waits": (Waiting,),
    "an application waits": (waiting_application,),
}


@pytest.mark.usefixtures("one_alone")
@pytest.mark.parametrize("end", ["leaves", "cancelled", "timeout"])
@pytest.mark.parametrize("way", HANDSHAKES.values(), ids=HANDSHAKES)
async def test_nothing_stays_counted_of_a_handshake_that_does_not_finish(
    way: tuple[Any, ...], end: str, settings: Settings
) -> None:
    settings.WS_CONNECT_TIMEOUT = 0.02 if end == "timeout" else 10.0
    settings.WS_CLOSE_TIMEOUT = 0.02
    async with ending(*way) as peer:
        await until(lambda: handlers)
        if end == "leaves":
            peer.leave()
        if end == "cancelled" or way[0] is waiting_application:
            peer.task.cancel()  # nobody else ends an application of its own


class BrokenInit(WebSocketHandler):
    def __init__(self, *args: Any) -> None:
        raise RuntimeError("in __init__")


@pytest.mark.usefixtures("one_alone")
@pytest.mark.parametrize(
    ("handler_class", "middleware"),
    [(BrokenInit, []), (Quiet, ["no.such.Middleware"])],
    ids=["the handler cannot be made", "a middleware cannot be imported"],
)
async def test_nothing_stays_counted_of_a_handler_that_never_ran(
    handler_class: Any, middleware: list[str]
) -> None:
    with route(handler_class, middleware=middleware), pytest.raises(HandshakeRejected) as refused:
        async with WebSocketClient(PATH):
            pass
    assert refused.value.__cause__ is not None
    with route(Quiet):
        assert await has_room_for_one()


class BrokenConverter:
    regex = "[a-z]+"

    def to_python(self, value: str) -> str:
        raise RuntimeError("in the converter")

    def to_url(self, value: str) -> str:
        return value


@pytest.mark.usefixtures("one_alone")
async def test_nothing_stays_counted_where_a_converter_raises() -> None:
    if "limits_broken" not in get_converters():
        register_converter(BrokenConverter, "limits_broken")
    with route(Quiet, "ws/<limits_broken:word>/"), pytest.raises(HandshakeRejected):
        async with WebSocketClient("/ws/word/"):
            pass
    with route(Quiet):
        assert await has_room_for_one()


@pytest.mark.usefixtures("one_alone")
async def test_nothing_stays_counted_of_what_is_refused_before_it_is_let_in() -> None:
    with route(Quiet):
        for path, origin in (("/no/route/", None), (PATH, "http://evil.example")):
            with pytest.raises(HandshakeRejected):
                async with WebSocketClient(path, origin=origin):
                    pass
        async with WebSocketClient(PATH):
            for _ in range(3):
                assert await refused_with() in (429, 503)
        assert await has_room_for_one()


async def test_a_limit_that_is_switched_on_later_counts_those_that_are_there() -> None:
    with route(Quiet):
        async with WebSocketClient(PATH):
            with override_settings(WS_MAX_CONNECTIONS=1):
                assert await refused_with() == 503


def test_several_threads_count_together() -> None:
    """A process may have several event loops."""
    counting = Limits()
    connections = [object() for _ in range(8)]

    def work(connection: Any) -> None:
        for _ in range(2000):
            counting.enter()
            counting.leave(connection)

    threads = [threading.Thread(target=work, args=(item,)) for item in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert counting._count == 0


# --- the log ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "status", "who"),
    [
        ("WS_MAX_CONNECTIONS", 503, "this process"),
        ("WS_MAX_CONNECTIONS_PER_ADDRESS", 429, "address 127.0.0.1"),
    ],
)
async def test_a_flood_is_one_line_in_ten_seconds(
    settings: Settings,
    setting: str,
    status: int,
    who: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def line(refused: int) -> str:
        return (
            f"WebSocket /ws/ refused with {status}: {who} has as many connections as {setting} "
            f"allows, 1 (client 127.0.0.1; {refused} refused so far)"
        )

    setattr(settings, setting, 1)
    with route(Quiet):
        async with WebSocketClient(PATH):
            for _ in range(5):
                await refused_with()
            assert caplog.messages == [line(1)]
            assert caplog.records[0].levelname == "WARNING"
            monkeypatch.setattr("django_ws.logs.throttled.SECONDS", 0.0)
            limits_module._refusals.flush()
            await refused_with()
            kind = "Further connections refused for a limit of their number"
            assert caplog.messages[1:] == [f"{kind} in 0 s: 4. The last: {line(5)}", line(6)]


async def test_the_log_names_the_user_by_the_key(
    settings: Settings, users: list[User], caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_MAX_CONNECTIONS_PER_USER = 1
    with route(Quiet):
        async with WebSocketClient(PATH, user=users[0], timeout=SECONDS):
            await refused_with(user=users[0])
    assert f"429: user {users[0].pk} has as many connections" in caplog.messages[0]
