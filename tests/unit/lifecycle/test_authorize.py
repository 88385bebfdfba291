"""``authorize()``: what it returns decides, whatever form it has, and nobody gets in by mistake."""

from __future__ import annotations

import logging
import re
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import AnonymousUser, Group, User
from django.core.exceptions import ImproperlyConfigured

from django_ws import Reject, WebSocketHandler
from django_ws.auth import LoginRequiredMixin, PermissionRequiredMixin, UserPassesTestMixin
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests import ROOT
from tests.support.asgi_peer import PATH, route

KINDS = ["async", "sync", "sync around async"]
each_kind = pytest.mark.parametrize("kind", KINDS)
MEMBER = SimpleNamespace(pk=1, is_authenticated=True)
user: Any = None  # whom the middleware logs in


def logging_in(func: Any) -> Any:
    async def middleware(ws: WebSocketHandler) -> None:
        if user is not None:
            ws.request.user = user
        await func(ws)

    return middleware


@pytest.fixture(autouse=True)
def anonymous() -> Any:
    global user
    user = AnonymousUser()
    yield
    user = None


def with_answer(kind: str, answer: Any, *bases: type) -> type[WebSocketHandler]:
    async def authorize(self: Any) -> Any:
        return answer

    def sync_authorize(self: Any) -> Any:
        return answer

    def around(self: Any) -> Any:
        return authorize(self)

    functions = {"async": authorize, "sync": sync_authorize, "sync around async": around}
    return type("Handler", (*bases, WebSocketHandler), {"authorize": functions[kind]})


async def attempt(handler_class: type[WebSocketHandler]) -> tuple[int, str]:
    with route(handler_class, middleware=[f"{__name__}.logging_in"]):
        try:
            async with WebSocketClient(PATH):
                return 101, ""
        except HandshakeRejected as refused:
            return refused.status, refused.reason


@each_kind
@pytest.mark.parametrize("answer", [None, True])
async def test_none_and_true_admit(kind: str, answer: Any) -> None:
    assert await attempt(with_answer(kind, answer)) == (101, "")


@each_kind
async def test_false_refuses_an_anonymous_client_with_401(kind: str) -> None:
    assert await attempt(with_answer(kind, False)) == (401, "Unauthorized")


@each_kind
async def test_false_refuses_a_user_with_403(kind: str) -> None:
    global user
    user = MEMBER
    assert await attempt(with_answer(kind, False)) == (403, "Forbidden")


@each_kind
async def test_false_refuses_with_403_where_nobody_can_be_logged_in(kind: str) -> None:
    global user
    user = None
    assert await attempt(with_answer(kind, False)) == (403, "Forbidden")


@each_kind
@pytest.mark.parametrize("answer", [0, "", 1, "yes", [], (), {"a": 1}, 403], ids=repr)
async def test_anything_else_is_an_error_in_words_and_logged_once(
    kind: str, answer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    status, _ = await attempt(with_answer(kind, answer))
    assert status == 500
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.exc_info
    assert record.exc_info[0] is TypeError
    text = str(record.exc_info[1])
    for words in ("Handler.authorize()", repr(answer), "True", "False", "Reject"):
        assert words in text


async def test_a_coroutine_that_nobody_awaited_does_not_admit(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(WebSocketHandler):
        async def authorize(self) -> Any:
            return self.is_allowed()  # without await

        async def is_allowed(self) -> bool:
            return True

    assert (await attempt(Handler))[0] == 500
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "await" in str(record.exc_info and record.exc_info[1])


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_refusal_with_reject_keeps_its_status(kind: str) -> None:
    async def authorize(self: Any) -> None:
        raise Reject(429, "later")

    def sync_authorize(self: Any) -> None:
        raise Reject(429, "later")

    functions = {"async": authorize, "sync": sync_authorize}
    handler = type("Handler", (WebSocketHandler,), {"authorize": functions[kind]})
    assert await attempt(handler) == (429, "later")


# Beside the mixins


@each_kind
async def test_a_mixin_above_does_not_forget_what_the_class_below_says(kind: str) -> None:
    global user
    user = MEMBER

    class Open(UserPassesTestMixin):
        def test_func(self) -> bool:
            return True

    class Permitted(PermissionRequiredMixin):
        def has_permission(self) -> bool:
            return True

    for mixin in (LoginRequiredMixin, Open, Permitted):
        below = with_answer(kind, False)
        handler = type("Handler", (mixin, below), {})
        assert await attempt(handler) == (403, "Forbidden"), mixin
        handler = type("Handler", (mixin, with_answer(kind, True)), {})
        assert await attempt(handler) == (101, ""), mixin
        handler = type("Handler", (mixin, with_answer(kind, 1)), {})
        assert (await attempt(handler))[0] == 500, mixin


async def test_false_beside_a_mixin_is_answered_in_its_words() -> None:
    class Handler(LoginRequiredMixin, WebSocketHandler):
        permission_denied_message = "members only"

        async def authorize(self) -> bool:
            await super().authorize()
            return False

    global user
    user = MEMBER
    assert await attempt(Handler) == (403, "members only")


# The answers of other hooks that decide


@each_kind
async def test_on_connect_that_returns_false_refuses(kind: str) -> None:
    hook = vars(with_answer(kind, False))["authorize"]
    handler = type("Handler", (WebSocketHandler,), {"on_connect": hook})
    assert await attempt(handler) == (401, "Unauthorized")


@pytest.mark.parametrize("answer", [None, True, 0, "", 5], ids=repr)
async def test_on_connect_may_return_anything_else(answer: Any) -> None:
    class Handler(WebSocketHandler):
        async def on_connect(self) -> Any:
            return answer

    assert await attempt(Handler) == (101, "")


@pytest.mark.parametrize("name", ["test_func", "has_permission"])
@pytest.mark.parametrize("kind", ["coroutine", "method"])
async def test_a_test_that_was_not_called_or_awaited_does_not_admit(
    name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    mixin = UserPassesTestMixin if name == "test_func" else PermissionRequiredMixin

    async def is_allowed() -> bool:
        return True

    async def test(self: Any) -> Any:
        return is_allowed() if kind == "coroutine" else is_allowed

    handler = type("Handler", (mixin, WebSocketHandler), {name: test})
    assert (await attempt(handler))[0] == 500
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"Handler.{name}()" in str(record.exc_info and record.exc_info[1])


@pytest.mark.parametrize(("answer", "status"), [(5, 101), ([], 401), ("yes", 101), (0, 401)])
async def test_the_test_of_a_mixin_may_give_any_value_as_in_django(
    answer: Any, status: int
) -> None:
    class Handler(UserPassesTestMixin, WebSocketHandler):
        def test_func(self) -> Any:
            return answer

    assert (await attempt(Handler))[0] == status


# The class itself


def test_a_plain_authorize_above_a_mixin_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match=r"Handler\.authorize is not async def"):

        class Handler(LoginRequiredMixin, WebSocketHandler):
            def authorize(self) -> Any:
                super().authorize()  # type: ignore[unused-coroutine]


@pytest.mark.parametrize("value", [True, False, None, "yes"])
async def test_a_value_in_the_place_of_the_method_does_not_admit(
    value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    handler = type("Handler", (WebSocketHandler,), {"authorize": value})
    assert (await attempt(handler))[0] == 500


async def test_a_generator_in_the_place_of_the_method_does_not_admit() -> None:
    class Handler(WebSocketHandler):
        def authorize(self) -> Any:
            yield ImproperlyConfigured

    class AsyncHandler(WebSocketHandler):
        async def authorize(self) -> Any:
            yield ImproperlyConfigured

    assert (await attempt(Handler))[0] == 500
    assert (await attempt(AsyncHandler))[0] == 500


# The documentation's example


@pytest.mark.django_db(transaction=True)
async def test_the_documented_mixin_lets_members_in_and_nobody_else() -> None:
    global user
    page = (ROOT / "docs" / "handlers.md").read_text()
    [block] = re.findall(r"```python\n([^`]*class MembersOnly[^`]*)```", page)
    documented: dict[str, Any] = {}
    exec(block, documented)
    handler = type("Handler", (documented["NewsHandler"],), {"topics": []})
    assert await attempt(handler) == (401, "Unauthorized")
    user = await User.objects.acreate(username="alice")
    assert await attempt(handler) == (403, "Forbidden")
    await user.groups.aadd(await Group.objects.acreate(name="others"))
    assert await attempt(handler) == (403, "Forbidden")
    await user.groups.aadd(await Group.objects.acreate(name="members"))
    assert await attempt(handler) == (101, "")
    closed = type("Handler", (documented["MembersOnly"], with_answer("async", False)), {})
    assert await attempt(closed) == (403, "Forbidden")
