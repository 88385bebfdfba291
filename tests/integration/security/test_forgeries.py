"""Tokens, tickets and sessions that somebody made up, changed, or took from somebody else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from django.contrib.auth.models import User
from django.contrib.auth.tokens import default_token_generator
from django.core import signing
from django.core.cache import caches
from django.core.management import call_command
from django.test import Client
from pytest_django import Settings
from rest_framework_simplejwt import state
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken, SlidingToken
from sesame.utils import get_token

from django_ws import WebSocketHandler
from django_ws.auth import LoginRequiredMixin
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import route
from tests.support.output import Output, listening
from tests.support.ways import (
    BACKENDS,
    JWT,
    JWT_KEY,
    SESAME,
    SESSION,
    TICKET,
    TOKEN,
    json_token,
    rest_token,
    session,
    ticket,
)  # fmt: skip
from tests.unit.middleware.test_tokens import EC, RSA, part

pytestmark = pytest.mark.django_db

Make = Callable[[User, User], str]
reached: list[str] = []


class Private(LoginRequiredMixin, WebSocketHandler):
    async def on_connect(self) -> None:
        reached.append(str(self.request.user))


@pytest.fixture(autouse=True)
def _site(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    reached.clear()
    caches["default"].clear()
    settings.AUTHENTICATION_BACKENDS = BACKENDS
    settings.SESAME_MAX_AGE = 30
    settings.WS_JWT = {"key": JWT_KEY, "algorithms": ["HS256"]}
    monkeypatch.setattr(state, "token_backend", TokenBackend("HS256", JWT_KEY))


@pytest.fixture
def alice() -> User:
    return User.objects.create_user("alice", password="secret", is_superuser=True)


@pytest.fixture
def output() -> Iterator[Output]:
    with listening() as heard:
        yield heard


def attempt(**options: Any) -> int:
    with route(Private):
        try:
            with WebSocketClient("/ws/", **options):
                return 101
        except HandshakeRejected as answer:
            return answer.status if answer.reason == "Unauthorized" else 0


def refused(keyword: str, forged: str, output: Output) -> None:
    """In the header, and in the subprotocol too where it may stand there."""
    assert attempt(headers=[("Authorization", f"{keyword} {forged}")]) == 401
    [warning] = [line for line in output.logged("WARNING") if line.startswith("WebSocket ")]
    assert warning.startswith("WebSocket /ws/ refused with 401: the t")
    if forged.replace(".", "").replace("-", "").replace("_", "").isalnum():
        assert attempt(subprotocols=[f"{keyword}.{forged}"]) == 401
    assert reached == []
    assert len(forged) < 8 or forged not in output.everything


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


# JSON Web Tokens


def with_head(head: dict[str, Any], key: str = JWT_KEY) -> Make:
    """Alice's claims under a head of one's own, signed with the right key or another."""

    def make(alice: User, bob: User) -> str:
        text = f"{part(**head)}.{part(sub=str(alice.pk))}"
        return f"{text}.{encoded(hmac.digest(key.encode(), text.encode(), 'sha256'))}"

    return make


def claims(**given: Any) -> Make:
    return lambda alice, bob: jwt.encode({"sub": str(alice.pk), **given}, JWT_KEY, "HS256")


def spliced(alice: User, bob: User) -> str:
    """Alice's claims with the signature of bob's."""
    hers, his = (json_token(user).split(".") for user in (alice, bob))
    return ".".join([*hers[:2], his[2]])


DAY = 86_400  # seconds: the suite may take longer than a minute
NONE = {"alg": "none"}
OWN_KEY = {"kty": "oct", "k": encoded(b"x" * 32)}
FORGED_JWT: dict[str, Make] = {
    "alg none": lambda alice, bob: f"{part(**NONE)}.{part(sub=str(alice.pk))}.",
    "alg none with a signature": with_head(NONE),
    "alg NoNe": with_head({"alg": "NoNe"}),
    "alg missing": with_head({"typ": "JWT"}),
    "alg a list": with_head({"alg": ["HS256"]}),
    "alg null": with_head({"alg": None}),
    "alg of another hash": with_head({"alg": "HS384"}),
    "another key": with_head({"alg": "HS256"}, "x" * 32),
    "the empty key": with_head({"alg": "HS256"}, ""),
    "the SECRET_KEY of the site": with_head({"alg": "HS256"}, "only for tests"),
    "kid that leads to an empty file": with_head({"alg": "HS256", "kid": "/dev/null"}, ""),
    "kid with SQL": with_head({"alg": "HS256", "kid": "x' UNION SELECT 'k"}, "k"),
    "kid that is no text": with_head({"alg": "HS256", "kid": 5}),
    "jwk of one's own": with_head({"alg": "HS256", "jwk": OWN_KEY}, "x" * 32),
    "jku of one's own": with_head({"alg": "HS256", "jku": "http://evil.example/"}, "x" * 32),
    "crit of an extension": with_head({"alg": "HS256", "crit": ["exp"], "exp": 1}),
    "b64 false": with_head({"alg": "HS256", "b64": False, "crit": ["b64"]}),
    "signature of another token": spliced,
    "signature left out": lambda alice, bob: json_token(alice).rpartition(".")[0] + ".",
    "two parts": lambda alice, bob: json_token(alice).rpartition(".")[0],
    "four parts": lambda alice, bob: json_token(alice) + ".x",
    "five parts": lambda alice, bob: "e30.x.x.x.x",
    "in quotes": lambda alice, bob: f'"{json_token(alice)}"',
    "twice": lambda alice, bob: f"{json_token(alice)} {json_token(alice)}",
    "expired": claims(exp=time.time() - 1),
    "expired for ever": claims(exp=0),
    "exp infinite": claims(exp=float("inf")),
    "exp no number": claims(exp={}),
    "not yet valid": claims(nbf=time.time() + DAY),
    "issued in the future": claims(iat=time.time() + DAY),
    "of another audience": claims(aud="others"),
    "user as a list": claims(sub=["1"]),
    "user as a query": claims(sub={"pk__gt": 0}),
    "user true": claims(sub=True),
    "user of many digits": claims(sub="9" * 5000),
    "user none": claims(sub=None),
    "very long": lambda alice, bob: json_token(alice) + "A" * 8000,
}


@pytest.mark.parametrize("name", FORGED_JWT)
def test_forged_jwt(name: str, alice: User, bob: User, output: Output, settings: Settings) -> None:
    settings.WS_MIDDLEWARE = JWT
    refused("Bearer", FORGED_JWT[name](alice, bob), output)


def confused(alice: User, public: str) -> str:
    """Signed with the public key as if it were a secret."""
    text = f"{part(alg='HS256', typ='JWT')}.{part(sub=str(alice.pk))}"
    return f"{text}.{encoded(hmac.digest(public.encode(), text.encode(), 'sha256'))}"


def psychic(alice: User, public: str) -> str:
    """An ECDSA signature of zeros, which some libraries take for any message."""
    return f"{part(alg='ES256')}.{part(sub=str(alice.pk))}.{encoded(bytes(64))}"


def other_curve(alice: User, public: str) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return jwt.encode({"sub": str(alice.pk)}, key, "ES256")


@pytest.mark.parametrize("forge", [confused, psychic, other_curve])
@pytest.mark.parametrize(
    ("algorithm", "public"), [("ES256", EC[1]), ("RS256", RSA[1])], ids=["ES256", "RS256"]
)
def test_forged_jwt_where_the_key_is_public(
    forge: Any, algorithm: str, public: str, alice: User, output: Output, settings: Settings
) -> None:
    settings.WS_MIDDLEWARE = JWT
    settings.WS_JWT = {"key": public, "algorithms": [algorithm]}
    refused("Bearer", forge(alice, public), output)


def lasting(token: Any, **changes: Any) -> str:
    token.payload |= changes
    return str(token)


FORGED_SIMPLE: dict[str, Make] = {
    "refresh token": lambda alice, bob: str(RefreshToken.for_user(alice)),
    "sliding token": lambda alice, bob: str(SlidingToken.for_user(alice)),
    "alg none": lambda alice, bob: (
        f"{part(**NONE)}.{part(token_type='access', user_id=str(alice.pk), exp=2**33, jti='x')}."
    ),
    "another key": lambda alice, bob: jwt.encode(AccessToken.for_user(alice).payload, "y" * 32),
    "no type": lambda alice, bob: lasting(AccessToken.for_user(alice), token_type=None),
    "no user": lambda alice, bob: lasting(AccessToken.for_user(alice), user_id=None),
    "a query for a user": lambda alice, bob: lasting(
        AccessToken.for_user(alice), user_id={"pk__gt": 0}
    ),
    "a user of many digits": lambda alice, bob: lasting(
        AccessToken.for_user(alice), user_id="9" * 3000
    ),
    "expired": lambda alice, bob: lasting(AccessToken.for_user(alice), exp=1),
}


@pytest.mark.parametrize("name", FORGED_SIMPLE)
def test_forged_token_of_simplejwt(
    name: str, alice: User, bob: User, output: Output, settings: Settings
) -> None:
    settings.WS_MIDDLEWARE = JWT
    settings.WS_JWT = None
    refused("Bearer", FORGED_SIMPLE[name](alice, bob), output)


# Django REST framework


def changed(change: Callable[[str], str]) -> Make:
    return lambda alice, bob: change(rest_token(alice))


WIDE = {ord("0") + digit: 0xFF10 + digit for digit in range(10)}
FORGED_KEYS: dict[str, Make] = {
    "nothing": changed(lambda key: ""),
    "a letter less": changed(lambda key: key[:-1]),
    "a letter more": changed(lambda key: key + "0"),
    "reversed": changed(lambda key: key[::-1]),
    "upper case": changed(lambda key: "A" + key.upper()[1:]),
    "twice": changed(lambda key: key * 2),
    "twice, apart": changed(lambda key: f"{key} {key}"),
    "in quotes": changed(lambda key: f"'{key}'"),
    "a space in the middle": changed(lambda key: f"{key[:20]} {key[20:]}"),
    "a tab in the middle": changed(lambda key: f"{key[:20]}\t{key[20:]}"),
    "a NUL behind": changed(lambda key: f"{key}\0"),
    "a NUL and more behind": changed(lambda key: f"{key}\0x"),
    "a NUL in front": changed(lambda key: f"\0{key}"),
    "a soft hyphen": changed(lambda key: f"{key[:20]}\xad{key[20:]}"),
    "a no-break space behind": changed(lambda key: f"{key}\xa0x"),
    "wildcards": changed(lambda key: "%"),
    "wildcards for each letter": changed(lambda key: "_" * 40),
    "a beginning with a wildcard": changed(lambda key: f"{key[:8]}%"),
    "SQL": changed(lambda key: "' OR '1'='1"),
    "a comment behind": changed(lambda key: f"{key}--"),
    "percent escapes": changed(lambda key: "".join(f"%{ord(each):02x}" for each in key)),
    "base64": changed(lambda key: base64.b64encode(key.encode()).decode()),
    "its hash": changed(lambda key: hashlib.sha1(key.encode()).hexdigest()),
    "a comma and more": changed(lambda key: f"{key}, Token x"),
    "very long": changed(lambda key: key * 10_000),
}


@pytest.mark.parametrize("name", FORGED_KEYS)
def test_forged_token_of_rest_framework(
    name: str, alice: User, bob: User, output: Output, settings: Settings
) -> None:
    settings.WS_MIDDLEWARE = TOKEN
    refused("Token", FORGED_KEYS[name](alice, bob), output)


@pytest.mark.parametrize("forged", ["\0", "%00", "%EF%BC%91", "%ff%fe", "a%20b", "x" * 9000])
def test_forged_token_in_the_url(forged: str, alice: User, settings: Settings) -> None:
    settings.WS_MIDDLEWARE = TOKEN
    settings.WS_TOKEN_IN_URL = True
    client = WebSocketClient(f"/ws/?token={rest_token(alice)}{forged}")
    with route(Private), pytest.raises(HandshakeRejected) as told, client:
        pass
    assert (told.value.status, reached) == (401, [])


# django-sesame


def cut(at: int) -> Make:
    """The beginning of bob's token, which names its user, before the rest of alice's, and back."""
    return lambda alice, bob: get_token(alice)[:at] + get_token(bob)[at:]


FORGED_SESAME: dict[str, Make] = {
    "of another scope": lambda alice, bob: get_token(alice, scope="other"),
    "user swapped": cut(6),
    "signature swapped": cut(12),
    "a letter less": lambda alice, bob: get_token(alice)[:-1],
    "a letter more": lambda alice, bob: get_token(alice) + "A",
    "nothing": lambda alice, bob: "",
    "zeros": lambda alice, bob: "A" * 24,
    "no base64": lambda alice, bob: "!" * 24,
    "a ticket": lambda alice, bob: ticket(alice),
    "very long": lambda alice, bob: get_token(alice) * 500,
}


@pytest.mark.parametrize("name", FORGED_SESAME)
def test_forged_token_of_sesame(
    name: str, alice: User, bob: User, output: Output, settings: Settings
) -> None:
    settings.WS_MIDDLEWARE = SESAME
    refused("Sesame", FORGED_SESAME[name](alice, bob), output)


# Tickets


def taken_apart(change: Callable[[list[str], list[str]], list[str]]) -> Make:
    def make(alice: User, bob: User) -> str:
        hers, his = (ticket(user).split(".") for user in (alice, bob))
        return ".".join(change(hers, his))

    return make


def aged(seconds: float) -> Make:
    def make(alice: User, bob: User) -> str:
        with patch("django.core.signing.time.time", return_value=time.time() - seconds):
            return ticket(alice)

    return make


def signed(salt: str) -> Make:
    return lambda alice, bob: signing.TimestampSigner(sep=".", salt=salt).sign_object(
        [str(alice.pk), "", "", "nonce"]
    )


def used(alice: User, bob: User) -> str:
    taken = ticket(alice)
    assert attempt(headers=[("Authorization", f"Ticket {taken}")]) == 101
    reached.clear()
    return taken


FORGED_TICKETS: dict[str, Make] = {
    "replayed": used,
    "user swapped": taken_apart(lambda hers, his: [hers[0], *his[1:]]),
    "time swapped": taken_apart(lambda hers, his: [hers[0], "1zzzzz", hers[2]]),
    "signature left out": taken_apart(lambda hers, his: hers[:2]),
    "signature empty": taken_apart(lambda hers, his: [*hers[:2], ""]),
    "parts in another order": taken_apart(lambda hers, his: hers[::-1]),
    "compressed": taken_apart(lambda hers, his: ["." + hers[0], *hers[1:]]),
    "expired": aged(31),
    "from the future": aged(-60),
    "salt of another use": signed("django.contrib.sessions.backends.signed_cookies"),
    "salt that is nearly right": signed("django_ws.auth.ticke"),
    "no salt of its own": signed(""),
    "signed by the site for something else": lambda alice, bob: signing.dumps([str(alice.pk)]),
    "a token for a new password": lambda alice, bob: default_token_generator.make_token(alice),
    "a session": lambda alice, bob: session(alice),
    "nothing": lambda alice, bob: "",
    "dots": lambda alice, bob: "..",
    "very long": lambda alice, bob: ticket(alice) + "A" * 8192,
}


@pytest.mark.parametrize("name", FORGED_TICKETS)
def test_forged_ticket(
    name: str, alice: User, bob: User, output: Output, settings: Settings
) -> None:
    settings.WS_MIDDLEWARE = TICKET
    forged = FORGED_TICKETS[name](alice, bob)
    refused("Ticket", forged, output)


@pytest.mark.parametrize("backend", ["locmem.LocMemCache", "db.DatabaseCache"])
def test_ticket_is_not_forgotten_because_others_fill_the_cache(
    backend: str, alice: User, settings: Settings
) -> None:
    settings.WS_MIDDLEWARE = TICKET
    name = f"django.core.cache.backends.{backend}"
    settings.CACHES = {"default": {"BACKEND": name, "LOCATION": "small"}}
    if "Database" in backend:
        call_command("createcachetable")
    taken = used(alice, alice)
    for number in range(600):
        caches["default"].set(f"page-{number}", "of the site")
    assert attempt(headers=[("Authorization", f"Ticket {taken}")]) == 401


# Sessions


def stored(**changes: Any) -> Make:
    """A session of alice's whose data somebody has changed."""

    def make(alice: User, bob: User) -> str:
        client = Client()
        client.force_login(alice, BACKENDS[0])
        data = client.session
        data.update(changes)
        data.save()
        return str(data.session_key)

    return make


def tampered(alice: User, bob: User) -> str:
    contents, _, rest = session(bob).partition(":")
    last = "B" if contents.endswith("A") else "A"
    return f"{contents[:-1]}{last}:{rest}"


def flushed(alice: User, bob: User) -> str:
    client = Client()
    client.force_login(alice, BACKENDS[0])
    key = client.cookies["sessionid"].value
    client.logout()
    return key


FORGED_SESSIONS: dict[str, Make] = {
    "made up": lambda alice, bob: "a" * 32,
    "a letter less": lambda alice, bob: session(alice)[:-1],
    "upper case": lambda alice, bob: session(alice).upper(),
    "the user's name": lambda alice, bob: "alice",
    "the user's key": lambda alice, bob: str(alice.pk),
    "hash of another": stored(_auth_user_hash="x" * 64),
    "user of another": stored(_auth_user_id="999"),
    "backend of another": stored(_auth_user_backend="os.system"),
    "tampered": tampered,
    "a path": lambda alice, bob: "../../../../etc/passwd",
    "a NUL": lambda alice, bob: "a\0b",
    "not ASCII": lambda alice, bob: "\xff" * 32,
    "a wildcard": lambda alice, bob: "%",
    "very long": lambda alice, bob: "a" * 60_000,
    "a ticket": lambda alice, bob: ticket(alice),
}
ENGINES = ["db", "cache", "cached_db", "file", "signed_cookies"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", FORGED_SESSIONS)
def test_forged_session(
    name: str,
    engine: str,
    alice: User,
    bob: User,
    output: Output,
    settings: Settings,
    tmp_path: Any,
) -> None:
    settings.WS_MIDDLEWARE = SESSION
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    forged = FORGED_SESSIONS[name](alice, bob)
    assert attempt(cookies={"sessionid": forged}) == 401
    assert (reached, output.logged("ERROR")) == ([], [])
    assert len(forged) < 6 or forged not in output.everything


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "signed_cookies"])
def test_session_that_was_flushed(
    engine: str, alice: User, settings: Settings, tmp_path: Path
) -> None:
    settings.WS_MIDDLEWARE = SESSION
    settings.SESSION_ENGINE = f"django.contrib.sessions.backends.{engine}"
    settings.SESSION_FILE_PATH = str(tmp_path)
    assert attempt(cookies={"sessionid": flushed(alice, alice)}) == 401


def test_cookie_that_comes_twice(alice: User, settings: Settings) -> None:
    """As on a page of Django's: the last one counts."""
    settings.WS_MIDDLEWARE = SESSION
    good = session(alice)
    assert attempt(headers={"cookie": f"sessionid={good}; sessionid=x"}) == 401
    assert reached == []
