"""What a subclass may call its own methods and attributes without breaking the library's."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from django_ws import WebSocketHandler, abroadcast
from django_ws.auth import FirstMessageAuthMixin, PermissionRequiredMixin, UserPassesTestMixin
from django_ws.checks.names import INSTANCE_ATTRIBUTES
from django_ws.lifecycle.hooks import HOOKS
from django_ws.testing import HandshakeRejected
from tests.support.asgi_peer import Peer, client


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [str(record.exc_info and record.exc_info[1]) for record in caplog.records
            if record.levelno >= logging.WARNING]  # fmt: skip


@pytest.mark.parametrize("name", ["run", "hooks", "known_id", "_user", "_read", "live", "accept"])
async def test_a_method_of_ones_own_may_have_any_name_that_is_not_of_the_library(
    name: str,
) -> None:
    calls: list[str] = []

    async def method(self: Any) -> None:
        calls.append(name)

    async def on_open(self: Any) -> None:
        await getattr(self, name)()

    class Base(PermissionRequiredMixin, UserPassesTestMixin, WebSocketHandler):
        topic_permissions = {"news": ()}
        topics = ["news"]

        def test_func(self) -> bool:
            return True

        def has_permission(self) -> bool:
            return True

    handler = type("Handler", (Base,), {name: method, "on_open": on_open})
    async with client(handler) as ws:
        await abroadcast("news", 1)
        assert await ws.receive() == 1
    assert calls == [name]


@pytest.mark.parametrize(
    "name",
    ["id", "tasks", "subscriptions", "closed", "connected", "close_code", "request", "dropped"],
)
async def test_to_set_what_belongs_to_the_connection_is_an_error_in_words(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Handler(WebSocketHandler):
        async def on_message(self, message: Any) -> None:
            setattr(self, name, {})

    async with client(Handler) as ws:
        await ws.send(1)
        assert await ws.wait_closed() == 1011
    [text] = errors(caplog)
    assert f"Handler.{name} " in text
    assert "another name" in text


async def test_what_belongs_to_the_connection_cannot_be_deleted_either() -> None:
    async with Peer(WebSocketHandler) as peer:
        with pytest.raises(AttributeError, match=r"WebSocketHandler\.tasks .* another name"):
            del peer.handler.tasks


class Flood(WebSocketHandler):
    rate_limit = "1/h"


async def test_a_close_of_ones_own_does_not_switch_the_rate_limit_off() -> None:
    class Handler(Flood):
        def close(self, *args: Any, **kwargs: Any) -> Any:
            return None

    async with client(Handler) as ws:
        await ws.send(1)
        await ws.send(2)
        assert await ws.wait_closed() == 4429


async def test_a_rate_limited_of_ones_own_does_not_break_the_limit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(Flood):
        def rate_limited(self) -> None:  # type: ignore[override]
            """Named like the counter."""

    async with client(Handler) as ws:
        await ws.send(1)
        await ws.send(2)
        assert await ws.wait_closed() == 4429
    assert any("1 not handled so far" in message for message in caplog.messages)


async def test_a_close_of_ones_own_does_not_let_undecodable_or_invalid_messages_pass() -> None:
    from django_ws.exceptions import InvalidMessage

    class Handler(WebSocketHandler):
        def close(self, *args: Any, **kwargs: Any) -> Any:
            return None

        async def on_message(self, message: Any) -> None:
            raise InvalidMessage("no")

    async with client(Handler) as ws:
        await ws.send_text("{")
        assert await ws.wait_closed() == 1007
    async with client(Handler) as ws:
        await ws.send(1)
        assert await ws.wait_closed() == 1008


async def test_an_id_of_ones_own_does_not_make_a_connection_hear_itself() -> None:
    class Handler(WebSocketHandler):
        id = "of-the-order"
        topics = ["news"]

        async def on_message(self, message: Any) -> None:
            await self.broadcast("news", message, exclude_self=True)
            await self.send("done")

    async with client(Handler) as ws:
        await ws.send("mine")
        assert await ws.receive() == "done"
        await ws.receive_nothing()


async def test_a_reject_of_ones_own_does_not_let_a_wrong_token_in(settings: Any) -> None:
    class Handler(WebSocketHandler):
        async def reject(self, *args: Any, **kwargs: Any) -> None:
            return None

    headers = {"Authorization": "Bearer nonsense"}
    settings.WS_JWT = {"key": "k" * 40, "algorithms": ["HS256"]}
    with pytest.raises(HandshakeRejected) as refused:
        async with client(
            Handler, middleware=["django_ws.middleware.JWTAuthMiddleware"], headers=headers
        ):
            pass
    assert refused.value.status in (401, 403)


async def test_tasks_set_in_on_connect_are_told_at_once(caplog: pytest.LogCaptureFixture) -> None:
    class Handler(WebSocketHandler):
        async def on_connect(self) -> None:
            self.tasks = {}  # type: ignore[misc]

    with pytest.raises(HandshakeRejected) as refused:
        async with client(Handler):
            pass
    assert refused.value.status == 500
    assert "Handler.tasks" in errors(caplog)[0]


async def test_what_an_instance_has_of_the_library_is_known_to_the_check() -> None:
    async with Peer(WebSocketHandler) as peer:
        _ = peer.handler.id
        assert set(vars(peer.handler)) == INSTANCE_ATTRIBUTES - {"_rate_limited", "_open_topics"}


HARMLESS = sorted(set(HOOKS) - {"on_decode_error", "on_invalid_message", "on_rate_limited"})


@pytest.mark.parametrize("name", HARMLESS)
async def test_a_hook_may_call_that_of_the_base_class(name: str) -> None:
    """With ``super()``: it may be awaited where it is not one that is never async."""
    arguments: list[Any] = ["news" for _ in HOOKS[name]]
    async with Peer(WebSocketHandler) as peer:
        result = getattr(peer.handler, name)(*arguments)
        if name in ("on_task_error", "unit_of_work"):
            assert result is None
        elif name in ("get_topics", "may_subscribe"):
            assert result in ((), True)
        else:
            assert await result is None


PUBLIC = {
    # To be called, or read.
    "args", "broadcast", "cancel_task", "close", "close_code", "close_reason", "closed",
    "connected", "dropped", "id", "kwargs", "rate_limited", "reject", "request", "restarting",
    "send", "send_bytes", "send_text", "sleep_loop", "start_ping", "start_task", "subprotocol",
    "subscribe", "subscriptions", "tasks", "unsubscribe",
    # To be set.
    "PROCESS_CANCEL_ERRORS", "accept_headers", "codec", "concurrent_broadcasts",
    "first_message_seconds", "idle_timeout", "max_message_size", "rate_limit", "reject_with",
    "send_overflow", "subprotocols", "topics", "using",
}  # fmt: skip


async def test_every_name_without_an_underscore_is_meant_to_be_used() -> None:
    async with Peer(WebSocketHandler) as peer:
        names = {name for name in dir(peer.handler) if not name.startswith("_")}
    assert names == PUBLIC | set(HOOKS)


def test_the_mixins_add_no_other_names_than_djangos_and_their_own_hooks() -> None:
    def added(mixin: type) -> set[str]:
        names = set(dir(mixin)) - set(dir(WebSocketHandler))
        return {name for name in names if not name.startswith("_")}

    access = {"get_permission_denied_message", "permission_denied_message", "refusal"}
    assert added(UserPassesTestMixin) == access | {"get_test_func", "test_func"}
    assert added(PermissionRequiredMixin) == access | {
        "get_permission_required", "has_permission", "permission_required", "topic_permissions",
    }  # fmt: skip
    assert added(FirstMessageAuthMixin) == {"first_message_authenticators"}
