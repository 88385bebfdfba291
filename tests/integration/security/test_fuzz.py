"""Whatever comes, in the place of messages, headers, paths, envelopes and tokens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pytest_django import Settings

from django_ws import WebSocketHandler, abroadcast
from django_ws.auth.tokens import (
    JSONWebTokenAuthenticator,
    RestTokenAuthenticator,
    SesameAuthenticator,
    SimpleJWTAuthenticator,
    TicketAuthenticator,
)
from django_ws.auth.tokens.authenticator import Secret, authenticate
from django_ws.codecs import BytesCodec, Codec, JSONCodec, MessagePackCodec, TextCodec
from django_ws.exceptions import DecodeError
from django_ws.pubsub.envelope import Broadcast, seal, seal_check, seal_disconnect
from django_ws.pubsub.hub.registry import hub_of
from django_ws.pubsub.topics import CONTROL_TOPIC
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.altered import with_scope
from tests.support.asgi_peer import PATH, SECONDS, Peer, route
from tests.support.ways import BACKENDS, BY_JWT, JWT_KEY, json_token, rest_token, ticket

here = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
texts = st.text(max_size=300) | st.sampled_from(
    ["[" * 5000, '{"a":', '"\\ud800"', "9" * 5000, "NaN"]
)
data = texts | st.binary(max_size=300)


@pytest.fixture(autouse=True)
def _errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing that a client sends is an error of the site."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# Messages


class Bounded(WebSocketHandler):
    max_message_size = 4096


class Echo(Bounded):
    async def on_message(self, message: Any) -> None:
        await self.send(message)


class SyncEcho(Bounded):
    def on_message(self, message: Any) -> None:
        self.send(message)


class RawEcho(Echo):
    async def on_bytes(self, data: bytes) -> None:
        await self.send_bytes(data)


CODECS: list[Codec] = [JSONCodec(), MessagePackCodec(), TextCodec(), BytesCodec()]


@pytest.mark.parametrize("handler", [Echo, SyncEcho, RawEcho])
@here
@given(codec=st.sampled_from(CODECS), messages=st.lists(data, max_size=4))
def test_any_message_is_answered_or_closes(
    handler: type[Bounded], codec: Codec, messages: list[str | bytes]
) -> None:
    kind = type("Handler", (handler,), {"codec": codec})

    async def main() -> None:
        async with Peer(kind) as peer:
            for message in messages:
                key = "text" if isinstance(message, str) else "bytes"
                peer.feed({"type": "websocket.receive", key: message})
            peer.leave(code=1000)
            await peer.ended()
            codes = [code for code, _ in peer.closes]
            answers = [event for event in peer.sent if event["type"] == "websocket.send"]
            assert codes in ([], [1007], [1009])
            assert len(answers) == len(messages) or (codes and len(answers) < len(messages))

    asyncio.run(main())


# Handshakes

names = st.sampled_from(
    [b"host", b"origin", b"cookie", b"authorization", b"x-forwarded-for", b"x-forwarded-proto",
     b"sec-websocket-protocol", b"Origin", b"HOST"]
) | st.binary(min_size=1, max_size=20)  # fmt: skip
values = st.binary(max_size=200) | st.sampled_from(
    [b"testserver", b"http://testserver", b"null", b"sessionid=" + b"a" * 32, b"Token x", b"Token",
     b"Token \xff", b"1.2.3.4, [::1]:5", b'a="', b"a" * 20_000]
)  # fmt: skip


@pytest.mark.django_db(transaction=True)
@here
@given(
    path=st.text(max_size=100).map(lambda text: f"/{text}") | st.sampled_from(["/ws/", "", "/"]),
    query=st.binary(max_size=200)
    | st.sampled_from([b"a=1&" * 1500, b"token=%00", b"ticket=a.b.c"]),
    headers=st.lists(st.tuples(names, values), max_size=6),
    subprotocols=st.lists(st.text(max_size=30), max_size=3),
    client=st.sampled_from([None, ("127.0.0.1", 1), ("", 0), ("fe80::1%eth0", 5), ("x", 1)]),
)
@example("/ws/", b"token=&" + b"a=1&" * 1500, [], [], None)
@example("/ws/", b"", [(b"cookie", b"sessionid=" + b"\xff" * 40)], ["Token."], None)
def test_any_handshake_is_answered(
    path: str,
    query: bytes,
    headers: list[tuple[bytes, bytes]],
    subprotocols: list[str],
    client: Any,
) -> None:
    application = with_scope(
        path=path, query_string=query, subprotocols=subprotocols, client=client,
        headers=[(b"host", b"testserver"), *headers],
    )  # fmt: skip

    async def main() -> int:
        try:
            async with WebSocketClient(PATH, application=application, timeout=SECONDS) as ws:
                await ws.send("hello")
                assert await ws.receive() == "hello"
                return 101
        except HandshakeRejected as refused:
            return refused.status

    middleware = ["AuthMiddleware", "TokenAuthMiddleware", "TicketAuthMiddleware"]
    with route(Echo, middleware=[f"django_ws.middleware.{name}" for name in middleware]):
        assert asyncio.run(main()) in (101, 400, 401, 403, 404)


# Envelopes

MORE = [
    *[b"", b";", b";{}", b";[]", b";" + b"[" * 20_000, b';{"users":5}', b';{"users":[[],5]}'],
    *[b';{"id":[]}', b';{"id":"x","to":"y"}', b';{"to":{"a":[1]}}', b";\xff"],
]
envelopes = st.binary(max_size=100) | st.builds(
    lambda kind, head, more, body: b"1" + kind + head + b";" + more + b"\n" + body,
    st.sampled_from([b"J", b"B", b"D", b"C", b"X"]),
    st.binary(max_size=10),
    st.sampled_from(MORE),
    st.binary(max_size=50)
    | st.sampled_from([b"[]", b'["room", "x", 5]', b'["room"]', b"{}", b"[[]]"]),
)


@given(envelopes)
@example(b"1J\xff;\n1")
@example(b"1X;\n1")
def test_any_envelope_is_read_or_not_known(envelope: bytes) -> None:
    try:
        broadcast = Broadcast("room", envelope)
    except DecodeError:
        return
    try:
        broadcast.message()
        broadcast.event_for(MessagePackCodec())
    except DecodeError:
        return
    assert all(type(name) is str for name in (*broadcast.exclude, broadcast.id, broadcast.to))


class Member(WebSocketHandler):
    topics = ("room",)


@here
@given(st.lists(st.tuples(st.sampled_from(["room", CONTROL_TOPIC]), envelopes), max_size=5))
@example([(CONTROL_TOPIC, seal_check([])), (CONTROL_TOPIC, seal_disconnect("room", "x", 5))])  # type: ignore[arg-type]
def test_the_listener_outlives_any_envelope(
    caplog: pytest.LogCaptureFixture, published: list[tuple[str, bytes]]
) -> None:
    async def main() -> None:
        async with Peer(Member) as peer:
            hub = hub_of("default")
            await hub.topics.backend.publish_many(published)
            await hub.topics.backend.publish_many([("room", seal("the last"))])
            async with asyncio.timeout(SECONDS):
                while '"the last"' not in peer.texts and not peer.closes:  # noqa: ASYNC110
                    await asyncio.sleep(0)

    asyncio.run(main())
    caplog.clear()  # who can write to the backend may make errors, and is told of them


# Tokens


@pytest.fixture
def site(settings: Settings) -> None:
    settings.AUTHENTICATION_BACKENDS = BACKENDS
    settings.WS_JWT = {"key": JWT_KEY, "algorithms": ["HS256"]}


AUTHENTICATORS = [
    JSONWebTokenAuthenticator,
    RestTokenAuthenticator,
    SesameAuthenticator,
    SimpleJWTAuthenticator,
    TicketAuthenticator,
]


@pytest.mark.django_db
@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("kind", AUTHENTICATORS)
@here
@given(token=st.text(max_size=200) | st.from_regex(r"[\w-]+\.[\w-]+\.[\w-]*", fullmatch=True))
@example("e30.e30.")
@example("." * 20)
@example("AAAA.AAAA.AAAA")
@example(":1:2")
@example("\0")
@example("x" * 10_000)
def test_any_token_logs_nobody_in(kind: Any, token: str) -> None:
    assert async_to_sync(authenticate)([kind()], Secret(token)) is None


@pytest.mark.django_db
@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("make", [rest_token, json_token, ticket], ids=["DRF", "JWT", "ticket"])
@here
@given(place=st.integers(0, 10_000), other=st.characters(min_codepoint=34, max_codepoint=126))
def test_any_change_of_a_token_voids_it(make: Any, place: int, other: str) -> None:
    alice, _ = User.objects.get_or_create(username="alice")
    kinds: dict[Any, Any] = {rest_token: RestTokenAuthenticator, json_token: BY_JWT}
    right = make(alice)
    at = place % (len(right) - 1)  # in the last letter of a JWT two bits mean nothing
    wrong = right[:at] + (other if other != right[at] else "!") + right[at + 1 :]
    kind = kinds.get(make, TicketAuthenticator)
    assert async_to_sync(authenticate)([kind()], Secret(wrong)) is None


async def test_a_broadcast_arrives_after_all_that() -> None:
    async with Peer(Member) as peer:
        await abroadcast("room", "hello")
        async with asyncio.timeout(SECONDS):
            while peer.texts != ['"hello"']:  # noqa: ASYNC110
                await asyncio.sleep(0)
