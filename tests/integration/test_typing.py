"""A user's project passes type checkers in their strict modes, without an override for us."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.timeout(300)

SETTINGS = """
SECRET_KEY = "typed"
INSTALLED_APPS = ["django.contrib.auth", "django.contrib.contenttypes", "django_ws"]
ROOT_URLCONF = "mysite.urls"
"""

HANDLERS = """
from abc import ABC, abstractmethod
from dataclasses import dataclass

from django.contrib.auth.models import User

from django_ws import CloseCode, Reject, WebSocketHandler, broadcast
from django_ws.auth import LoginRequiredMixin
from django_ws.codecs import MessagePackCodec
from django_ws.exceptions import DecodeError, InvalidMessage


@dataclass
class Move:
    x: int
    y: int


class AsyncHandler(LoginRequiredMixin, WebSocketHandler):
    codec = MessagePackCodec()
    subprotocols = ["game.v1"]
    topics = ["news"]
    rate_limit = "20/s"
    idle_timeout = 60
    send_overflow = "drop_oldest"
    reject_with = "close"
    count = 0

    async def authorize(self) -> bool:
        return bool(await super().authorize())

    async def on_connect(self) -> None:
        if self.request.GET.get("closed"):
            raise Reject(403)

    async def on_open(self) -> None:
        await self.subscribe(f"game:{self.kwargs['game']}", self.on_move)
        self.start_task("tick", self.sleep_loop, args=[self.tick, 1])
        self.start_ping()

    async def tick(self) -> None:
        self.count += 1
        await self.send({"tick": self.count})

    async def on_message(self, message: Move) -> None:
        self.send({"x": message.x})
        await self.broadcast(self.subscriptions, {"y": message.y}, exclude_self=True)

    async def on_move(self, topic: str, message: dict[str, int]) -> None:
        await self.send(message)

    async def on_bytes(self, data: bytes) -> None:
        await self.send_bytes(data)

    async def on_text(self, text: str) -> bool:
        return text == "ping"

    async def on_broadcast(self, topic: str, message: Move) -> None:
        await self.send(message)

    async def on_broadcast_gap(self, topics: frozenset[str]) -> None: ...

    async def on_error(self, error: BaseException) -> None: ...

    async def on_decode_error(self, error: DecodeError) -> None:
        await self.close(CloseCode.UNSUPPORTED_DATA)

    async def on_invalid_message(self, error: InvalidMessage) -> None: ...

    async def on_rate_limited(self) -> None: ...

    def on_task_error(self, error: BaseException) -> None: ...

    async def on_restart(self) -> None: ...

    async def get_topics(self) -> list[str]:
        return ["news"]

    def may_subscribe(self, topic: str) -> bool:
        return True

    async def on_close(self) -> None:
        print(self.close_code, self.close_reason)


class SyncHandler(WebSocketHandler):
    def on_connect(self) -> bool:
        return True

    def on_message(self, message: Move) -> None:
        self.send({"users": User.objects.count()})
        broadcast("news", {"x": message.x})

    def on_bytes(self, data: bytes) -> None: ...

    def on_text(self, text: str) -> bool:
        return False

    def on_broadcast(self, topic: str, message: str) -> None:
        self.send(message)

    def on_error(self, error: BaseException) -> None: ...

    def on_close(self) -> None: ...


class AbstractHandler(WebSocketHandler, ABC):
    @abstractmethod
    def word(self) -> str: ...

    async def on_open(self) -> None:
        await self.send(self.word())


class ConcreteHandler(AbstractHandler):
    def word(self) -> str:
        return "hello"
"""

WS_URLS = """
from django.urls import include, path, re_path

from mysite.ws import AsyncHandler, ConcreteHandler, SyncHandler

urlpatterns = [
    path("ws/<slug:game>/", AsyncHandler),
    re_path(r"^ws/v[0-9]+/$", SyncHandler, name="versioned"),
    path("ws/api/", include(([path("concrete/", ConcreteHandler, name="concrete")], "api"))),
]
"""

ASGI = """
import os

from django_ws import get_websocket_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

application = get_websocket_application()
"""

MISTAKES = """
from mysite.ws import AsyncHandler
from django.urls import path


class Careless(AsyncHandler):
    async def on_open(self) -> None:
        await self.sned("hello")  # mistake

    async def on_close(self, code: int) -> None: ...  # mistake


print(Careless.unknown)  # mistake
number = path("number/", 3)  # mistake
no_handler = path("class/", Exception)  # mistake
"""

CONFIGURATION = """
[tool.mypy]
strict = true
plugins = ["mypy_django_plugin.main"]

[tool.django-stubs]
django_settings_module = "mysite.settings"

[tool.basedpyright]
typeCheckingMode = "strict"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    package = tmp_path / "mysite"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "urls.py").write_text("urlpatterns: list[object] = []\n")
    for name, text in [
        ("settings", SETTINGS),
        ("ws", HANDLERS),
        ("ws_urls", WS_URLS),
        ("asgi", ASGI),
    ]:
        (package / f"{name}.py").write_text(text)
    (tmp_path / "pyproject.toml").write_text(CONFIGURATION)
    return tmp_path


def complaints(project: Path, checker: str, *options: str) -> str:
    """What a checker prints about a project; nothing where it has passed."""
    done = subprocess.run(
        [sys.executable, "-m", checker, *options, "mysite"],
        cwd=project,
        env={},  # without the variables by which subprocesses are measured
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def mypy(project: Path) -> str:
    return complaints(project, "mypy")


def pyright(project: Path) -> str:
    return complaints(project, "basedpyright", "--pythonpath", sys.executable)


def test_project_passes_mypy(project: Path) -> None:
    assert mypy(project) == ""


def test_project_passes_pyright(project: Path) -> None:
    assert pyright(project) == ""


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_mistakes_are_still_found(project: Path, checker: Callable[[Path], str]) -> None:
    (project / "mysite" / "mistakes.py").write_text(MISTAKES)
    found = checker(project)
    for number, line in enumerate(MISTAKES.splitlines(), 1):
        assert (f"mistakes.py:{number}:" in found) == line.endswith("# mistake"), line
