"""Error reports show no cookie and no token, in whatever form ``repr()`` writes it."""

from __future__ import annotations

import inspect
import json
from typing import Any
from urllib.parse import unquote

import pytest
from django.views.debug import SafeExceptionReporterFilter
from pytest_django import Settings

from django_ws import WebSocketHandler
from django_ws.logs import redaction as hiding_module
from django_ws.logs.redaction import LOOKED_AT, MIN_SECRET, report_filter
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.altered import with_headers
from tests.support.asgi_peer import route
from tests.support.error_mails import admins_setting
from tests.support.output import listening

MARK = "geheimnis"  # in every secret: no report may show it
SHOWN = "everybody-may-see-this"

SECRETS = {
    "plain": b"abc-geheimnis",
    "quoted by Django": rb'"a\054b\073\040geheimnis"',
    "quoted, with a quote in it": rb'"a\"b geheimnis"',
    "a single quote": b"it's-geheimnis",
    "both quotes": b'it\'s-"geheimnis"-here',
    "backslashes": rb"a\b\c\geheimnis\d",
    "Latin-1": b"caf\xe9-geheimnis",
    "UTF-8": "café-geheimnis".encode(),
    "UTF-8 with what cannot be printed": "\u0145\u2028-geheimnis".encode(),
    "another script": "пароль-geheimnis".encode(),
    "a tab": b"a\tb\tgeheimnis",
    "percent-encoded": b"%7B%22a%22%3A%22geheimnis%22%7D",
    "nothing but quotes besides": b"'\"'\"geheimnis'\"",
}


class Failing(WebSocketHandler):
    """Its frame has the cookies in all the forms that code takes them into its hands."""

    async def on_connect(self) -> None:
        headers = list(self.request.scope["headers"])
        [raw] = [value for name, value in headers if name == b"cookie"]
        text, harmless = raw.decode("latin-1"), SHOWN
        cookies = dict(self.request.COOKIES)
        value = next(iter(cookies.values()), "")
        as_bytes, as_utf8 = value.encode("latin-1"), value.encode()
        decoded = as_bytes.decode("utf-8", "replace")
        unquoted = unquote(value)
        nested = repr(repr(headers))
        shown = f"the cookies are {cookies!r} and {raw!r}"
        as_json = json.dumps(cookies)
        in_ascii = ascii(decoded)
        everything = [text, as_utf8, decoded, unquoted, nested, shown, as_json, in_ascii, harmless]
        raise LookupError(len(everything))


def report(*headers: tuple[bytes, bytes]) -> str:
    """All that is told of a handshake that fails, error mails with the variables among it."""
    with listening() as output, route(Failing):
        client = WebSocketClient("/ws/", application=with_headers(*headers))
        with pytest.raises(HandshakeRejected) as refused, client:
            pass
    assert refused.value.status == 500
    return output.everything


@pytest.fixture(autouse=True)
def site(settings: Settings) -> None:
    settings.ADMINS = admins_setting("ada@example.com")
    settings.WS_MIDDLEWARE = []


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_no_form_of_a_cookie_is_shown(secret: bytes) -> None:
    told = report((b"cookie", b"preferences=" + secret))
    at = told.find(MARK)
    assert at < 0, f"...{told[max(0, at - 500) : at + 100]}"
    assert SHOWN in told


def shown(headers: list[tuple[bytes, bytes]], **variables: Any) -> dict[str, Any]:
    """What the filter of a handshake leaves of the variables of a frame."""
    frame = inspect.currentframe()
    hiding: Any = report_filter({"query_string": b"", "headers": headers}, {})
    found = dict(hiding.get_traceback_frame_variables(None, frame))["variables"]
    kept = {}
    for name, value in variables.items():

        def of_a_frame(value: Any = value) -> Any:
            return inspect.currentframe()

        kept[name] = dict(hiding.get_traceback_frame_variables(None, of_a_frame()))["value"]
    assert found  # a dict of them all is one variable
    return kept


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_what_is_no_secret_is_shown_all_the_same(secret: bytes) -> None:
    harmless = {"text": SHOWN, "numbers": [1, 2], "nothing": "", "quotes": "'\"'\"", "slash": "\\"}
    assert shown([(b"cookie", b"preferences=" + secret)], **harmless) == harmless


@pytest.mark.parametrize("length", [7, 8])
def test_a_short_secret_hides_nothing_else(length: int) -> None:
    value = "'\"x'\"yz'"[:length]
    kept = shown([(b"cookie", f"session={value}".encode())], other="xyz", itself=[value])
    stars = SafeExceptionReporterFilter.cleansed_substitute
    assert kept == {"other": "xyz", "itself": [value] if length < MIN_SECRET else stars}


def variables_of(secrets: bytes, message: Any) -> dict[str, Any]:
    """What a report shows of a frame with this message, after a handshake with these cookies."""
    scope: Any = {"type": "websocket", "headers": [(b"cookie", secrets)], "query_string": b""}
    cookies = dict(pair.partition("=")[::2] for pair in secrets.decode("latin-1").split("; "))
    hiding = report_filter(scope, cookies)

    def hook(message: Any) -> Any:
        return inspect.currentframe()

    shown = hiding.get_traceback_frame_variables(None, hook(message))
    return dict(shown)


def test_a_long_variable_is_shown_from_its_beginning() -> None:
    shown = variables_of(b"sessionid=abcdefgh", ["x" * 100] * 1000)["message"]
    assert repr(shown) == repr(["x" * 100] * 1000)[:4096]
    hidden = variables_of(b"sessionid=abcdefgh", ["x" * 100, "abcdefgh"] * 1000)["message"]
    assert hidden == SafeExceptionReporterFilter.cleansed_substitute


def test_many_secrets_and_a_long_message_take_bounded_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client chooses both, and other connections wait for what a report costs."""
    looked_at: list[int] = []
    has_one = hiding_module._has_one

    def counted(text: str, starts: frozenset[str]) -> bool:
        looked_at.append(len(text))
        return has_one(text, starts)

    monkeypatch.setattr(hiding_module, "_has_one", counted)
    cookies = b"; ".join(b"%04d=aaaaaa%04da" % (number, number) for number in range(4000))
    shown = variables_of(cookies, "a" * 1_000_000)["message"]
    assert repr(shown) == "'" + "a" * 4095
    assert max(looked_at) <= LOOKED_AT


def test_the_key_of_the_handshake_is_no_secret() -> None:
    scope: Any = {"headers": [(b"sec-websocket-key", b"abcdefgh")], "query_string": b""}
    hiding = report_filter(scope, {})

    def hook(message: str) -> Any:
        return inspect.currentframe()

    shown = dict(hiding.get_traceback_frame_variables(None, hook("it is abcdefgh")))
    assert shown["message"] == "it is abcdefgh"


@pytest.mark.parametrize("name", ["x-api-key", "x-access-token"])
def test_a_token_in_a_header_of_another_name_is_hidden(name: str) -> None:
    scope: Any = {"headers": [(name.encode(), b"Bearer abcdefgh")], "query_string": b""}
    hiding = report_filter(scope, {})

    def hook(message: str, harmless: str) -> Any:
        return inspect.currentframe()

    shown = dict(hiding.get_traceback_frame_variables(None, hook("it is abcdefgh", "Bearer")))
    assert shown["message"] == SafeExceptionReporterFilter.cleansed_substitute
    assert shown["harmless"] == "Bearer"
