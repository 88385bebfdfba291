"""No error report shows what may be a log-in's cookie, whatever its name is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core import mail
from django.test import Client
from pytest_django import Settings

from django_ws import WebSocketHandler
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.support.asgi_peer import route
from tests.support.error_mails import admins_setting
from tests.support.output import Output, listening

pytestmark = pytest.mark.django_db

VALUE = "b7Kq-02hTz91LmNv"


class Failing(WebSocketHandler):
    """Its frame has everything that the client sent among its variables."""

    async def on_connect(self) -> None:
        cookies, headers = self.request.COOKIES, self.request.scope["headers"]
        values = list(cookies.values())
        raise LookupError(f"failed with {len(headers)} headers and {len(values)} cookies")


@pytest.fixture
def output(settings: Settings) -> Iterator[Output]:
    settings.ADMINS = admins_setting("ada@example.com")
    with listening() as heard:
        yield heard


def told(output: Output, **options: Any) -> str:
    with route(Failing), pytest.raises(HandshakeRejected), WebSocketClient("/ws/", **options):
        pass
    assert any("failed with" in str(sent.body) for sent in mail.outbox)
    return output.everything


def test_session_cookie_of_another_name(output: Output, settings: Settings) -> None:
    settings.SESSION_COOKIE_NAME = "sid"
    browser = Client()
    browser.force_login(User.objects.create_user("alice"))
    value = browser.cookies["sid"].value
    assert value not in told(output, cookies={"sid": value})


@pytest.mark.parametrize("name", ["sessionid", "csrftoken", "sid", "remember_me", "x", "access"])
def test_cookie_of_any_name(output: Output, name: str) -> None:
    assert VALUE not in told(output, cookies={name: VALUE})


@pytest.mark.parametrize("header", ['sid="{}"', "a=1; sid={}; sid=second-value", "{}", "sid = {}"])
def test_cookie_as_its_header_had_it(output: Output, header: str) -> None:
    assert VALUE not in told(output, headers={"cookie": header.format(VALUE)})


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("theme", "dark", True),  # too short for a secret
        ("django_language", "a-rather-long-tag", True),
        ("pass", "four", False),  # a name that tells
    ],
)
def test_what_is_no_secret_is_shown(output: Output, name: str, value: str, shown: bool) -> None:
    told(output, cookies={name: value})
    [table] = [
        alternative.split('<h3 id="cookie-info">')[1].split("</table>")[0]
        for sent in mail.outbox
        for alternative, _ in getattr(sent, "alternatives", [])
    ][:1]
    assert (value in table) is shown
