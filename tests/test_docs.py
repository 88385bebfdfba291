"""Every Python block of the README and the docs runs, and the three steps give a socket."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from django.urls import clear_url_caches, path
from pytest_django import Settings
from websockets.sync.client import connect
from websockets.typing import Origin

from django_ws import WebSocketHandler
from django_ws.exceptions import Reject
from django_ws.middleware.chain import Chain
from django_ws.testing import HandshakeRejected, WebSocketClient
from tests.e2e.servers import START_SECONDS, Lines

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text())


def all_blocks() -> Iterator[Any]:
    for page in PAGES:
        for number, block in enumerate(blocks(page), 1):
            yield pytest.param(block, id=f"{page.name}-{number}")


@pytest.fixture
def mysite(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The module ``mysite.ws`` of the README's second step, for the blocks that import it."""
    package, module = types.ModuleType("mysite"), types.ModuleType("mysite.ws")
    monkeypatch.setitem(sys.modules, "mysite", package)
    monkeypatch.setitem(sys.modules, "mysite.ws", module)
    exec(blocks(PAGES[0])[1], module.__dict__)
    return module


@pytest.fixture
def run(mysite: types.ModuleType) -> Any:
    def run_block(block: str) -> dict[str, Any]:
        namespace: dict[str, Any] = {"__name__": "documented"}
        exec(block, namespace)
        return namespace

    return run_block


@pytest.mark.parametrize("block", list(all_blocks()))
def test_block_runs(block: str, run: Any) -> None:
    assert run(block)


def handler_in(page: str, name: str, run: Any) -> Any:
    [block] = [text for text in blocks(ROOT / page) if f"class {name}(" in text]
    return run(block)[name]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Any:
    """Make a handler the only route, and give a client for it."""

    def serve_at(handler: type[WebSocketHandler], route: str = "documented/") -> WebSocketClient:
        name = f"routes_of_{handler.__name__}"  # Django keeps the routes of each module it knows
        urls = types.ModuleType(name)
        urls.__dict__["urlpatterns"] = [path(route, cast(Any, handler))]
        monkeypatch.setitem(sys.modules, name, urls)
        settings.ROOT_WS_URLCONF = name
        clear_url_caches()
        return WebSocketClient(f"/{route}")

    return serve_at


class TestDocumentedHandlers:
    async def test_room_refuses_the_anonymous(self, run: Any, serve: Any) -> None:
        client = serve(handler_in("README.md", "RoomHandler", run))
        with pytest.raises(HandshakeRejected) as caught:
            async with client:
                pass
        assert caught.value.status == 401

    @pytest.mark.django_db(transaction=True)
    async def test_count_uses_the_orm(self, run: Any, serve: Any) -> None:
        async with serve(handler_in("README.md", "CountHandler", run)) as ws:
            await ws.send({})
            assert await ws.receive() == {"users": 0}

    async def test_clock_pings(self, run: Any, serve: Any, settings: Settings) -> None:
        settings.WS_PING_INTERVAL = 0.02
        async with serve(handler_in("README.md", "ClockHandler", run)) as ws:
            assert "ping" in await ws.receive()

    async def test_telemetry_speaks_message_pack(self, run: Any, serve: Any) -> None:
        handler = handler_in("README.md", "TelemetryHandler", run)
        async with serve(handler) as ws:
            await ws.send_bytes(handler.codec.encode([1, 2]))
            assert handler.codec.decode(await ws.receive_data()) == {"received": 2}

    async def test_middleware_may_reject(self, run: Any, serve: Any) -> None:
        [block] = [text for text in blocks(PAGES[0]) if "class TimingMiddleware" in text]
        rejected = []

        class Connection:
            request = types.SimpleNamespace(GET={"closed": "1"})

            async def reject(self, status: int) -> None:
                rejected.append(status)

        async def func(ws: Any) -> None:
            raise Reject(500)

        chain: Chain = run(block)["TimingMiddleware"](func)
        await chain(Connection())  # type: ignore[arg-type]
        assert rejected == [403]


@pytest.mark.django_db(transaction=True)
def test_documented_tests_pass(run: Any, mysite: types.ModuleType, serve: Any) -> None:
    serve(mysite.EchoHandler, "ws/echo/")
    [block] = [text for text in blocks(PAGES[0]) if "TestCase" in text]
    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(run(block)["EchoTests"]).run(result)
    assert result.testsRun == 1
    assert not result.errors + result.failures


def test_three_steps_stand_in_the_first_forty_lines() -> None:
    start = "\n".join(PAGES[0].read_text().splitlines()[:40])
    assert "urlpatterns = [" in start


def test_three_steps_give_a_socket(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    del environment["DJANGO_SETTINGS_MODULE"]
    start_project = [sys.executable, "-m", "django", "startproject", "mysite", str(tmp_path)]
    subprocess.run(start_project, check=True, env=environment)
    for name, block in zip(["asgi.py", "ws.py", "ws_urls.py"], blocks(PAGES[0])[:3], strict=True):
        (tmp_path / "mysite" / name).write_text(block)
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "mysite.asgi:application", "--port", "0"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    output = Lines(cast(BinaryIO, process.stdout))
    try:
        running = re.compile(r"running on http://127\.0\.0\.1:(\d+)")
        assert output.wait_for(lambda lines: any(map(running.search, lines)), START_SECONDS)
        [port] = running.findall("\n".join(output.lines))
        origin = Origin(f"http://127.0.0.1:{port}")
        with connect(f"ws://127.0.0.1:{port}/ws/echo/", origin=origin) as ws:
            ws.send('{"hello":"world"}')
            assert ws.recv(timeout=5) == '{"hello":"world"}'
    finally:
        process.terminate()
        process.wait(10)
        output.close()
