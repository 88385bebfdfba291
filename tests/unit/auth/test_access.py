"""The access mixins: who gets in, with which status the others are refused, and what runs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.exceptions import ImproperlyConfigured, PermissionDenied
from pytest_django import Settings

from django_ws import ConnectionClosed, Reject, WebSocketHandler, broadcast, user_topic
from django_ws.auth import (
    LoginRequiredMixin,
    PermissionRequiredMixin,
    UserPassesTestMixin,
)
from django_ws.auth.access import AccessMixin, fits
from django_ws.exceptions import BroadcastError, MessageDropped, TopicForbidden
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import HandlerClass, route

pytestmark = pytest.mark.django_db

ran: list[str] = []


class Base(WebSocketHandler):
    """Hooks that know nothing of the mixins, and do not call super()."""

    async def on_connect(self) -> None:
        ran.append("on_connect")

    async def on_open(self) -> None:
        await self.send("hello")

    async def on_close(self) -> None:
        ran.append("on_close")


class SyncBase(Base):
    def on_connect(self) -> None:  # type: ignore[override]
        ran.append("on_connect")


@pytest.fixture(autouse=True)
def _nothing_has_run() -> None:
    ran.clear()


def may(user: User, codename: str) -> User:
    user.user_permissions.add(Permission.objects.get(codename=codename))
    return User.objects.get(pk=user.pk)


def status(handler_class: HandlerClass, user: Any = None, **options: Any) -> int | str:
    """The status of the refusal, or "open"."""
    with route(handler_class, **options):
        try:
            with WebSocketClient("/ws/", user=user) as ws:
                assert ws.receive() == "hello"
                return "open"
        except HandshakeRejected as refused:
            return refused.status


each_base = pytest.mark.parametrize("base", [Base, SyncBase])


@each_base
def test_login_required(base: Any, alice: User) -> None:
    class Handler(LoginRequiredMixin, base):
        pass

    assert (status(Handler), ran) == (401, [])
    assert (status(Handler, alice), ran) == ("open", ["on_connect", "on_close"])


@each_base
def test_permission_required(base: Any, alice: User) -> None:
    class Handler(PermissionRequiredMixin, base):
        permission_required = "auth.view_user"

    assert (status(Handler), status(Handler, alice), ran) == (401, 403, [])
    assert status(Handler, may(alice, "view_user")) == "open"


def test_all_of_several_permissions_are_required(alice: User) -> None:
    class Handler(PermissionRequiredMixin, Base):
        permission_required = ("auth.view_user", "auth.add_user")

    assert status(Handler, may(alice, "view_user")) == 403
    assert status(Handler, may(alice, "add_user")) == "open"


class OnlyAlice:
    """An authentication backend that is not async, as many are."""

    def get_user(self, pk: Any) -> Any:
        return User.objects.filter(pk=pk).first()

    def has_perm(self, user: Any, permission: str, obj: Any = None) -> bool:
        return user.get_username() == "alice" and permission == "the.right"


def test_permission_of_a_backend_that_is_not_async_counts(alice: User, settings: Settings) -> None:
    class Handler(PermissionRequiredMixin, Base):
        permission_required = "the.right"

    settings.AUTHENTICATION_BACKENDS = [
        "django.contrib.auth.backends.ModelBackend",
        f"{__name__}.OnlyAlice",
    ]
    bob = User.objects.create_user("bob")
    assert (status(Handler, bob), status(Handler, alice)) == (403, "open")


def test_has_permission_may_be_overridden_sync(alice: User) -> None:
    class Handler(PermissionRequiredMixin, Base):
        def has_permission(self) -> bool:
            return User.objects.filter(username=self.request.user.get_username()).exists()

    assert (status(Handler), status(Handler, alice)) == (401, "open")


def test_has_permission_may_be_overridden_async(alice: User) -> None:
    class Handler(PermissionRequiredMixin, Base):
        async def has_permission(self) -> bool:
            users = User.objects.filter(username=self.request.user.get_username())
            return await users.aexists()

    assert (status(Handler), status(Handler, alice)) == (401, "open")


def test_get_permission_required_may_be_overridden(alice: User) -> None:
    class Handler(PermissionRequiredMixin, Base):
        def get_permission_required(self) -> list[str]:
            return ["auth.view_user"]

    assert (status(Handler, alice), status(Handler, may(alice, "view_user"))) == (403, "open")


def test_user_passes_sync_test(alice: User) -> None:
    class Handler(UserPassesTestMixin, Base):
        def test_func(self) -> bool:
            return User.objects.filter(username=self.request.user.get_username()).exists()

    assert (status(Handler), status(Handler, alice)) == (401, "open")


def test_user_passes_async_test() -> None:
    class Handler(UserPassesTestMixin, Base):
        async def test_func(self) -> bool:
            return self.request.GET.get("code") == "42"

    assert status(Handler) == 401
    with route(Handler), WebSocketClient("/ws/?code=42") as ws:
        assert ws.receive() == "hello"


def test_user_passes_plain_function_around_a_coroutine() -> None:
    class Handler(UserPassesTestMixin, Base):
        def test_func(self) -> Any:
            return self.refuses()

        async def refuses(self) -> bool:
            return False

    assert status(Handler) == 401


def test_test_may_be_another_function(alice: User) -> None:
    class Handler(UserPassesTestMixin, Base):
        def get_test_func(self) -> Any:
            return self.is_staff

        def is_staff(self) -> bool:
            return bool(self.request.user.is_staff)

    assert status(Handler, alice) == 403


def test_a_test_may_raise_a_refusal_of_its_own(alice: User) -> None:
    class Handler(UserPassesTestMixin, Base):
        async def test_func(self) -> bool:
            raise Reject(429)

    class Denying(UserPassesTestMixin, Base):
        def test_func(self) -> bool:
            raise PermissionDenied

    assert (status(Handler, alice), status(Denying, alice), ran) == (429, 403, [])


@pytest.mark.parametrize("turned", [False, True])
def test_mixins_compose_and_each_must_agree(turned: bool, alice: User) -> None:
    mixins: list[type] = [LoginRequiredMixin, PermissionRequiredMixin, UserPassesTestMixin]
    if turned:
        mixins.reverse()
    passes = [True]

    async def test_func(self: Any) -> bool:
        return passes[0]

    attributes = {"permission_required": "auth.view_user", "test_func": test_func}
    handler_class = type("Handler", (*mixins, Base), attributes)
    assert (status(handler_class), status(handler_class, alice), ran) == (401, 403, [])
    alice = may(alice, "view_user")
    assert status(handler_class, alice) == "open"
    passes[0] = False
    assert status(handler_class, alice) == 403


def test_mixin_of_a_base_class_holds_in_its_subclasses() -> None:
    class Private(LoginRequiredMixin, Base):
        pass

    class Handler(Private):
        async def on_connect(self) -> None:
            ran.append("other")

    assert (status(Handler), ran) == (401, [])


def test_mixin_behind_the_handler_class_is_refused_by_python() -> None:
    with pytest.raises(TypeError, match=r"consistent method resolution\s+order"):
        type("Handler", (WebSocketHandler, LoginRequiredMixin), {})


def test_own_authorize_comes_on_top(alice: User) -> None:
    class Handler(LoginRequiredMixin, Base):
        async def authorize(self) -> None:
            await super().authorize()
            raise Reject(403)

    assert (status(Handler), status(Handler, alice)) == (401, 403)


def test_authorize_without_a_mixin_may_be_sync() -> None:
    class Handler(Base):
        def authorize(self) -> None:
            raise Reject(403)

    assert (status(Handler), ran) == (403, [])


def test_authorize_that_is_not_async_over_a_mixin_is_told_at_once() -> None:
    with pytest.raises(TypeError, match="authorize is not async def"):
        type("Handler", (LoginRequiredMixin, Base), {"authorize": lambda self: None})


def test_message_of_the_refusal_may_be_set(alice: User) -> None:
    class Handler(UserPassesTestMixin, Base):
        permission_denied_message = "Ask Bob."
        reject_with = "close"

        def test_func(self) -> bool:
            return False

    with route(Handler), WebSocketClient("/ws/", user=alice) as ws:
        assert (ws.wait_closed(), ws.close_reason) == (4403, "Ask Bob.")


@pytest.mark.parametrize(
    ("mixin", "words"),
    [
        (PermissionRequiredMixin, "no permission_required. Write, for example"),
        (UserPassesTestMixin, "and no test_func"),
    ],
)
def test_mixin_without_what_it_asks_is_told_and_lets_nobody_in(
    mixin: type, words: str, alice: User, caplog: pytest.LogCaptureFixture
) -> None:
    handler_class = type("Handler", (mixin, Base), {})
    assert status_of_failure(handler_class, alice) == 500
    assert words in caplog.text
    assert ran == []


@pytest.mark.parametrize("mixin", [LoginRequiredMixin, PermissionRequiredMixin])
def test_mixin_without_a_middleware_that_sets_the_user_is_told(
    mixin: type, caplog: pytest.LogCaptureFixture
) -> None:
    handler_class = type("Handler", (mixin, Base), {"permission_required": "auth.view_user"})
    assert status_of_failure(handler_class, None, middleware=[]) == 500
    assert "no middleware has set request.user" in caplog.text


def status_of_failure(handler_class: Any, user: Any, **options: Any) -> int:
    with (
        route(handler_class, **options),
        pytest.raises(HandshakeRejected) as refused,
        WebSocketClient("/ws/", user=user),
    ):
        pass
    assert isinstance(refused.value.__cause__, ImproperlyConfigured | NotImplementedError)
    return refused.value.status


# Topics


class Orders(PermissionRequiredMixin, Base):
    topic_permissions = {
        "orders:*": "auth.view_user",
        "orders:secret": ["auth.add_user"],
        "news": (),
    }

    async def on_message(self, message: Any) -> None:
        try:
            await self.subscribe(message)
        except TopicForbidden as error:
            await self.send([error.topic, str(error)])
        else:
            await self.send(sorted(self.subscriptions))


def joined(topic: str, user: Any = None) -> Any:
    with route(Orders), WebSocketClient("/ws/", user=user) as ws:
        assert ws.receive() == "hello"
        ws.send(topic)
        return ws.receive()


def test_topic_demands_its_permission(alice: User) -> None:
    assert joined("orders:1", alice) == [
        "orders:1",
        "may_subscribe() refuses the topic 'orders:1'",
    ]
    assert joined("orders:1", may(alice, "view_user")) == ["orders:1"]


def test_every_entry_that_fits_counts(alice: User) -> None:
    alice = may(alice, "view_user")
    assert joined("orders:secret", alice)[0] == "orders:secret"
    assert joined("orders:secret", may(alice, "add_user")) == ["orders:secret"]


def test_topic_without_a_demand_is_open_to_all() -> None:
    assert joined("news") == ["news"]


@pytest.mark.parametrize("topic", ["new", "news:1", "order", "room"])
def test_topic_that_no_entry_fits_is_closed(topic: str) -> None:
    assert joined(topic)[0] == topic


def test_own_user_topic_needs_no_entry_and_that_of_others_is_closed(alice: User) -> None:
    bob = User.objects.create_user("bob")

    class Handler(Orders):
        async def on_connect(self) -> None:
            await self.subscribe(user_topic(alice))

    assert (status(Handler), status(Handler, bob)) == (403, 403)
    assert status(Handler, alice) == "open"


@pytest.mark.parametrize("by_method", [False, True])
def test_handshake_with_a_topic_that_is_closed_is_refused(by_method: bool, alice: User) -> None:
    class Handler(Orders):
        topics = () if by_method else ("orders:1",)

    if by_method:

        class Asking(Handler):
            async def get_topics(self) -> list[str]:
                return ["news", "orders:1"]

        Handler = Asking  # type: ignore[misc]
    assert (status(Handler), status(Handler, alice)) == (403, 403)
    assert status(Handler, may(alice, "view_user")) == "open"


def test_refusal_that_nobody_catches_closes_with_4403(alice: User) -> None:
    class Handler(Orders):
        async def on_message(self, message: Any) -> None:
            await self.subscribe(message)

    with route(Handler), WebSocketClient("/ws/", user=alice) as ws:
        ws.send("orders:1")
        assert ws.wait_closed() == 4403


def test_without_topic_permissions_every_topic_is_open(alice: User) -> None:
    class Handler(PermissionRequiredMixin, Base):
        permission_required = ()
        topics = ["anything"]

    with route(Handler), WebSocketClient("/ws/", user=alice) as ws:
        assert ws.receive() == "hello"
        broadcast("anything", 5)
        assert ws.receive() == 5


def test_may_subscribe_of_the_handlers_own_is_asked() -> None:
    class Handler(Base):
        topics = ["open"]

        def may_subscribe(self, topic: str) -> bool:
            return topic != "closed"

        async def on_message(self, message: Any) -> None:
            await self.subscribe(message)

    with route(Handler), WebSocketClient("/ws/") as ws:
        ws.send(["too", "closed"])
        assert ws.wait_closed() == 4403


def test_may_subscribe_that_is_async_lets_nobody_in_and_is_told() -> None:
    """A coroutine would count as true."""

    class Handler(Base):
        topics = ["open"]

        def may_subscribe(self, topic: str) -> Any:
            return self

    with (
        route(Handler),
        pytest.raises(HandshakeRejected) as refused,
        WebSocketClient("/ws/"),
    ):
        pass
    assert refused.value.status == 500
    assert "Write def, not async def" in str(refused.value.__cause__)


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("a", "a", True),
        ("a", "ab", False),
        ("a*", "a", True),
        ("a*", "ab", True),
        ("a*", "ba", False),
        ("*", "anything", True),
        ("a*b", "axb", False),
    ],
)
def test_patterns(pattern: str, topic: str, expected: bool) -> None:
    assert fits(pattern, topic) is expected


def test_mixins_are_handlers_themselves() -> None:
    assert issubclass(AccessMixin, WebSocketHandler)


# Whatever goes wrong, nobody gets in

ERRORS = [
    LookupError("a defect"),
    MessageDropped(),
    ConnectionClosed(),
    asyncio.CancelledError(),
    BroadcastError("publish", "memory", "a defect"),
]


class Telling(Base):
    topics = ["news"]

    async def on_error(self, error: BaseException) -> None:
        ran.append("on_error")


@pytest.mark.parametrize("error", ERRORS, ids=[type(error).__name__ for error in ERRORS])
@pytest.mark.parametrize("is_sync", [False, True], ids=["async", "sync"])
def test_an_exception_of_the_test_refuses_and_runs_no_hook(
    error: BaseException, is_sync: bool
) -> None:
    def function(self: Any) -> bool:
        raise error

    async def coroutine(self: Any) -> bool:
        raise error

    class Handler(UserPassesTestMixin, Telling):
        test_func = function if is_sync else coroutine

    assert (status(Handler), ran) == (503 if isinstance(error, BroadcastError) else 500, [])


@pytest.mark.parametrize("error", ERRORS, ids=[type(error).__name__ for error in ERRORS])
@pytest.mark.parametrize("hook", ["authorize", "on_connect", "get_topics", "may_subscribe"])
def test_an_exception_in_any_hook_of_the_handshake_refuses(error: BaseException, hook: str) -> None:
    async def coroutine(self: Any) -> None:
        raise error

    def function(self: Any, *args: Any) -> None:
        raise error

    called = coroutine if hook in ("authorize", "on_connect") else function
    handler: Any = type("Handler", (Telling,), {hook: called})
    unavailable = isinstance(error, BroadcastError)
    assert status(handler) == (503 if unavailable else 500)
    is_told = hook == "on_connect" or (hook != "authorize" and not unavailable)
    assert ("on_error" in ran) is is_told
    assert "on_close" not in ran


def test_what_the_exception_says_counts() -> None:
    class Handler(UserPassesTestMixin, Telling):
        async def test_func(self) -> bool:
            raise PermissionDenied

    assert (status(Handler), ran) == (403, [])
