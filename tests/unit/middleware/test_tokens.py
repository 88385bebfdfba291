"""Log-in by a token in the handshake, with the real libraries that the tokens come from."""

from __future__ import annotations

import base64
import hmac
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import jwt
import pytest
from asgiref.sync import async_to_sync
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from django.contrib.auth.models import AnonymousUser, User
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils.log import AdminEmailHandler
from pytest_django import Settings
from rest_framework.authtoken.models import Token, TokenProxy
from rest_framework_simplejwt import state
from rest_framework_simplejwt.backends import TokenBackend
from rest_framework_simplejwt.tokens import AccessToken, RefreshToken
from sesame.utils import get_token

from django_ws import WebSocketHandler
from django_ws.auth import FirstMessageAuthMixin
from django_ws.auth.recheck import recheck_here
from django_ws.auth.tokens import (
    JSONWebTokenAuthenticator,
    RestTokenAuthenticator,
    SimpleJWTAuthenticator,
    TokenLogin,
)
from django_ws.middleware import (
    JWTAuthMiddleware,
    SesameAuthMiddleware,
    TokenAuthMiddleware,
)
from django_ws.middleware.chain import run
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import client, route, the_handler, until
from tests.support.error_mails import admins_setting
from tests.support.routes import path
from tests.user_models.models import DeviceToken

pytestmark = pytest.mark.django_db

HERE = "django_ws.middleware"
ANONYMOUS = str(AnonymousUser())
SECRET = "a secret of more than thirty-two bytes in length, so that no hash is longer than it"
logins: list[Any] = []


class WhoHandler(WebSocketHandler):
    async def on_open(self) -> None:
        logins.append(self.request.login)
        same = await self.request.auser() is self.request.user
        await self.send([str(self.request.user), same, self.subprotocol])


class SpeakingHandler(WhoHandler):
    subprotocols = ["chat.v1", "chat.v2"]


class ClosingHandler(WhoHandler):
    reject_with = "close"


class FailingHandler(WebSocketHandler):
    async def on_message(self, message: Any) -> None:
        request = self.request  # its repr is part of a report that shows variables
        raise ValueError(f"{message} of {request.path}")


class DeviceAuthMiddleware(TokenAuthMiddleware):
    keyword = "Device"
    model = "auth_tests.DeviceToken"


class ProxyAuthMiddleware(TokenAuthMiddleware):
    model = TokenProxy


class WrongModelMiddleware(TokenAuthMiddleware):
    model = "no.Such"


class ScopedSesameMiddleware(SesameAuthMiddleware):
    scope = "chat"
    max_age = timedelta(seconds=60)


urlpatterns = [
    path("who/", WhoHandler),
    path("speaking/", SpeakingHandler),
    path("closing/", ClosingHandler),
    path("failing/", FailingHandler),
]


@pytest.fixture(autouse=True)
def _site(settings: Settings) -> None:
    logins.clear()
    settings.ROOT_WS_URLCONF = __name__
    settings.AUTHENTICATION_BACKENDS = [
        "django.contrib.auth.backends.ModelBackend",
        "sesame.backends.ModelBackend",
    ]


@pytest.fixture
def key(alice: User) -> str:
    return str(Token.objects.create(user=alice).key)


@pytest.fixture
def tokens(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = [f"{HERE}.AuthMiddleware", f"{HERE}.TokenAuthMiddleware"]


def who(route: str = "/who/", **options: Any) -> Any:
    with WebSocketClient(route, **options) as ws:
        user, same, subprotocol = ws.receive()
        assert same is True
        return user, subprotocol, ws.subprotocol


def by_header(value: str, name: str = "Authorization") -> Any:
    return who(headers={name: value})[0]


def status(**options: Any) -> tuple[int, str]:
    with pytest.raises(HandshakeRejected) as refused, WebSocketClient("/who/", **options):
        pass
    return refused.value.status, refused.value.reason


def header_status(value: str) -> int:
    return status(headers={"Authorization": value})[0]


# Where a token is found


@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize("scheme", ["Token", "token", "TOKEN", "Token "])
def test_token_in_the_header_logs_in(scheme: str, key: str) -> None:
    assert by_header(f"{scheme} {key}") == "alice"


@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize("value", ["", "Basic YTpi", "Bearer x", "Tokens x"])
def test_header_of_another_scheme_is_no_token(value: str) -> None:
    assert by_header(value) == ANONYMOUS


@pytest.mark.usefixtures("tokens")
def test_token_in_the_only_subprotocol_logs_in_and_is_answered_but_not_told(key: str) -> None:
    assert who(subprotocols=[f"Token.{key}"]) == ("alice", None, f"Token.{key}")


@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize("place", [0, 1, 2])
def test_key_is_never_echoed_beside_a_subprotocol_that_is_spoken(place: int, key: str) -> None:
    offered = ["chat.v2", "chat.v1"]
    offered.insert(place, f"Token.{key}")
    assert who("/speaking/", subprotocols=offered) == ("alice", "chat.v1", "chat.v1")


@pytest.mark.usefixtures("tokens")
def test_handler_with_subprotocols_answers_the_token_where_nothing_else_is_offered(
    key: str,
) -> None:
    assert who("/speaking/", subprotocols=[f"Token.{key}"]) == ("alice", None, f"Token.{key}")


@pytest.mark.usefixtures("tokens")
def test_key_is_not_echoed_beside_a_subprotocol_that_nobody_speaks(key: str) -> None:
    assert who(subprotocols=[f"Token.{key}", "other"]) == ("alice", None, None)


@pytest.mark.usefixtures("tokens")
def test_token_in_the_url_is_ignored_with_one_warning(
    key: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert who(f"/who/?token={key}")[0] == ANONYMOUS
    [record] = caplog.records
    assert "WS_TOKEN_IN_URL = True" in record.message
    assert key not in caplog.text


@pytest.mark.usefixtures("tokens")
def test_token_in_the_url_logs_in_where_the_setting_says_so(key: str, settings: Settings) -> None:
    settings.WS_TOKEN_IN_URL = True
    assert who(f"/who/?a=1&token={key}")[0] == "alice"


@pytest.mark.usefixtures("tokens")
def test_other_parameters_are_no_token(settings: Settings) -> None:
    settings.WS_TOKEN_IN_URL = True
    assert who("/who/?my_token=x&a=token=")[0] == ANONYMOUS


@pytest.mark.usefixtures("tokens")
def test_header_counts_before_subprotocol(key: str, bob: User) -> None:
    other = Token.objects.create(user=bob).key
    headers = {"Authorization": f"Token {key}"}
    assert who(headers=headers, subprotocols=[f"Token.{other}"])[0] == "alice"


# No token, a wrong token


@pytest.mark.usefixtures("tokens")
def test_without_a_token_the_user_of_the_session_stays(alice: User) -> None:
    assert who(user=alice)[0] == "alice"


@pytest.mark.usefixtures("tokens")
def test_token_counts_before_the_session(key: str, bob: User) -> None:
    assert who(user=bob, headers={"Authorization": f"Token {key}"})[0] == "alice"


def test_without_token_and_session_middleware_the_user_is_anonymous(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = [f"{HERE}.TokenAuthMiddleware"]
    assert who()[0] == ANONYMOUS
    assert logins == [None]


@pytest.mark.usefixtures("tokens")
@pytest.mark.parametrize(
    "wrong",
    ["", "x", "0" * 40, "a b", "\0", "\u00e9", "' or 1=1 --", "x" * 8193, "x" * 8192],
    ids=["empty", "x", "zeros", "space", "nul", "latin", "sql", "too long", "long"],
)
def test_wrong_token_is_refused_with_401_and_nothing_else_told(wrong: str, key: str) -> None:
    refused = status(headers=[("Authorization", f"Token {wrong}")])
    assert refused == (401, "Unauthorized")


@pytest.mark.usefixtures("tokens")
def test_wrong_token_is_refused_though_the_session_is_right(alice: User) -> None:
    assert status(user=alice, headers={"Authorization": "Token wrong"})[0] == 401


@pytest.mark.usefixtures("tokens")
def test_wrong_token_in_the_subprotocol_is_refused() -> None:
    assert status(subprotocols=["Token.wrong"])[0] == 401


@pytest.mark.usefixtures("tokens")
def test_refusal_by_close_answers_the_token_so_that_browsers_see_the_code() -> None:
    with WebSocketClient("/closing/", subprotocols=["Token.wrong"]) as ws:
        assert ws.wait_closed() == 4401
        assert (ws.subprotocol, ws.close_reason) == ("Token.wrong", "Unauthorized")


@pytest.mark.usefixtures("tokens")
def test_refusal_is_one_line_of_the_log_without_the_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "django.ws")
    header_status("Token very-wrong")
    [line] = [record.message for record in caplog.records if "401" in record.message]
    assert line == (
        "WebSocket /who/ refused with 401: the token in the header Authorization is not valid, "
        "or no more"
    )
    assert "very-wrong" not in caplog.text


# Django REST framework


@pytest.mark.usefixtures("tokens")
def test_token_of_an_inactive_user_is_refused(key: str) -> None:
    User.objects.update(is_active=False)
    assert header_status(f"Token {key}") == 401


@pytest.mark.usefixtures("tokens")
def test_deleted_token_is_refused(key: str) -> None:
    Token.objects.all().delete()
    assert header_status(f"Token {key}") == 401


def test_token_costs_one_query_for_row_and_user(key: str) -> None:
    with CaptureQueriesContext(connection) as queries:
        login = async_to_sync(RestTokenAuthenticator().authenticate)(key)
        assert login is not None
        assert login.user.username == "alice"
    assert len(queries) == 1


def test_model_of_the_site_is_taken(alice: User, settings: Settings) -> None:
    settings.WS_MIDDLEWARE = [f"{__name__}.DeviceAuthMiddleware"]
    DeviceToken.objects.create(user=alice, key="the-phone")
    assert by_header("Device the-phone") == "alice"
    assert header_status("Device the-tablet") == 401
    assert by_header("Token the-phone") == ANONYMOUS


def test_subclass_of_the_model_is_taken(key: str, settings: Settings) -> None:
    settings.WS_MIDDLEWARE = [f"{__name__}.ProxyAuthMiddleware"]
    assert by_header(f"Token {key}") == "alice"


def test_token_logins_end_with_their_rows_by_one_query_for_each_model() -> None:
    users = [User.objects.create_user(name) for name in "abcde"]
    logins = [
        *(TokenLogin(user, model=Token, key=Token.objects.create(user=user).key)
          for user in users[:3]),
        *(TokenLogin(user, model=DeviceToken, key=user.username) for user in users[3:]),
    ]  # fmt: skip
    DeviceToken.objects.create(user=users[3], key="d")
    DeviceToken.objects.create(user=users[0], key="e")  # given to somebody else
    Token.objects.filter(user=users[1]).delete()
    User.objects.filter(username="c").update(is_active=False)
    with CaptureQueriesContext(connection) as queries:
        ended = async_to_sync(TokenLogin.ended)(logins)
    assert sorted(login.user.username for login in ended) == ["b", "c", "e"]
    assert len([query for query in queries if "token" in query["sql"]]) == 2


def test_key_is_not_in_the_repr_of_the_login(key: str, alice: User) -> None:
    assert key not in repr(TokenLogin(alice, model=Token, key=key))


def test_the_app_of_the_tokens_is_needed(settings: Settings) -> None:
    settings.INSTALLED_APPS = [
        name for name in settings.INSTALLED_APPS if name != "rest_framework.authtoken"
    ]
    with pytest.raises(ImproperlyConfigured, match=r"add 'rest_framework\.authtoken'"):
        TokenAuthMiddleware(run)


def test_a_model_that_is_none_is_told() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"'no\.Such' is none"):
        WrongModelMiddleware(run)


@pytest.mark.parametrize(
    ("module", "middleware", "package"),
    [
        ("rest_framework.authtoken.models", TokenAuthMiddleware, "djangorestframework"),
        ("jwt", JWTAuthMiddleware, "PyJWT"),
        ("sesame.utils", SesameAuthMiddleware, "django-sesame"),
    ],
)
def test_missing_library_is_told_with_its_package(
    module: str,
    middleware: Any,
    package: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.WS_JWT = {"key": SECRET, "algorithms": ["HS256"]}
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImproperlyConfigured, match=f"pip install {package}"):
        middleware(run)


# JSON Web Tokens


def pem(private: Any) -> tuple[str, str]:
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    secret = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return secret.decode(), public.decode()


RSA = pem(rsa.generate_private_key(public_exponent=65537, key_size=2048))
EC = pem(ec.generate_private_key(ec.SECP256R1()))
SIGNING = {"HS256": (SECRET, SECRET), "RS256": RSA, "PS256": RSA, "ES256": EC}


@pytest.fixture
def jwts(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = [f"{HERE}.JWTAuthMiddleware"]
    settings.WS_JWT = {"key": SECRET, "algorithms": ["HS256"]}


def part(**contents: Any) -> str:
    """The head or the claims of a token that nobody has signed."""
    return base64.urlsafe_b64encode(json.dumps(contents).encode()).decode().rstrip("=")


def signed(user: User, algorithm: str = "HS256", key: str = SECRET, **claims: Any) -> str:
    return jwt.encode({"sub": str(user.pk), **claims}, key, algorithm)


@pytest.mark.usefixtures("jwts")
@pytest.mark.parametrize("algorithm", SIGNING)
def test_jwt_of_each_kind_of_key_logs_in(alice: User, settings: Settings, algorithm: str) -> None:
    private, public = SIGNING[algorithm]
    settings.WS_JWT = {"key": public, "algorithms": [algorithm]}
    token = signed(alice, algorithm, private)
    assert by_header(f"Bearer {token}") == "alice"
    assert who(subprotocols=[f"Bearer.{token}"])[0] == "alice"
    head, payload, signature = token.split(".")
    other = "A" if signature[0] != "A" else "B"
    assert header_status(f"Bearer {head}.{payload}.{other}{signature[1:]}") == 401


@pytest.mark.usefixtures("jwts")
def test_jwt_ends_the_login_at_exp_plus_leeway(alice: User, settings: Settings) -> None:
    settings.WS_JWT = {**settings.WS_JWT, "leeway": 5}
    exp = int(time.time()) + 60
    by_header(f"Bearer {signed(alice, exp=exp)}")
    by_header(f"Bearer {signed(alice)}")
    assert [login.expires_at for login in logins] == [exp + 5, None]


@pytest.mark.usefixtures("jwts")
@pytest.mark.parametrize(
    ("config", "claims"),
    [
        ({}, {"exp": 1}),
        ({}, {"exp": "soon"}),
        ({}, {"exp": 10**400}),  # no float can hold it
        ({}, {"exp": -(10**400)}),
        ({}, {"exp": "1" + "0" * 400}),
        ({}, {"exp": float("inf")}),
        ({}, {"exp": float("nan")}),
        ({}, {"nbf": 10**400}),
        ({}, {"nbf": float("inf")}),
        ({}, {"iat": 10**400}),
        ({}, {"iat": float("nan")}),
        ({}, {"nbf": 2**40}),
        ({}, {"iat": 2**40}),
        ({}, {"aud": "other"}),  # meant for somebody else
        ({"audience": "us"}, {"aud": "other"}),
        ({"audience": "us"}, {}),
        ({"issuer": "them"}, {"iss": "other"}),
        ({"issuer": ["them", "those"]}, {"iss": "other"}),
        ({"issuer": "them"}, {}),
        ({}, {"sub": None}),
        ({}, {"sub": True}),
        ({}, {"sub": "x"}),
        ({}, {"sub": ""}),
        ({}, {"sub": "2147483648000000000000000"}),
        ({}, {"sub": 2**70}),
        ({}, {"sub": ["1"]}),
        ({}, {"sub": {"a": 1}}),
        ({}, {"sub": "\0"}),
        ({"user_claim": "name"}, {}),
        ({"user_claim": "name", "user_field": "username"}, {"name": "Alice"}),
        ({"user_claim": "name", "user_field": "username"}, {"name": "a\0b"}),
        ({"user_claim": "name", "user_field": "first_name"}, {"name": ""}),  # two of them
    ],
)
def test_jwt_that_is_not_for_us_is_refused(
    alice: User, bob: User, settings: Settings, config: dict[str, Any], claims: dict[str, Any]
) -> None:
    settings.WS_JWT = {**settings.WS_JWT, **config}
    token = jwt.encode({"sub": str(alice.pk), **claims}, SECRET, "HS256")
    assert header_status(f"Bearer {token}") == 401


@pytest.mark.usefixtures("jwts")
@pytest.mark.parametrize(
    ("config", "claims"),
    [
        ({"audience": "us"}, {"aud": "us"}),
        ({"audience": ["us", "we"]}, {"aud": ["other", "we"]}),
        ({"issuer": "them"}, {"iss": "them"}),
        ({"issuer": ["them", "those"]}, {"iss": "those"}),
        ({"user_claim": "name", "user_field": "username"}, {"name": "alice"}),
        ({"leeway": 86_400}, {"exp": int(time.time()) - 1}),
        ({"audience": None, "issuer": None}, {}),
    ],
)
def test_jwt_that_is_for_us_logs_in(
    alice: User, settings: Settings, config: dict[str, Any], claims: dict[str, Any]
) -> None:
    settings.WS_JWT = {**settings.WS_JWT, **config}
    assert by_header(f"Bearer {signed(alice, **claims)}") == "alice"


@pytest.mark.usefixtures("jwts")
def test_jwt_whose_user_is_a_number_logs_in(alice: User) -> None:
    token = jwt.encode({"sub": alice.pk}, SECRET, "HS256")
    assert by_header(f"Bearer {token}") == "alice"


@pytest.mark.usefixtures("jwts")
def test_jwt_of_an_inactive_user_is_refused(alice: User) -> None:
    User.objects.update(is_active=False)
    assert header_status(f"Bearer {signed(alice)}") == 401


@pytest.mark.usefixtures("jwts")
@pytest.mark.parametrize("algorithm", ["none", "None", "nOnE", "HS512", "RS256"])
def test_jwt_of_another_algorithm_is_refused(alice: User, algorithm: str) -> None:
    if algorithm.lower() == "none":
        token = f"{part(alg=algorithm)}.{part(sub=str(alice.pk))}."
    else:
        token = signed(alice, algorithm, RSA[0] if algorithm == "RS256" else SECRET)
    assert header_status(f"Bearer {token}") == 401


@pytest.mark.usefixtures("jwts")
def test_jwt_signed_with_the_public_key_as_a_secret_is_refused(
    alice: User, settings: Settings
) -> None:
    """The confusion of algorithms: an attacker knows the public key."""
    settings.WS_JWT = {"key": RSA[1], "algorithms": ["RS256"]}
    forged = f"{part(alg='HS256')}.{part(sub=str(alice.pk))}"
    signature = hmac.digest(RSA[1].encode(), forged.encode(), "sha256")
    signed = base64.urlsafe_b64encode(signature).decode().rstrip("=")
    assert header_status(f"Bearer {forged}.{signed}") == 401


@pytest.mark.usefixtures("jwts")
@pytest.mark.parametrize(
    "wrong",
    ["x", "..", "a.b.c", "e30.e30.", "W10.W10.W10", "eyJhbGciOiJIUzI1NiJ9..", "a" * 8000],
)
def test_what_is_no_jwt_is_refused(wrong: str) -> None:
    assert header_status(f"Bearer {wrong}") == 401


@pytest.mark.usefixtures("jwts")
def test_deeply_nested_header_of_a_jwt_is_refused() -> None:
    head = base64.b64encode(b"[" * 4800).decode()
    assert header_status(f"Bearer {head}.e30.x") == 401


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"key": RSA[1], "algorithms": ["HS256"]}, "is not a key for HS256"),
        ({"key": SECRET, "algorithms": ["RS256"]}, "is not a key for RS256"),
        ({"key": SECRET, "algorithms": ["XX1"]}, "cannot verify XX1"),
        ({"key": SECRET, "algorithms": ["HS256"], "user_field": "no"}, "no field named 'no'"),
    ],
)
def test_wrong_ws_jwt_is_told_without_the_key(
    settings: Settings, config: dict[str, Any], words: str
) -> None:
    settings.WS_JWT = config
    with pytest.raises(ImproperlyConfigured, match=words) as raised:
        JWTAuthMiddleware(run)
    assert config["key"] not in str(raised.value)
    assert raised.value.__cause__ is None


# simplejwt


@pytest.fixture
def simplejwt(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    settings.WS_MIDDLEWARE = [f"{HERE}.JWTAuthMiddleware"]
    settings.WS_JWT = None

    def configured(**options: Any) -> None:
        """As the setting SIMPLE_JWT would do it, which simplejwt reads once."""
        backend = TokenBackend("HS256", SECRET, **options)
        monkeypatch.setattr(state, "token_backend", backend)

    configured()
    return configured


def test_simplejwts_access_token_logs_in_until_its_exp(
    alice: User, simplejwt: Callable[..., None]
) -> None:
    simplejwt(leeway=7)
    token = AccessToken.for_user(alice)
    assert by_header(f"Bearer {token}") == "alice"
    assert [login.expires_at for login in logins] == [token["exp"] + 7]


@pytest.mark.usefixtures("simplejwt")
def test_simplejwts_refresh_token_is_refused(alice: User) -> None:
    assert header_status(f"Bearer {RefreshToken.for_user(alice)}") == 401


def test_simplejwts_settings_count(alice: User, simplejwt: Callable[..., None]) -> None:
    token = str(AccessToken.for_user(alice))
    assert by_header(f"Bearer {token}") == "alice"
    simplejwt(audience="others")
    assert header_status(f"Bearer {token}") == 401


@pytest.mark.parametrize("types", ["JWT", ("JWT", "Bearer")])
@pytest.mark.parametrize("name", ["HTTP_AUTHORIZATION", "HTTP_X_ACCESS_TOKEN"])
@pytest.mark.usefixtures("simplejwt")
def test_simplejwts_header_is_that_of_its_settings(
    alice: User, settings: Settings, types: Any, name: str
) -> None:
    settings.SIMPLE_JWT = {"AUTH_HEADER_TYPES": types, "AUTH_HEADER_NAME": name}
    token = AccessToken.for_user(alice)
    header = "Authorization" if name == "HTTP_AUTHORIZATION" else "X-Access-Token"
    assert by_header(f"JWT {token}", header) == "alice"
    assert by_header(f"jwt {token}", header) == "alice"
    assert by_header(f"Bearer {token}", header) == ("AnonymousUser" if types == "JWT" else "alice")
    if header != "Authorization":
        assert by_header(f"JWT {token}") == "AnonymousUser"


@pytest.mark.usefixtures("simplejwt")
def test_a_keyword_of_ones_own_goes_before_simplejwts_settings(
    alice: User, settings: Settings
) -> None:
    class Own(JWTAuthMiddleware):
        keyword = "Own"

    settings.SIMPLE_JWT = {"AUTH_HEADER_TYPES": ("JWT",)}
    assert list(Own(run).schemes) == ["Own"]


@pytest.mark.usefixtures("simplejwt")
@pytest.mark.parametrize(
    "change", ["expired", "huge", "inactive", "deleted", "forged", "user", "nobody"]
)
def test_simplejwts_token_that_is_not_valid_is_refused(alice: User, change: str) -> None:
    token = AccessToken.for_user(alice)
    match change:
        case "expired":
            token.set_exp(lifetime=-timedelta(seconds=1))
        case "inactive":
            User.objects.update(is_active=False)
        case "deleted":
            User.objects.all().delete()
        case "huge":
            token["exp"] = 10**400
        case "user":
            token["user_id"] = "x"
        case "nobody":
            del token["user_id"]
    text = str(token)
    assert header_status(f"Bearer {'x' if change == 'forged' else ''}{text}") == 401


def test_ws_jwt_counts_before_simplejwt(
    alice: User, simplejwt: Callable[..., None], jwts: None
) -> None:
    assert by_header(f"Bearer {signed(alice)}") == "alice"


def test_jwt_middleware_without_ws_jwt_and_simplejwt_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("django_ws.middleware.tokens.find_spec", lambda name: None)
    with pytest.raises(ImproperlyConfigured, match="neither is WS_JWT set nor"):
        JWTAuthMiddleware(run)


# Connections that outlive their token


class OpenEndedJWTMiddleware(JWTAuthMiddleware):
    close_at_expiry = False


class ClosingJWTMiddleware(JWTAuthMiddleware):
    close_at_expiry = True


LIBRARIES = pytest.mark.parametrize("library", ["PyJWT", "simplejwt"])


def access(library: str, user: User, expires_at: int, settings: Any, **config: Any) -> str:
    """A token, and the settings that take it."""
    if library == "PyJWT":
        settings.WS_JWT = {"key": SECRET, "algorithms": ["HS256"], **config}
        return signed(user, exp=expires_at)
    settings.WS_JWT = None
    token = AccessToken.for_user(user)
    token["exp"] = expires_at
    return str(token)


@LIBRARIES
@pytest.mark.usefixtures("simplejwt")
def test_the_middleware_says_whether_a_connection_ends_with_its_token(
    library: str, alice: User, settings: Settings
) -> None:
    exp = int(time.time()) + 600
    bearer = f"Bearer {access(library, alice, exp, settings)}"
    for middleware in ("OpenEndedJWTMiddleware", "ClosingJWTMiddleware"):
        settings.WS_MIDDLEWARE = [f"{__name__}.{middleware}"]
        assert by_header(bearer) == "alice"
    assert [login.expires_at for login in logins] == [None, exp]


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.usefixtures("simplejwt")
def test_ws_jwt_says_it_where_the_middleware_does_not(
    closes: bool, alice: User, settings: Settings
) -> None:
    exp = int(time.time()) + 600
    bearer = f"Bearer {access('PyJWT', alice, exp, settings, close_at_expiry=closes)}"
    assert by_header(bearer) == "alice"
    for middleware in ("OpenEndedJWTMiddleware", "ClosingJWTMiddleware"):
        settings.WS_MIDDLEWARE = [f"{__name__}.{middleware}"]
        assert by_header(bearer) == "alice"
    assert [login.expires_at for login in logins] == [exp if closes else None, None, exp]


@LIBRARIES
@pytest.mark.usefixtures("simplejwt")
def test_an_expired_token_opens_no_connection_that_would_outlive_it(
    library: str, alice: User, settings: Settings
) -> None:
    settings.WS_MIDDLEWARE = [f"{__name__}.OpenEndedJWTMiddleware"]
    token = access(library, alice, int(time.time()) - 1, settings)
    assert header_status(f"Bearer {token}") == 401


@LIBRARIES
@pytest.mark.usefixtures("simplejwt")
def test_a_first_message_may_open_a_connection_that_outlives_its_token(
    library: str, alice: User, settings: Settings
) -> None:
    token = access(library, alice, int(time.time()) + 600, settings)
    authenticator: Any = SimpleJWTAuthenticator
    if library == "PyJWT":
        authenticator = JSONWebTokenAuthenticator
    names = {"first_message_authenticators": [authenticator(close_at_expiry=False)]}
    handler: Any = type("Handler", (FirstMessageAuthMixin, WhoHandler), names)
    with route(handler), WebSocketClient("/ws/") as ws:
        ws.send({"token": token})
        assert ws.receive()[0] == "alice"
    assert [login.expires_at for login in logins] == [None]


@LIBRARIES
@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.usefixtures("simplejwt")
@pytest.mark.django_db(transaction=True)
async def test_a_connection_that_outlives_its_token_ends_with_its_user(
    library: str, closes: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await User.objects.acreate(username="alice")
    name = "ClosingJWTMiddleware" if closes else "OpenEndedJWTMiddleware"
    token = access(library, alice, int(time.time()) + 600, settings)
    headers = {"Authorization": f"Bearer {token}"}
    async with client(WhoHandler, middleware=[f"{__name__}.{name}"], headers=headers) as ws:
        await ws.receive()
        login, real = the_handler().request.login, time.time
        monkeypatch.setattr(time, "time", lambda: real() + 1000)
        login.check()
        if closes:
            assert await ws.wait_closed() == 4401
            return
        await until(lambda: recheck_here().is_idle)
        await ws.receive_nothing()
        await User.objects.aupdate(is_active=False)  # no signal tells of it
        login.check()
        assert await ws.wait_closed() == 4401


# django-sesame


@pytest.fixture
def sesame(settings: Settings) -> None:
    settings.WS_MIDDLEWARE = [f"{HERE}.SesameAuthMiddleware"]
    settings.SESAME_MAX_AGE = 30


@pytest.mark.usefixtures("sesame")
def test_sesames_token_logs_in_without_an_end(alice: User) -> None:
    token = get_token(alice)
    assert by_header(f"Sesame {token}") == "alice"
    assert who(subprotocols=[f"Sesame.{token}"])[0] == "alice"
    assert [login.expires_at for login in logins] == [None, None]


@pytest.mark.usefixtures("sesame")
def test_sesames_token_of_another_scope_is_refused(alice: User, settings: Settings) -> None:
    assert header_status(f"Sesame {get_token(alice, scope='other')}") == 401
    settings.WS_MIDDLEWARE = [f"{__name__}.ScopedSesameMiddleware"]
    assert by_header(f"Sesame {get_token(alice, scope='chat')}") == "alice"
    assert header_status(f"Sesame {get_token(alice)}") == 401


@pytest.mark.usefixtures("sesame")
def test_sesames_token_is_refused_when_it_is_too_old(alice: User, settings: Settings) -> None:
    token = get_token(alice)
    settings.SESAME_MAX_AGE = 0
    assert header_status(f"Sesame {token}") == 401


@pytest.mark.usefixtures("sesame")
def test_sesames_token_of_an_inactive_user_or_an_old_password_is_refused(alice: User) -> None:
    tokens = [get_token(alice)]
    alice.set_password("another")
    alice.save()
    tokens.append(get_token(alice))
    User.objects.update(is_active=False)
    assert [header_status(f"Sesame {token}") for token in [*tokens, "x", "xxxx"]] == [401] * 4


@pytest.mark.usefixtures("sesame")
def test_sesames_old_format_with_a_scope_is_refused(alice: User, settings: Settings) -> None:
    settings.SESAME_TOKENS = ["sesame.tokens_v1"]
    token = get_token(alice)
    settings.WS_MIDDLEWARE = [f"{__name__}.ScopedSesameMiddleware"]
    assert header_status(f"Sesame {token}") == 401


def test_sesame_without_its_backend_is_told(settings: Settings) -> None:
    settings.AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
    with pytest.raises(ImproperlyConfigured, match=r"add 'sesame\.backends\.ModelBackend'"):
        SesameAuthMiddleware(run)


# Nothing leaks


@pytest.fixture
def admins(settings: Settings) -> Iterator[None]:
    settings.ADMINS = admins_setting("ada@example.com")
    handler = AdminEmailHandler(include_html=True)
    logger = logging.getLogger("django.ws.request")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)


def mails() -> str:
    assert mail.outbox
    return "".join(f"{sent.body}{getattr(sent, 'alternatives', '')}" for sent in mail.outbox)


@pytest.mark.usefixtures("tokens", "admins")
@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("place", ["header", "subprotocol", "url"])
def test_no_error_report_shows_the_token(
    place: str, debug: bool, key: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    settings.DEBUG = debug
    settings.WS_TOKEN_IN_URL = True
    url = "/failing/?a=here"
    options: dict[str, Any] = {}
    match place:
        case "header":
            options = {"headers": {"Authorization": f"Token {key}"}}
        case "subprotocol":
            options = {"subprotocols": [f"Token.{key}"]}
        case "url":
            url = f"/failing/?a=here&token={key}"
    with WebSocketClient(url, **options) as ws:
        ws.send("it broke")
        assert ws.wait_closed() == 1011
        assert key not in ws.close_reason
        assert isinstance(ws.error, ValueError)
    assert "a=here" in mails()  # it is a report of this request
    assert key not in mails()
    assert key not in caplog.text
    assert not [record for record in caplog.records if key in repr(vars(record))]


@pytest.mark.usefixtures("tokens", "admins")
def test_no_report_of_a_failing_database_shows_the_token(
    key: str, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ALTER TABLE authtoken_token RENAME TO authtoken_away")
    try:
        with (
            pytest.raises(HandshakeRejected) as refused,
            WebSocketClient("/failing/", headers={"Authorization": f"Token {key}"}),
        ):
            pass
    finally:
        with connection.cursor() as cursor:
            cursor.execute("ALTER TABLE authtoken_away RENAME TO authtoken_token")
    assert refused.value.status == 500
    assert "no such table" in mails()
    assert key not in mails()
    assert key not in caplog.text
