"""Advice works: what the texts of exceptions and lines of the log say is done, and is enough."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.template import Context, RequestContext, Template, TemplateSyntaxError
from django.test import RequestFactory
from pytest_django import Settings
from rest_framework.authtoken.models import Token

from django_ws import (
    Reject,
    WebSocketHandler,
    abroadcast,
    adisconnect,
    broadcast,
    disconnect,
    user_topic,
)
from django_ws.auth import (
    FirstMessageAuthMixin,
    LoginRequiredMixin,
    PermissionRequiredMixin,
    UserPassesTestMixin,
    make_ticket,
)
from django_ws.auth.tokens import (
    JSONWebTokenAuthenticator,
    SesameAuthenticator,
    TicketAuthenticator,
)
from django_ws.close_codes import is_sendable
from django_ws.codecs import BytesCodec, TextCodec
from django_ws.exceptions import EncodeError, InvalidTopic, StateError, TooManyTopics
from django_ws.middleware.chain import build
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import PATH, client, route


async def answer(handler: type[WebSocketHandler], **options: Any) -> tuple[int, str]:
    """The status of a handshake, and what the exception that refused it says."""
    middleware = options.pop("middleware", None)
    with route(handler, middleware=middleware):
        try:
            async with WebSocketClient(PATH, **options):
                return 101, ""
        except HandshakeRejected as refused:
            return refused.status, str(refused.__cause__)


# Mixins and middleware

AUTH = "django_ws.middleware.AuthMiddleware"


class Members(LoginRequiredMixin, WebSocketHandler):
    pass


async def test_a_mixin_without_a_middleware_names_one(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = []
    status, text = await answer(Members)
    assert (status, f"List '{AUTH}'" in text) == (500, True)
    settings.WS_MIDDLEWARE = [AUTH]
    assert (await answer(Members))[0] == 401


async def test_a_mixin_without_a_test_shows_what_to_write() -> None:
    class Without(UserPassesTestMixin, WebSocketHandler):
        pass

    class With(UserPassesTestMixin, WebSocketHandler):
        def test_func(self) -> bool:
            return True

    class WithAsync(UserPassesTestMixin, WebSocketHandler):
        async def test_func(self) -> bool:
            return True

    status, text = await answer(Without)
    assert (status, "Write def test_func(self), or async def" in text) == (500, True)
    assert (await answer(With))[0] == (await answer(WithAsync))[0] == 101


async def test_a_mixin_without_a_permission_shows_what_to_write() -> None:
    class Without(PermissionRequiredMixin, WebSocketHandler):
        pass

    class With(PermissionRequiredMixin, WebSocketHandler):
        permission_required = "shop.view_order"

    class WithTopics(PermissionRequiredMixin, WebSocketHandler):
        topic_permissions = {"news": ()}

    class WithMethod(PermissionRequiredMixin, WebSocketHandler):
        def get_permission_required(self) -> list[str]:
            return []

    status, text = await answer(Without)
    assert status == 500
    for words in (
        'permission_required = "shop.view_order"',
        "get_permission_required()",
        "topic_permissions",
    ):
        assert words in text
    assert (await answer(With))[0] == 401
    assert (await answer(WithTopics))[0] == (await answer(WithMethod))[0] == 101


@pytest.mark.django_db(transaction=True)
async def test_a_first_message_without_authenticators_shows_what_to_write() -> None:
    class Without(FirstMessageAuthMixin, WebSocketHandler):
        pass

    class With(FirstMessageAuthMixin, WebSocketHandler):
        first_message_authenticators = [TicketAuthenticator]

        async def on_open(self) -> None:
            await self.send("open")

    async with client(Without) as ws:
        await ws.send("a token")
        assert await ws.wait_closed() == 1011
        assert "first_message_authenticators = [TicketAuthenticator]" in str(ws.error)
    request = RequestFactory().get("/")
    request.user = await User.objects.acreate(username="alice")
    ticket = await sync_to_async(make_ticket)(request)
    async with client(With) as ws:
        await ws.send({"ticket": ticket})
        assert await ws.receive() == "open"


async def test_an_authorize_that_is_not_async_shows_what_to_write() -> None:
    with pytest.raises(TypeError) as raised:
        type("Handler", (Members,), {"authorize": lambda self: True})
    assert "Write async def authorize(self) and return await super().authorize()" in str(
        raised.value
    )

    class Followed(Members):
        async def authorize(self) -> Any:
            return await super().authorize()

    assert (await answer(Followed))[0] == 401


async def test_a_middleware_that_gives_nothing_shows_what_to_write(settings: Settings) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        build((f"{__name__}.gives_nothing",))
    assert "a function that takes func and returns such a callable" in str(raised.value)
    settings.WS_MIDDLEWARE = [f"{__name__}.Timing", f"{__name__}.gives_callable"]
    assert (await answer(WebSocketHandler))[0] == 101


def gives_nothing(func: Any) -> None: ...


def gives_callable(func: Any) -> Any:
    return Timing(func)


class Timing:
    def __init__(self, func: Any) -> None:
        self.func = func

    async def __call__(self, ws: Any) -> None:
        await self.func(ws)


# Tokens


def test_tokens_without_a_key_show_the_setting(settings: Settings) -> None:
    settings.WS_JWT = None
    with pytest.raises(ImproperlyConfigured) as raised:
        JSONWebTokenAuthenticator()
    assert "Set it to a dict such as {'key': ..., 'algorithms': ['ES256']}" in str(raised.value)
    settings.WS_JWT = {"key": "s" * 40, "algorithms": ["ES256"]}
    with pytest.raises(ImproperlyConfigured) as raised:
        JSONWebTokenAuthenticator()
    assert "the secret for HS algorithms, the public key as PEM text" in str(raised.value)
    settings.WS_JWT = {"key": "s" * 40, "algorithms": ["HS256"]}
    JSONWebTokenAuthenticator()
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    settings.WS_JWT = {"key": pem, "algorithms": ["ES256"]}
    JSONWebTokenAuthenticator()


def test_sesame_without_its_backend_names_it(settings: Settings) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        SesameAuthenticator()
    [backend] = re.findall(r"add '(.*)' to AUTHENTICATION_BACKENDS", str(raised.value))
    settings.AUTHENTICATION_BACKENDS = [*settings.AUTHENTICATION_BACKENDS, backend]
    SesameAuthenticator()


@pytest.mark.django_db(transaction=True)
async def test_a_token_in_the_url_that_is_ignored_may_come_in_other_ways(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    class Who(WebSocketHandler):
        async def on_open(self) -> None:
            await self.send(self.request.user.get_username())

    alice = await User.objects.acreate(username="alice")
    token = await Token.objects.acreate(user=alice)

    async def who(url: str = PATH, **options: Any) -> Any:
        middleware = ["django_ws.middleware.TokenAuthMiddleware"]
        async with client(Who, at=url, middleware=middleware, **options) as ws:
            return await ws.receive()

    assert await who(f"{PATH}?token={token.key}") == ""
    [line] = caplog.messages
    assert "send it in a header, a subprotocol or the first message" in line
    assert "WS_TOKEN_IN_URL = True" in line
    assert await who(headers={"Authorization": f"Token {token.key}"}) == "alice"
    assert await who(subprotocols=[f"Token.{token.key}"]) == "alice"
    settings.WS_TOKEN_IN_URL = True
    assert await who(f"{PATH}?token={token.key}") == "alice"


@pytest.mark.django_db
def test_a_ticket_for_nobody_says_who_may_ask() -> None:
    request = RequestFactory().get("/")
    request.user = AnonymousUser()
    with pytest.raises(ValueError, match="login_required"):
        make_ticket(request)
    request.user = User.objects.create(username="alice")
    assert make_ticket(request)


# Sending and closing


@pytest.mark.parametrize(
    ("codec", "wrong", "says", "right"),
    [
        (TextCodec(), 5, "use str(...)", str(5)),
        (BytesCodec(), "text", "use .encode()", b"text"),
        (BytesCodec(), [1, 2], "use bytes(...)", bytes([1, 2])),
    ],
)
def test_a_codec_says_how_to_make_a_message_of_it(
    codec: Any, wrong: Any, says: str, right: Any
) -> None:
    with pytest.raises(EncodeError) as raised:
        codec.encode(wrong)
    assert says in str(raised.value)
    assert codec.encode(right) == right


def test_the_close_codes_that_are_named_may_all_be_sent() -> None:
    with pytest.raises(ValueError, match=r"close|disconnect") as raised:
        disconnect("news", code=1005)
    assert "Use 1000 to 1014 (but 1004 to 1006), or 3000 to 4999" in str(raised.value)
    named = [code for code in range(1000, 1015) if code not in (1004, 1005, 1006)]
    assert [code for code in (*named, *range(3000, 5000)) if not is_sendable(code)] == []
    assert [code for code in (999, 1004, 1005, 1006, 1015, 2999, 5000) if is_sendable(code)] == []


async def test_what_comes_too_early_or_too_late_says_where_it_belongs() -> None:
    texts: list[str] = []

    class Handler(WebSocketHandler):
        async def on_connect(self) -> None:
            try:
                self.send(1)
            except StateError as error:
                texts.append(str(error))

        async def on_open(self) -> None:
            await self.send("in on_open")
            try:
                self.reject(403)
            except StateError as error:
                texts.append(str(error))
            await self.close(4003, "instead")

    async with client(Handler) as ws:
        assert await ws.receive() == "in on_open"
        assert await ws.wait_closed() == 4003
    assert "send in on_open or later" in texts[0]
    assert "use close(code, reason) instead" in texts[1]


async def test_a_close_before_the_accept_says_how_clients_see_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Handler(WebSocketHandler):
        async def on_connect(self) -> None:
            await self.close(4001, "go away")

    class Followed(Handler):
        reject_with = "close"

    caplog.set_level(logging.INFO, "django.ws.request")
    assert (await answer(Handler))[0] == 403
    assert 'set reject_with = "close" on ' in caplog.text
    async with client(Followed) as ws:
        assert await ws.wait_closed() == 4001
        assert ws.close_reason == "go away"


@pytest.mark.parametrize("status", [400, 404, 599])
def test_a_rejection_says_which_statuses_there_are(status: int) -> None:
    with pytest.raises(ValueError, match="400 to 599"):
        Reject(200)
    assert Reject(status).status == status


# Topics and broadcasts


async def test_broadcasts_in_async_code_name_their_other_form() -> None:
    with pytest.raises(SynchronousOnlyOperation, match=r"use `await abroadcast\(\.\.\.\)`"):
        broadcast("news", 1)
    with pytest.raises(SynchronousOnlyOperation, match=r"use `await adisconnect\(\.\.\.\)`"):
        disconnect("news")
    await abroadcast("news", 1)
    await adisconnect("news")


async def test_a_reserved_topic_names_who_makes_it() -> None:
    with pytest.raises(InvalidTopic, match=r"use user_topic\(user\)"):
        await abroadcast("django_ws.user:7", 1)
    await abroadcast(user_topic(User(pk=7)), 1)


@pytest.mark.parametrize("way", ["unsubscribe", "setting"])
async def test_too_many_topics_say_what_makes_room(settings: Settings, way: str) -> None:
    settings.WS_MAX_TOPICS = 1
    texts: list[str] = []

    class Handler(WebSocketHandler):
        async def on_open(self) -> None:
            await self.subscribe("one")
            try:
                await self.subscribe("two")
            except TooManyTopics as error:
                texts.append(str(error))
            if way == "unsubscribe":
                await self.unsubscribe("one")
            else:
                settings.WS_MAX_TOPICS = 2
            await self.subscribe("two")
            await self.send(sorted(self.subscriptions))

    async with client(Handler) as ws:
        assert await ws.receive() == (["two"] if way == "unsubscribe" else ["one", "two"])
    assert "unsubscribe from some, or raise the setting" in texts[0]


async def test_an_excluded_connection_is_named_by_its_id() -> None:
    class Handler(WebSocketHandler):
        topics = ["news"]

        async def on_open(self) -> None:
            with pytest.raises(ValueError, match=r"\(handler\.id\)"):
                await abroadcast("news", 1, exclude=self)  # type: ignore[arg-type]
            await abroadcast("news", 1, exclude=self.id)
            await self.send("done")

    async with client(Handler) as ws:
        assert await ws.receive() == "done"
        await ws.receive_nothing()


async def test_may_subscribe_that_gives_something_else_shows_what_to_write() -> None:
    class Wrong(WebSocketHandler):
        topics = ["news"]

        def may_subscribe(self, topic: str) -> bool:
            return topic  # type: ignore[return-value]

    class Right(WebSocketHandler):
        topics = ["news"]

        async def on_connect(self) -> None:
            self.is_allowed = True

        def may_subscribe(self, topic: str) -> bool:
            return self.is_allowed

    status, text = await answer(Wrong)
    assert (status, "Write def, not async def" in text) == (500, True)
    assert (await answer(Right))[0] == 101


# Tasks and templates


async def test_a_task_of_a_plain_function_says_how_to_make_it_one() -> None:
    texts: list[str] = []

    def plain() -> None:
        texts.append("ran")

    async def with_async_def() -> None:
        texts.append("ran with async def")

    class Handler(WebSocketHandler):
        async def on_open(self) -> None:
            try:
                self.start_task("plain", plain)  # type: ignore[arg-type]
            except TypeError as error:
                texts[:] = [str(error)]
            self.start_task("plain", sync_to_async(plain), callback=self.go_on)

        async def go_on(self, task: Any) -> None:
            self.start_task("async", with_async_def, callback=lambda task: self.send("done"))

    async with client(Handler) as ws:
        assert await ws.receive() == "done"
    assert "Write it with 'async def', or wrap it in sync_to_async()" in texts[0]
    assert texts[1:] == ["ran", "ran with async def"]


def test_the_template_tag_without_a_request_says_how_to_have_one(settings: Settings) -> None:
    template = Template('{% load django_ws %}{% ws_url "echo" %}')
    with pytest.raises(TemplateSyntaxError) as raised:
        template.render(Context())
    assert "render with render(request, ...)" in str(raised.value)
    assert "django.template.context_processors.request" in str(raised.value)
    request = RequestFactory().get("/")
    request.user = AnonymousUser()
    assert template.render(RequestContext(request)) == "ws://testserver/echo/"
