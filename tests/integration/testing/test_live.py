"""WebSocketLiveServerTestCase: a real server, a real client, a real browser."""

import json
import unittest
import urllib.request
from typing import Any

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.test import Client, override_settings
from playwright.sync_api import sync_playwright
from websockets.sync.client import connect

from django_ws import WebSocketHandler
from django_ws.testing import WebSocketLiveServerTestCase
from tests.support.routes import path
from tests.support.untraced import untraced

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


class WhoHandler(WebSocketHandler):
    """Greets by name, and counts the users with the ORM."""

    def on_message(self, message: Any) -> None:
        self.send([message, self.request.user.get_username(), User.objects.count()])


def page(request: HttpRequest) -> HttpResponse:
    return render(request, "live.html")


websocket_urlpatterns = [path("ws/who/", WhoHandler, name="who")]
urlpatterns = [path("page/", page)]

PAGE = """{% load django_ws %}<!doctype html><title>waiting</title>
<script>
  const ws = new WebSocket("{% ws_url "who" %}");
  ws.onopen = () => ws.send(JSON.stringify("hi"));
  ws.onmessage = (event) => { document.title = event.data; };
  ws.onclose = (event) => { document.title = "closed " + event.code; };
</script>"""

settings_of_the_site = override_settings(
    ROOT_URLCONF=__name__,
    ROOT_WS_URLCONF="tests.integration.testing.live_ws_urls",
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "loaders": [("django.template.loaders.locmem.Loader", {"live.html": PAGE})],
                "context_processors": ["django.template.context_processors.request"],
                "libraries": {"django_ws": "django_ws.templatetags.django_ws"},
            },
        }
    ],
)


@settings_of_the_site
class LiveTests(WebSocketLiveServerTestCase):
    def test_socket_of_a_real_client(self) -> None:
        User.objects.create(username="alice")
        with connect(f"{self.live_server_ws_url}/ws/who/", open_timeout=5) as ws:
            ws.send('"hi"')
            assert json.loads(ws.recv(timeout=5)) == ["hi", "", 1]

    def test_page_of_the_same_server(self) -> None:
        with urllib.request.urlopen(f"{self.live_server_url}/page/", timeout=5) as answer:
            assert f"{self.live_server_ws_url}/ws/who/" in answer.read().decode()

    def test_static_files_are_served(self) -> None:
        url = f"{self.live_server_url}/static/admin/css/base.css"
        with urllib.request.urlopen(url, timeout=5) as answer:
            assert answer.headers["Content-Type"] == "text/css"

    def test_logged_in_browser(self) -> None:
        client = Client()
        client.force_login(User.objects.create(username="alice"))
        cookie = {
            "name": "sessionid",
            "value": client.cookies["sessionid"].value,
            "url": self.live_server_url,
        }
        with untraced(), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
            try:
                context = browser.new_context()
                context.add_cookies([cookie])  # type: ignore[list-item]
                tab = context.new_page()
                tab.goto(f"{self.live_server_url}/page/")
                tab.wait_for_function("document.title !== 'waiting'", timeout=10_000)
                assert json.loads(tab.title()) == ["hi", "alice", 1]
            finally:
                browser.close()


def test_server_that_cannot_start_says_so() -> None:
    class NowhereTests(WebSocketLiveServerTestCase):
        host = "192.0.2.1"  # of no machine

        def test_nothing(self) -> None: ...

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(NowhereTests).run(result)
    [(_, error)] = result.errors
    assert "RuntimeError: the live server on '192.0.2.1' did not start" in error
    assert result.testsRun == 0
