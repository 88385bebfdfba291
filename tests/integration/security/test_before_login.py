"""What is sent before the log-in is through reaches no hook of a socket without one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth import SESSION_KEY
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import Settings
from rest_framework.authtoken.models import Token

from django_ws import WebSocketHandler
from django_ws.auth import LoginRequiredMixin
from django_ws.auth.session import SessionLogin
from django_ws.auth.tokens import TokenLogin
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import PATH, Peer, client, the_handler, turns, until
from tests.support.fuzzer import numbers
from tests.support.raw import TEXT, RawClient, frame
from tests.support.servers import Server
from tests.support.ways import BACKENDS, JWT_KEY, WAYS, Way, session

pytestmark = pytest.mark.django_db(transaction=True)

hooks: list[str] = []


@pytest.fixture(autouse=True)
def _site(settings: Settings) -> None:
    hooks.clear()
    settings.AUTHENTICATION_BACKENDS = BACKENDS
    settings.WS_JWT = {"key": JWT_KEY, "algorithms": ["HS256"]}
    settings.WS_TOKEN_IN_URL = True
    settings.SESAME_MAX_AGE = 30


class Watchful(WebSocketHandler):
    """Notes each hook."""

    topics: Sequence[str] = ("room",)

    async def on_connect(self) -> None:
        hooks.append("on_connect")

    async def on_open(self) -> None:
        hooks.append("on_open")

    async def on_message(self, message: Any) -> None:
        hooks.append(f"on_message {message}")

    async def on_bytes(self, data: bytes) -> None:
        hooks.append("on_bytes")

    async def on_broadcast(self, topic: str, message: Any) -> None:
        hooks.append("on_broadcast")

    async def on_close(self) -> None:
        hooks.append("on_close")


class ForUsers(LoginRequiredMixin, Watchful):
    pass


def peer_of(way: Way, secret: Any) -> Peer:
    """A peer that has said everything before the application has read anything."""
    given = {name.lower(): value for name, value in secret.options.get("headers", {}).items()}
    cookies = secret.options.get("cookies", {})
    if cookies:
        given["cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
    peer = Peer(
        way.mixed_into(ForUsers),
        opens=False,
        headers=[(name.encode(), value.encode()) for name, value in given.items()],
        subprotocols=secret.options.get("subprotocols", ()),
        middleware=way.middleware,
        extensions={"websocket.http.response": {}},
    )
    peer.scope["query_string"] = secret.query.removeprefix("?").encode()
    return peer


def say_all(peer: Peer, *messages: Any) -> None:
    peer.say(*(json.dumps(message) for message in messages))
    peer.feed({"type": "websocket.receive", "bytes": b"raw"})


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_what_is_pipelined_behind_a_wrong_log_in_reaches_no_hook(
    way: Way, alice: User
) -> None:
    secret = await sync_to_async(way.wrong)(alice)
    peer = peer_of(way, secret)
    async with peer:
        first = [] if secret.first is None else [secret.first]
        say_all(peer, *first, "one", {"two": 2}, "three")
        await peer.ended()
        if secret.first is None:
            assert [event.get("status") for event in peer.sent] == [401, None]
        else:
            assert peer.closes == [(4401, "Unauthorized")]
    assert hooks == []


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_what_is_pipelined_behind_a_right_log_in_is_handled_after_it(
    way: Way, alice: User
) -> None:
    secret = await sync_to_async(way.secret)(alice)
    peer = peer_of(way, secret)
    async with peer:
        first = [] if secret.first is None else [secret.first]
        say_all(peer, *first, "one", "two")
        await until(lambda: "on_bytes" in hooks)
    assert hooks == [
        "on_connect", "on_open", "on_message one", "on_message two", "on_bytes", "on_close",
    ]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in WAYS if name.startswith("first")])
async def test_a_message_before_the_token_closes_though_the_token_comes_after_it(
    name: str, alice: User
) -> None:
    way = WAYS[name]
    secret = await sync_to_async(way.secret)(alice)
    peer = peer_of(way, secret)
    async with peer:
        say_all(peer, "one", secret.first, "two")
        await peer.ended()
        assert peer.closes == [(4401, "Unauthorized")]
    assert hooks == []


# On the wire. What stands in one TCP segment with the handshake the servers drop by themselves;
# what comes behind it, before the answer, they keep.

MESSAGES = b"".join(frame(TEXT, b'"pipelined %d"' % number) for number in range(30))


def knock(server: Server, path: str, head: str = "", behind: bytes = MESSAGES) -> RawClient:
    name, _, value = head.encode().partition(b": ")
    client = RawClient(server.port, path.encode(), [(name, value)] if head else [], behind=behind)
    client.send(behind)
    return client


@pytest.mark.parametrize(
    ("path", "head", "status"),
    [
        ("/private/", "", 401),
        ("/private/", "Cookie: sessionid=" + "a" * 32, 401),
        ("/private/", "Authorization: Token wrong", 401),
        ("/private/", "Sec-WebSocket-Protocol: Token.wrong", 401),
        ("/private/", "Origin: http://evil.example", 403),
    ],
)
def test_what_is_sent_behind_the_handshake_reaches_no_hook(
    attacked: Server, path: str, head: str, status: int
) -> None:
    key = uuid.uuid4().hex
    with knock(attacked, f"{path}?{key}", head) as refused:
        assert refused.status() == status
    assert numbers(attacked)["running"] == 1  # which is the one that asks
    assert attacked.events(key) == []


def test_what_is_sent_while_the_log_in_is_looked_at_reaches_no_hook(attacked: Server) -> None:
    key = uuid.uuid4().hex
    with knock(attacked, f"/slow/?{key}") as refused:
        assert attacked.wait_for(key, lambda events: bool(events))
        refused.send(MESSAGES)
        assert refused.status() == 403
    assert numbers(attacked)["running"] == 1
    assert [event["event"] for event in attacked.events(key)] == ["on_connect"]


@pytest.mark.parametrize("first", ['"wrong"', '{"token": "wrong"}', "pipelined", ""])
def test_what_is_sent_behind_a_wrong_first_message_reaches_no_hook(
    attacked: Server, first: str
) -> None:
    key = uuid.uuid4().hex
    messages = frame(TEXT, first.encode()) + MESSAGES
    with knock(attacked, f"/first/?{key}", behind=messages) as ended:
        assert ended.status() == 101
        ended.send(messages)
        assert ended.receive_close() == 4401
    assert numbers(attacked)["running"] == 1
    assert attacked.events(key) == []


def test_what_is_sent_behind_a_right_first_message_is_answered(
    attacked: Server, alice: User
) -> None:
    key, token = uuid.uuid4().hex, json.dumps(Token.objects.create(user=alice).key)
    with knock(attacked, f"/first/?{key}", behind=b"") as client:
        assert client.status() == 101
        client.send(frame(TEXT, token.encode()) + MESSAGES)
        answers = [client.receive_message() for _ in range(30)]
    assert answers == [b'"pipelined %d"' % number for number in range(30)]
    assert attacked.wait_for(key, lambda events: len(events) > 2)  # printed, and read
    assert [event["event"] for event in attacked.events(key)][:3] == [
        "on_connect", "on_open", "on_message",
    ]  # fmt: skip


# Between log-in and log-out


class Plain(Watchful):
    topics = ()

    async def on_message(self, message: Any) -> None:
        await self.send(str(self.request.user))


async def test_a_socket_that_was_opened_before_the_log_in_stays_anonymous(alice: User) -> None:
    """In the same browser, with the very same cookie."""
    browser = Client()
    anonymous = await sync_to_async(lambda: browser.session)()
    await sync_to_async(anonymous.save)()
    cookies = {"sessionid": str(anonymous.session_key)}
    async with client(Plain, cookies=cookies) as ws:
        browser.cookies["sessionid"] = cookies["sessionid"]
        await sync_to_async(browser.force_login)(alice, BACKENDS[0])
        await ws.send("who am I?")
        assert await ws.receive() == "AnonymousUser"
        assert browser.cookies["sessionid"].value != cookies["sessionid"]  # Django gives a new one
        async with WebSocketClient(PATH, cookies=cookies) as fixed:
            await fixed.send("who am I?")
            assert await fixed.receive() == "AnonymousUser"


async def test_a_session_that_is_given_to_another_user_logs_the_first_one_out(alice: User) -> None:
    bob = await User.objects.acreate(username="bob")
    key = await sync_to_async(session)(alice)
    async with client(Plain, cookies={"sessionid": key}) as ws:
        store = type(the_handler().request.session)(key)
        await store.aset(SESSION_KEY, str(bob.pk))
        await store.asave()
        the_handler().request.login.check()
        assert await ws.wait_closed() == 4401


async def test_a_handler_gets_no_message_after_the_log_out(alice: User) -> None:
    key = await sync_to_async(session)(alice)
    async with Peer(ForUsers, headers=[(b"cookie", f"sessionid={key}".encode())]) as peer:
        await turns()
        peer.handler.request.login.end()
        peer.say('"too late"')
        await peer.ended()
        assert peer.closes == [(4401, "the log-in has ended")]
    assert hooks == ["on_connect", "on_open", "on_close"]


async def test_an_asgi_application_gets_no_message_after_the_log_out(alice: User) -> None:
    seen: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while not seen or seen[-1]["type"] != "websocket.disconnect":
            seen.append(await receive())

    key = await sync_to_async(session)(alice)
    route: Any = application
    async with Peer(route, headers=[(b"cookie", f"sessionid={key}".encode())]) as peer:
        await turns()
        peer.handler.request.login.end()
        assert peer.closes == [(4401, "the log-in has ended")]
        peer.say('"too late"')
        await until(lambda: seen)
    assert [event["type"] for event in seen] == ["websocket.disconnect"]


@pytest.mark.parametrize("name", ["session", "first message: token"])
async def test_a_log_in_that_cannot_be_checked_is_answered(
    name: str, alice: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(logins: Any) -> Any:
        raise OSError("the database is down")

    way = WAYS[name]
    secret = await sync_to_async(way.secret)(alice)
    monkeypatch.setattr(SessionLogin if name == "session" else TokenLogin, "ended", broken)
    async with peer_of(way, secret) as peer:
        if secret.first is not None:
            say_all(peer, secret.first)
        await peer.ended()
        assert [event.get("status") for event in peer.sent] == [500, None] or peer.closes
    assert hooks == []


async def test_nobody_gets_in_without_a_log_in() -> None:
    with pytest.raises(HandshakeRejected) as refused:
        async with client(ForUsers):
            pass
    assert (refused.value.status, hooks) == (401, [])
