"""WebSocketLiveServerTestCase leaves no connection to the test database, which is deleted then."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.postgres_server import PostgresServer
from tests.support.project import manage

pytestmark = pytest.mark.heavy

MANAGE = """
import sys
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
"""

SETTINGS = """
SECRET_KEY = "for a test"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django_ws"]
ROOT_URLCONF = "urls"
ROOT_WS_URLCONF = "urls"
ASGI_APPLICATION = "asgi.application"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "postgres", "USER": "tests", "HOST": "127.0.0.1", "PORT": {port},
        "CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True,
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "/static/"
"""

URLS = """
from django.contrib.auth.models import User
from django.urls import path
from django_ws import WebSocketHandler


class CountHandler(WebSocketHandler):
    def on_message(self, message):
        self.send(User.objects.count())


urlpatterns = [path("count/", CountHandler)]
"""

TESTS = """
import json
from django.contrib.auth.models import User
from django_ws.testing import WebSocketLiveServerTestCase
from websockets.sync.client import connect


class Live(WebSocketLiveServerTestCase):
    def test_four_sockets(self):
        User.objects.create(username="alice")
        for _ in range(4):
            origin = self.live_server_url
            with connect(self.live_server_ws_url + "/count/", origin=origin) as client:
                client.send("1")
                self.assertEqual(json.loads(client.recv()), 1)
"""


@pytest.fixture
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


def test_the_test_database_is_deleted(postgres: PostgresServer, tmp_path: Path) -> None:
    files = {
        "manage.py": MANAGE,
        "settings.py": SETTINGS.replace("{port}", str(postgres.port)),
        "urls.py": URLS,
        "tests.py": TESTS,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(textwrap.dedent(text))
    done = manage(tmp_path, "test", "--noinput", DJANGO_SETTINGS_MODULE="settings")
    assert done.returncode == 0, done.stderr
    assert "Ran 1 test" in done.stderr
    assert "is being accessed by other users" not in done.stderr
