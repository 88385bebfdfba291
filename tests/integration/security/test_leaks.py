"""No token, cookie, ticket or password is told to anybody, whatever goes wrong."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.core.exceptions import PermissionDenied
from django.db import OperationalError, connection
from django.views.debug import SafeExceptionReporterFilter
from pytest_django import Settings

from django_ws import ConnectionClosed, Reject, WebSocketHandler, conf
from django_ws.auth import FirstMessageAuthMixin
from django_ws.exceptions import BroadcastError, LoginCheckError
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import route
from tests.support.error_mails import admins_setting
from tests.support.output import Output, chain, listening
from tests.support.ways import BACKENDS, JWT_KEY, WAYS, Secret, Way

pytestmark = pytest.mark.django_db

PASSWORD = "the-password-of-redis"
MANY = "&a=1" * 1001  # more than DATA_UPLOAD_MAX_NUMBER_FIELDS


@pytest.fixture(autouse=True)
def _site(settings: Settings) -> None:
    settings.AUTHENTICATION_BACKENDS = BACKENDS
    settings.WS_JWT = {"key": JWT_KEY, "algorithms": ["HS256"]}
    settings.WS_TOKEN_IN_URL = True
    settings.SESAME_MAX_AGE = 30
    settings.ADMINS = admins_setting("ada@example.com")


@pytest.fixture
def output() -> Iterator[Output]:
    with listening() as heard:
        yield heard


class Quiet(WebSocketHandler):
    subprotocols = ["chat"]

    async def on_message(self, message: Any) -> None:
        await self.send(message)


# Their frames have the request among their variables, and more of it than is good.


class FailingInOnConnect(Quiet):
    async def on_connect(self) -> None:
        request, scope = self.request, self.request.scope
        raise LookupError(f"failed for {request} {scope['path']}")


class FailingInThread(Quiet):
    def on_open(self) -> None:
        request, cookies, query = self.request, self.request.COOKIES, self.request.GET
        assert (cookies, query) is not None
        raise LookupError(f"failed for {request}")


class FailingInTask(Quiet):
    async def on_open(self) -> None:
        self.start_task("failing", self.fail)

    async def on_message(self, message: Any) -> None:
        pass

    async def fail(self) -> None:
        request = self.request
        raise LookupError(f"failed for {request}")

    async def on_task_error(self, error: BaseException) -> None:
        await self.close(4000)


class FailingInOnClose(Quiet):
    async def on_open(self) -> None:
        await self.close(4000)

    async def on_close(self) -> None:
        request = self.request
        raise LookupError(f"failed for {request}")


def failing(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        request, scope = ws.request, ws.request.path
        raise LookupError(f"{request} {scope}")

    return middleware


def failing_after(func: Callable[[WebSocketHandler], Awaitable[None]]) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        await func(ws)
        request = ws.request
        raise LookupError(f"failed for {request}")

    return middleware


class FailingDatabase:
    """Answers so many queries, and no more."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.asked = 0

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        self.asked += 1
        if self.asked > self.after:
            raise OperationalError("the database is gone")
        return execute(sql, params, many, context)


def visit(way: Way, secret: Secret, handler: Any, output: Output, more: str = "") -> str:
    """Connect, send and be closed; what became of it."""
    with ExitStack() as stack:
        stack.enter_context(route(way.mixed_into(handler)))
        client = WebSocketClient("/ws/" + secret.query + more, **secret.options)
        outcome = "open"
        try:
            with client as ws:
                if secret.first is not None:
                    ws.send(secret.first)
                ws.send("hello")
                try:
                    while True:
                        if ws.receive() == "hello":
                            break
                except ConnectionClosed as closed:
                    output.tell(closed)
                    outcome = str(ws.close_code)
                output.texts += [ws.close_reason]
                output.tell(ws.error)
        except HandshakeRejected as refused:
            output.texts += [refused.reason, repr(refused.headers)]
            output.tell(refused.__cause__)
            outcome = str(refused.status)
        except LookupError as error:  # of on_close or of a middleware: told by the test client
            output.tell(error)
        return outcome


def check(output: Output, *secrets: str) -> None:
    told = output.everything
    for secret in secrets:
        at = told.find(secret)
        assert at < 0, f"{secret!r} was told: ...{told[max(0, at - 1500) : at + 200]}"


def mailed() -> str:
    return "".join(str(sent.body) for sent in mail.outbox)


both = pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
class TestNoWayOfLoggingInIsTold:
    @pytest.fixture(autouse=True)
    def _way(self, way: Way, settings: Settings) -> None:
        settings.WS_MIDDLEWARE = way.middleware

    @both
    def test_where_all_is_well(
        self, way: Way, debug: bool, alice: User, output: Output, settings: Settings
    ) -> None:
        settings.DEBUG = debug
        secret = way.secret(alice)
        assert visit(way, secret, Quiet, output) == "open"
        check(output, secret.value, alice.password)

    @both
    def test_where_it_is_wrong(
        self, way: Way, debug: bool, alice: User, output: Output, settings: Settings
    ) -> None:
        settings.DEBUG = debug
        secret = way.wrong(alice)
        by_first = secret.first is not None
        expected = "open" if way.name == "session" else "4401" if by_first else "401"
        assert visit(way, secret, Quiet, output) == expected
        check(output, secret.value)

    @pytest.mark.parametrize(
        ("handler", "debug"),
        [
            (FailingInOnConnect, False),
            (FailingInOnConnect, True),
            (FailingInThread, False),
            (FailingInTask, False),
            (FailingInOnClose, False),
        ],
    )
    def test_where_the_handler_fails(
        self,
        way: Way,
        handler: Any,
        debug: bool,
        alice: User,
        output: Output,
        settings: Settings,
    ) -> None:
        settings.DEBUG = debug
        secret = way.secret(alice)
        assert visit(way, secret, handler, output) in ("500", "1011", "4000")
        assert "failed for" in mailed()
        check(output, secret.value, alice.password)

    @pytest.mark.parametrize("place", ["outermost", "innermost", "innermost, after it"])
    def test_where_a_middleware_fails(
        self, way: Way, place: str, alice: User, output: Output, settings: Settings
    ) -> None:
        bad = f"{__name__}.{'failing_after' if 'after' in place else 'failing'}"
        ways = way.middleware
        settings.WS_MIDDLEWARE = [bad, *ways] if place == "outermost" else [*ways, bad]
        secret = way.secret(alice)
        visit(way, secret, Quiet, output)
        assert "LookupError" in mailed()
        check(output, secret.value, alice.password)

    @both
    def test_where_the_database_fails(
        self,
        way: Way,
        debug: bool,
        alice: User,
        output: Output,
        settings: Settings,
    ) -> None:
        """At its first query, at its second, and so on."""
        settings.DEBUG = debug
        for number in range(10):
            secret = way.secret(alice)
            database = FailingDatabase(after=number)
            with connection.execute_wrapper(database):
                outcome = visit(way, secret, Quiet, output)
            check(output, secret.value, alice.password)
            if database.asked <= number:
                assert (outcome, number > 0) == ("open", True)
                break
            # Those who are in are looked at once more as soon as orders are heard.
            assert outcome != "open" or "1 log-in could not be checked" in output.everything
        else:
            pytest.fail("more than ten queries")

    def test_where_the_query_has_too_many_fields(
        self, way: Way, alice: User, output: Output
    ) -> None:
        secret = way.secret(alice)
        many = MANY if secret.query else f"?token=x{MANY}"
        visit(way, secret, Quiet, output, many)
        visit(way, secret, FailingInThread, output, many)
        check(output, secret.value, alice.password)


# Frames: an error tracker of the site's shows the variables of each, and knows no filter of ours


def frames(error: BaseException | None) -> Iterator[tuple[str, str]]:
    """The name of each function that an exception went through, and its variables."""
    for each in chain(error):
        for frame, _ in traceback.walk_tb(each.__traceback__):
            yield frame.f_code.co_qualname, repr(list(frame.f_locals.values()))


def error_of(handler: Any, first: Any, **options: Any) -> BaseException | None:
    with route(handler):
        try:
            with WebSocketClient("/ws/", **options) as ws:
                if first is not None:
                    ws.send(first)
                ws.wait_closed()
                return ws.error
        except HandshakeRejected as refused:
            return refused.__cause__


@pytest.mark.parametrize(("name", "queries"), [("session", 3), ("token in the header", 2)])
def test_no_frame_holds_a_key_where_the_log_in_cannot_be_checked_again(
    name: str, queries: int, alice: User, settings: Settings
) -> None:
    """The check is of many sockets together: it would tell the keys of others."""
    way = WAYS[name]
    settings.WS_MIDDLEWARE = way.middleware
    secret = way.secret(alice)
    with connection.execute_wrapper(FailingDatabase(after=queries)):
        error = error_of(Quiet, None, **secret.options)
    assert isinstance(error, LoginCheckError)
    assert isinstance(error.__cause__, OperationalError)
    assert "django_ws/auth/" in error.__cause__.__notes__[0]  # where it was is told all the same
    assert [place for place, variables in frames(error) if secret.value in variables] == []


class Unready(FirstMessageAuthMixin, Quiet):
    """Names no authenticator: the site's mistake, found at the first token."""


class BadCodec:
    def encode(self, message: Any) -> str:
        return str(message)

    def decode(self, data: str | bytes) -> Any:
        del data
        raise LookupError("a defect of the codec")


class BadlyRead(FirstMessageAuthMixin, Quiet):
    codec = BadCodec()


@pytest.mark.parametrize("handler", [Unready, BadlyRead])
def test_no_frame_holds_the_first_message(handler: Any) -> None:
    error = error_of(handler, {"token": "a-secret-token"})
    assert error is not None
    assert [place for place, variables in frames(error) if "a-secret-token" in variables] == []


# The password of the broadcast server

URL = f"redis://site:{PASSWORD}@127.0.0.1:1/0"
REDIS = "django_ws.pubsub.backends.redis.RedisBackend"


class Speaking(Quiet):
    """Its failure is reported: what a hook itself lets out is one line in the log."""

    async def on_open(self) -> None:
        try:
            await self.broadcast("room", "hello")
        except BroadcastError as error:
            raise LookupError("nobody hears") from error


@pytest.mark.parametrize(
    "value",
    [
        URL,
        {"default": {"BACKEND": REDIS, "LOCATION": URL}},
        {
            "default": {
                "BACKEND": REDIS,
                "LOCATION": "redis://127.0.0.1:1/0",
                "OPTIONS": {"password": PASSWORD},
            }
        },
    ],
    ids=["url", "dict", "options"],
)
@pytest.mark.parametrize("debug", [False, True], ids=["", "debug"])
def test_no_report_shows_the_password_of_the_broadcast_server(
    value: Any, debug: bool, output: Output, settings: Settings
) -> None:
    settings.DEBUG = debug
    settings.WS_BROADCAST = value
    settings.WS_MIDDLEWARE = []
    error = error_of(Speaking, None, timeout=8.0)
    assert isinstance(error, LookupError)
    assert isinstance(error.__cause__, BroadcastError)
    output.tell(error)
    output.texts.append(repr(conf.get()))
    assert "WS_BROADCAST" in mailed()
    check(output, PASSWORD)


def test_the_options_are_where_djangos_own_reports_hide_the_password(settings: Settings) -> None:
    """Those of pages know nothing of our filter: the docs say where to put it."""
    settings.WS_BROADCAST = {"default": {"BACKEND": REDIS, "OPTIONS": {"password": PASSWORD}}}
    assert PASSWORD not in str(SafeExceptionReporterFilter().get_safe_settings())
    settings.WS_BROADCAST = URL
    assert PASSWORD in str(SafeExceptionReporterFilter().get_safe_settings())


# What the client learns


class Refusing(Quiet):
    """Refuses, or fails, as its path says."""

    async def on_connect(self) -> None:
        match self.request.GET.get("way"):
            case "raise":
                raise LookupError("internals")
            case "reject":
                raise Reject(429)
            case "forbid":
                raise PermissionDenied("internals")
            case "hang":
                await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("options", "query", "status", "words"),
    [
        ({"origin": "http://evil.example"}, "", 403, ""),
        ({"headers": {"host": "evil.example"}}, "", 400, ""),
        ({}, "nowhere/", 404, "Not Found"),
        ({"headers": {"Authorization": "Token x"}}, "", 401, "Unauthorized"),
        ({}, "?token=x" + MANY, 400, "Bad Request"),
        ({}, "?way=raise", 500, "Internal Server Error"),
        ({}, "?way=reject", 429, ""),
        ({}, "?way=forbid", 403, ""),
        ({}, "?way=hang", 503, ""),
    ],
)
def test_refused_client_learns_the_status_and_nothing_else(
    options: dict[str, Any], query: str, status: int, words: str, settings: Settings
) -> None:
    settings.WS_MIDDLEWARE = WAYS["token in the header"].middleware
    if query == "?way=hang":
        settings.WS_CONNECT_TIMEOUT = 0.2
    client = WebSocketClient(f"/ws/{query}", **options)
    with route(Refusing), pytest.raises(HandshakeRejected) as refused, client:
        pass
    assert (refused.value.status, refused.value.reason) == (status, words)
    told = {"content-type", "content-length"} | ({"retry-after"} if status == 503 else set())
    assert refused.value.headers.keys() <= told


@pytest.mark.parametrize("handler", [FailingInThread, FailingInTask])
def test_close_reasons_carry_no_internals(handler: Any) -> None:
    client = WebSocketClient("/ws/")
    with route(handler), client as ws:
        ws.wait_closed()
        assert isinstance(ws.error, LookupError)
    assert client.close_code in (1011, 4000)
    assert client.close_reason == ""
