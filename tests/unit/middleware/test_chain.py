"""The middleware chain: order, forms, rebuilding, refusals, exceptions, wrong entries."""

import logging
from collections.abc import Awaitable, Callable
from typing import ClassVar

import pytest
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from django.http import Http404
from django.test import override_settings
from pytest_django import Settings

from django_ws import Reject, WebSocketHandler
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.routes import path

Chain = Callable[[WebSocketHandler], Awaitable[None]]

steps: list[str] = []


class StepsHandler(WebSocketHandler):
    async def on_connect(self) -> None:
        steps.append("on_connect")

    async def on_open(self) -> None:
        steps.append("on_open")

    async def on_close(self) -> None:
        steps.append("on_close")


urlpatterns = [path("steps/", StepsHandler)]


class Outer:
    built: ClassVar[int] = 0

    def __init__(self, func: Chain) -> None:
        type(self).built += 1
        self.func = func

    async def __call__(self, ws: WebSocketHandler) -> None:
        steps.append("outer in")
        try:
            await self.func(ws)
        finally:
            steps.append("outer out")


def inner(func: Chain) -> Chain:
    async def middleware(ws: WebSocketHandler) -> None:
        steps.append("inner in")
        await func(ws)
        steps.append("inner out")

    return middleware


def rejecting(func: Chain) -> Chain:
    async def middleware(ws: WebSocketHandler) -> None:
        await ws.reject(429, "later", [("Retry-After", "7")])

    return middleware


def rejecting_and_calling(func: Chain) -> Chain:
    async def middleware(ws: WebSocketHandler) -> None:
        await ws.reject(401)
        await func(ws)

    return middleware


def idle(func: Chain) -> Chain:
    async def middleware(ws: WebSocketHandler) -> None:
        steps.append("idle")

    return middleware


def raising(error: Exception) -> Callable[[Chain], Chain]:
    def factory(func: Chain) -> Chain:
        async def middleware(ws: WebSocketHandler) -> None:
            raise error

        return middleware

    return factory


raising_reject = raising(Reject(401, "who are you"))
raising_denied = raising(PermissionDenied())
raising_404 = raising(Http404())
raising_error = raising(LookupError("before"))


def raising_after(func: Chain) -> Chain:
    async def middleware(ws: WebSocketHandler) -> None:
        await func(ws)
        raise LookupError("after")

    return middleware


def giving_none(func: Chain) -> None: ...


a_value = 42


def entry(name: str) -> str:
    return f"{__name__}.{name}"


@pytest.fixture(autouse=True)
def routes(settings: Settings) -> None:
    settings.ROOT_WS_URLCONF = __name__
    steps.clear()


async def visit() -> None:
    async with WebSocketClient("/steps/"):
        pass


async def refusal() -> HandshakeRejected:
    with pytest.raises(HandshakeRejected) as refused:
        await visit()
    return refused.value


async def test_first_listed_is_outermost_and_wraps_the_whole_life(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = [entry("Outer"), entry("inner")]
    await visit()
    assert steps == [
        "outer in", "inner in", "on_connect", "on_open", "on_close", "inner out", "outer out",
    ]  # fmt: skip


async def test_other_order_of_the_list_is_another_order(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = [entry("inner"), entry("Outer")]
    await visit()
    assert steps[:2] == ["inner in", "outer in"]


async def test_one_middleware_may_be_listed_twice(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = [entry("inner"), entry("inner")]
    await visit()
    assert steps.count("inner in") == 2


async def test_chain_may_be_empty(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = []
    await visit()
    assert steps == ["on_connect", "on_open", "on_close"]


async def test_chain_is_built_once_for_all_connections(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = [entry("Outer")]
    Outer.built = 0
    await visit()
    await visit()
    assert Outer.built == 1


async def test_chain_is_rebuilt_when_the_setting_changes(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = [entry("Outer")]
    await visit()
    with override_settings(WS_MIDDLEWARE=[entry("inner")]):
        steps.clear()
        await visit()
        assert steps[0] == "inner in"
    steps.clear()
    await visit()
    assert steps[0] == "outer in"


# Refusals


async def test_middleware_may_reject(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = [entry("Outer"), entry("rejecting"), entry("inner")]
    refused = await refusal()
    assert (refused.status, refused.reason) == (429, "later")
    assert refused.headers["retry-after"] == "7"
    assert steps == ["outer in", "outer out"]


async def test_no_hook_runs_after_a_rejection_that_calls_the_next(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = [entry("rejecting_and_calling")]
    assert (await refusal()).status == 401
    assert steps == []


@pytest.mark.parametrize(
    ("name", "status"), [("raising_reject", 401), ("raising_denied", 403), ("raising_404", 404)]
)
async def test_exception_that_refuses_is_a_status(
    settings: Settings, name: str, status: int
) -> None:
    settings.WS_MIDDLEWARE = [entry(name)]
    assert (await refusal()).status == status


async def test_middleware_that_neither_calls_the_next_nor_rejects_is_a_403(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_MIDDLEWARE = [entry("idle")]
    assert (await refusal()).status == 403
    assert steps == ["idle"]
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "neither called the next one nor rejected" in record.getMessage()


# Exceptions


async def test_exception_before_the_next_is_a_500_and_logged_once(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_MIDDLEWARE = [entry("raising_error"), entry("inner")]
    refused = await refusal()
    assert refused.status == 500
    assert isinstance(refused.__cause__, LookupError)
    assert steps == []
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.name == "django.ws.request"
    assert "middleware" in record.getMessage()


async def test_exception_after_the_end_is_logged_once_and_on_close_has_run(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.WS_MIDDLEWARE = [entry("raising_after")]
    with pytest.raises(LookupError, match="after"):
        await visit()
    assert steps == ["on_connect", "on_open", "on_close"]
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "after"


# Wrong entries


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        ("no.such.module.Auth", ["cannot import 'no.such.module.Auth'", "Check the dotted path"]),
        (entry("NoSuchClass"), ["cannot import", "NoSuchClass", "Check the dotted path"]),
        ("nodots", ["cannot import 'nodots'"]),
        (entry("a_value"), ["is 42, not a middleware class or factory"]),
        (entry("giving_none"), ["gave None instead of a middleware", "async __call__(self, ws)"]),
    ],
)
async def test_wrong_entry_is_named_with_the_cure(
    settings: Settings, wrong: str, parts: list[str]
) -> None:
    settings.WS_MIDDLEWARE = [entry("inner"), wrong]
    cause = (await refusal()).__cause__
    assert isinstance(cause, ImproperlyConfigured)
    for part in ["WS_MIDDLEWARE[1]", *parts]:
        assert part in str(cause)
