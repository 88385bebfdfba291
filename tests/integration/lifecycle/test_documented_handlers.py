"""No handler of the README, the docs or the template meets an unexpected exception, whatever the
client sends: any visitor could fill the site's error tracker with it.
"""

from __future__ import annotations

import ast
import asyncio
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.signals import got_request_exception
from django.db import close_old_connections
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from django_ws import ConnectionClosed, WebSocketHandler
from django_ws.codecs import MessagePackCodec
from django_ws.testing import WebSocketClient
from tests import ROOT
from tests.integration.test_docs import PAGES, blocks, mysite, run  # noqa: F401  (fixtures)
from tests.support.asgi_peer import SECONDS, route

TEMPLATE = ROOT / "ws_urls_template" / "ws.py-tpl"
LISTENING = ("on_message", "on_bytes", "on_text", "authenticate_first")
CONVERTER = re.compile(r"self\.kwargs\[['\"](\w+)['\"]\]")
ODD: list[Any] = [None, True, 0, -1.5, "", "text", "😀", "a\0b", [], [[]], {}, {"": {}}, 2**63]


def sources() -> Iterator[Any]:
    for page in PAGES:
        for number, block in enumerate(blocks(page), 1):
            if any(f"def {name}(" in block for name in LISTENING):
                yield pytest.param(block, id=f"{page.name}-{number}")
    template = TEMPLATE.read_text().replace("{{ handler_name }}", "TemplateHandler")
    yield pytest.param(template.replace("{{ app_name }}", "app"), id="startws")


def words_of(source: str) -> list[str]:
    """What the code may look for in a message."""
    return sorted(
        {
            node.value
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            if len(node.value) < 30
        }
    )


def messages_for(source: str) -> st.SearchStrategy[Any]:
    """JSON of any kind, and often with the words that the code knows."""
    words = st.sampled_from(words_of(source) or ["text"])
    numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    scalars = st.none() | st.booleans() | numbers | st.text()
    return st.recursive(
        scalars | words | st.sampled_from(ODD),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(words | st.text(), inner, max_size=3)
        ),
        max_leaves=5,
    )


@dataclass(frozen=True)
class Nested:
    """So many lists, as Hypothesis can show them."""

    levels: int


def built(message: Any) -> Any:
    if isinstance(message, dict):
        return {name: built(value) for name, value in message.items()}
    if isinstance(message, Nested):
        inner: Any = 1
        for _ in range(message.levels):
            inner = [inner]
        return inner
    return message


LARGE = (Nested(499), "x" * 2000, "\0", 2**63)


def handlers_in(namespace: dict[str, Any]) -> list[type[WebSocketHandler]]:
    return [
        found
        for found in namespace.values()
        if isinstance(found, type)
        and issubclass(found, WebSocketHandler)
        and found.__module__ == "documented"
        and any(name in vars(found) for name in LISTENING)
    ]


async def feed(handler: type[WebSocketHandler], kwargs: list[str], messages: list[Any]) -> None:
    """Each message to a connection of its own, unless the one before leaves it open."""
    user = await User.objects.aget(username="root")
    url = "".join(f"<{name}>/" for name in kwargs)
    waiting = list(messages)
    with route(handler, url=f"ws/{url}"):
        while waiting:
            path = "/ws/" + "".join("x/" for _ in kwargs)
            async with WebSocketClient(path, user=user, timeout=SECONDS) as ws:
                try:
                    while waiting:
                        message = built(waiting.pop())
                        if isinstance(handler.codec, MessagePackCodec):
                            await ws.send_bytes(msgspec.msgpack.encode(message))
                        else:
                            await ws.send_text(msgspec.json.encode(message).decode())
                        await asyncio.sleep(0)
                except ConnectionClosed:
                    pass  # the next message comes on a new connection


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("source", list(sources()))
def test_any_json_is_no_error_of_the_sites(source: str, run: Any) -> None:  # noqa: F811
    User.objects.create_superuser("root", password="root")
    handlers = handlers_in(run(source))
    assert handlers
    errors: list[Any] = []

    def note(**told: Any) -> None:
        errors.append(sys.exc_info()[1])

    got_request_exception.connect(note)

    @settings(max_examples=15, suppress_health_check=list(HealthCheck))
    @given(st.lists(messages_for(source), min_size=1, max_size=8))
    @example([{word: odd} for word in words_of(source) for odd in ODD[:8]])
    @example([Nested(500), *({word: value} for word in words_of(source) for value in LARGE)])
    def check(messages: list[Any]) -> None:
        for handler in handlers:
            async_to_sync(feed)(handler, CONVERTER.findall(source), messages)
            assert errors == []

    try:
        check()
    finally:
        got_request_exception.disconnect(note)
        close_old_connections()
