"""WebSocketLiveServerTestCase: the whole site on a real uvicorn, for browsers."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any, ClassVar, cast

import uvicorn
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.handlers.asgi import ASGIHandler
from django.test import TransactionTestCase, modify_settings

from django_ws.asgi import WebSocketApplication
from django_ws.threads.pool import close_databases

START_SECONDS = 10.0


class LiveServer(threading.Thread):
    """uvicorn in a thread, on a free port."""

    def __init__(self, host: str) -> None:
        super().__init__(name="django_ws live server", daemon=True)
        config = uvicorn.Config(
            ASGIStaticFilesHandler(cast(ASGIHandler, WebSocketApplication())),
            host=host,
            port=0,
            log_level="warning",
            timeout_graceful_shutdown=5,
        )
        self.server = uvicorn.Server(config)
        self.ready = threading.Event()
        self._startup = self.server.startup
        self.server.startup = self._start_and_tell  # type: ignore[method-assign]

    async def _start_and_tell(self, *args: Any, **kwargs: Any) -> None:
        await self._startup(*args, **kwargs)
        self.ready.set()

    def run(self) -> None:
        try:
            with suppress(SystemExit):  # uvicorn has logged why
                self.server.run()
        finally:
            self.ready.set()

    @property
    def port(self) -> int:
        port: int = self.server.servers[0].sockets[0].getsockname()[1]
        return port

    def stop(self) -> None:
        self.server.should_exit = True
        self.join()
        close_databases()  # so that the test database can be deleted


class WebSocketLiveServerTestCase(TransactionTestCase):
    """As Django's ``LiveServerTestCase``, with WebSockets: ``live_server_url`` for pages,
    ``live_server_ws_url`` for sockets. Static files are served.

    The database is committed for real, as in every ``TransactionTestCase``.
    """

    host: ClassVar[str] = "localhost"
    server: ClassVar[LiveServer]
    live_server_url: ClassVar[str]
    live_server_ws_url: ClassVar[str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.enterClassContext(modify_settings(ALLOWED_HOSTS={"append": cls.host}))
        cls.server = LiveServer(cls.host)
        cls.server.start()
        cls.addClassCleanup(cls.server.stop)
        if not cls.server.ready.wait(START_SECONDS) or not cls.server.server.started:
            raise RuntimeError(
                f"the live server on {cls.host!r} did not start within {START_SECONDS:g} s; the "
                "log of uvicorn.error says why"
            )
        cls.live_server_url = f"http://{cls.host}:{cls.server.port}"
        cls.live_server_ws_url = f"ws://{cls.host}:{cls.server.port}"
