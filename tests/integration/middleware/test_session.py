"""AuthMiddleware: the log-in of Django's session, on the handshake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_django import Settings

from tests import ROOT

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def routes(settings: Settings) -> None:
    settings.ROOT_WS_URLCONF = __name__


PROJECT = """
import asyncio
from django.conf import settings
settings.configure(
    SECRET_KEY="x", ROOT_WS_URLCONF=__name__, ALLOWED_HOSTS=["testserver"], INSTALLED_APPS={apps!r}
)
from django.urls import path
from django_ws import WebSocketHandler, get_websocket_application
from django_ws.testing import WebSocketClient

class Echo(WebSocketHandler):
    async def on_message(self, message):
        await self.send([message, hasattr(self.request, "user"), hasattr(self.request, "session")])

async def app(scope, receive, send):
    await receive()
    await send({{"type": "websocket.accept"}})
    await send({{"type": "websocket.send", "text": repr((scope["user"], scope["session"]))}})
    await receive()

urlpatterns = [path("echo/", Echo), path("app/", app)]
application = get_websocket_application()

async def main():
    async with WebSocketClient("/echo/", application=application) as ws:
        await ws.send("hi")
        print(await ws.receive())
    async with WebSocketClient("/app/", application=application) as ws:
        print(await ws.receive_data())

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("apps", "user"),
    [
        ([], "None"),
        (["django_ws"], "None"),
        (["django.contrib.contenttypes", "django.contrib.auth"], "AnonymousUser"),
    ],
)
def test_project_without_users_or_sessions_has_sockets(
    apps: list[str], user: str, tmp_path: Path
) -> None:
    (tmp_path / "project.py").write_text(PROJECT.format(apps=apps))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import project"],
        cwd=ROOT,  # where coverage keeps its data
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == "['hi', False, False]"
    assert user in second
