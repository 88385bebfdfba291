"""Sentry: each connection has its own scope, by the recipe's middleware."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.integrations.django import DjangoIntegration
from sentry_sdk.transport import Transport

from django_ws import WebSocketHandler, abroadcast
from django_ws.testing import WebSocketClient
from tests import ROOT
from tests.integration.test_docs import blocks
from tests.support.asgi_peer import SECONDS, route, until


class Kept(Transport):
    """Keeps the events instead of sending them."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.events: list[Any] = []

    def capture_envelope(self, envelope: Any) -> None:
        event = envelope.get_event()
        if event is not None:
            self.events.append(event)


@pytest.fixture
def sentry() -> Iterator[list[Any]]:
    transport = Kept()
    sentry_sdk.init(
        dsn="https://public@sentry.invalid/1",
        transport=transport,
        integrations=[DjangoIntegration()],
        default_integrations=False,
    )
    yield transport.events
    sentry_sdk.get_client().close()
    # Without integrations: the one for logging keeps the last 100 lines, with their requests.
    sentry_sdk.init(default_integrations=False)
    sentry_sdk.get_isolation_scope().clear()


def recipe() -> Any:
    [block] = [text for text in blocks(ROOT / "docs" / "recipes.md") if "sentry_sdk" in text]
    namespace: dict[str, Any] = {}
    exec(block, namespace)
    return namespace["SentryMiddleware"]


SentryMiddleware = recipe()


class Failing(WebSocketHandler):
    topics = ("all",)

    async def on_connect(self) -> None:
        sentry_sdk.set_user({"username": self.request.GET["name"]})

    async def on_message(self, message: Any) -> None:
        sentry_sdk.set_tag("said", message)
        await asyncio.sleep(0)
        raise ZeroDivisionError(message)

    async def on_broadcast(self, topic: str, message: Any) -> None:
        raise LookupError(message)


async def test_exceptions_are_filed_under_the_user_of_their_connection(sentry: list[Any]) -> None:
    names = ["alice", "bob", "carol"]
    with route(Failing, middleware=[f"{__name__}.SentryMiddleware"]):
        clients = [WebSocketClient(f"/ws/?name={name}", timeout=SECONDS) for name in names]
        for client in clients:
            await client.__aenter__()
        for name, client in zip(names, clients, strict=True):
            await client.send(f"from {name}")
        for client in clients:
            assert await client.wait_closed() == 1011
    found = {
        (
            event["user"]["username"],
            event["tags"]["said"],
            event["exception"]["values"][-1]["value"],
        )
        for event in sentry
    }
    assert found == {(name, f"from {name}", f"from {name}") for name in names}


async def test_so_are_those_in_hooks_of_other_tasks(sentry: list[Any]) -> None:
    names = ["alice", "bob"]
    with route(Failing, middleware=[f"{__name__}.SentryMiddleware"]):
        clients = [WebSocketClient(f"/ws/?name={name}", timeout=SECONDS) for name in names]
        for client in clients:
            await client.__aenter__()
        await abroadcast("all", "lost")
        for client in clients:
            assert await client.wait_closed() == 1011
    await until(lambda: len(sentry) >= 2)
    assert {event["user"]["username"] for event in sentry} == {*names}
