"""One worker: a process that serves the application on the sockets of its parent."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from dataclasses import replace
from multiprocessing.connection import Connection
from types import FrameType

import uvicorn
from django.conf import settings

from django_ws import conf
from django_ws.pubsub.backends.memory import MemoryBackend
from django_ws.pubsub.hubs import backend_class
from django_ws.server import garbage
from django_ws.server.access_log import configure_logging
from django_ws.server.child import PARENTS_SIGNALS, Order, Report, release_signals
from django_ws.server.loading import Site, prepared
from django_ws.server.options import Options
from django_ws.server.server import Server

logger = logging.getLogger("uvicorn.error")

PROXY_SECONDS = 20.0  # to wait for the proxy; then it is served without


class Supervised(Server):
    """Tells the supervisor when it serves, and when it begins to end."""

    def __init__(self, config: uvicorn.Config, line: Line, tunes: bool) -> None:
        super().__init__(config)
        self._line = line
        self._tunes = tunes

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._tunes:
            garbage.tune()
        self._line.tell(Report.READY)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._line.tell(Report.LEAVING)
        await super().shutdown(sockets)


class Reloaded(Server):
    """Under uvicorn's reloader, which on Ctrl+C sends SIGTERM to a worker that was told already."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not (sig == signal.SIGTERM and self._signals == [signal.SIGINT]):
            super().handle_exit(sig, frame)


class Line:
    """The worker's end of the pipe. A thread reads it, also while the event loop is busy."""

    def __init__(self, pipe: Connection) -> None:
        self.server: Server | None = None
        self._pipe = pipe
        self._may_go_on = threading.Event()
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def tell(self, report: Report) -> None:
        try:
            self._pipe.send(report)
        except OSError:
            logger.debug("the parent has gone")

    def ask_for_proxy(self) -> None:
        self.tell(Report.NEEDS_PROXY)
        self._may_go_on.wait(PROXY_SECONDS)

    def _read(self) -> None:
        try:
            while True:
                self._obey(self._pipe.recv())
        except (EOFError, OSError):
            logger.warning("the parent of worker %d has died: it stops", os.getpid())
            self._obey(Order.STOP)

    def _obey(self, order: Order) -> None:
        if order is Order.GO_ON:
            self._may_go_on.set()
        elif self.server is None:
            os._exit(0)  # nothing is served yet
        else:
            if order is Order.HAND_OVER:
                self.server.hand_over()
            self.server.force_exit |= order is Order.STOP_AT_ONCE
            self.server.should_exit = True


def run(pipe: Connection, site: Site, sockets: list[socket.socket]) -> None:
    """In a new process, until its end."""
    # Only SIGTERM and SIGINT mean the same to a worker, once it serves. SIG_IGN would be
    # inherited by whatever the site starts.
    for number in PARENTS_SIGNALS:
        signal.signal(number, lambda *_: None)
    release_signals()
    configure_logging(site.options)
    line = Line(pipe)
    # Before an event loop runs, so that Django may use the database as it is imported.
    config = prepared(site, lambda: tell_of_broadcasts(site, line))
    server = Supervised(config, line, site.options.gc_tuning)
    line.server = server
    server.run(sockets)


def serve_until_changed(
    application: str, options: Options, sockets: list[socket.socket] | None = None
) -> None:
    """In a new process of uvicorn's reloader. Who changes files wants to see it soon."""
    configure_logging(options)
    config = prepared(Site(application, replace(options, graceful_timeout=1.0)))
    Reloaded(config).run(sockets)


def tell_of_broadcasts(site: Site, line: Line) -> None:
    """Who else hears the broadcasts of this worker?"""
    if not settings.configured:
        return  # an application without Django
    broadcast = conf.get().ws_broadcast
    if site.proxy and any(config.location == site.proxy for config in broadcast.values()):
        line.ask_for_proxy()
    elif any(
        issubclass(backend_class(alias, config), MemoryBackend)
        for alias, config in broadcast.items()
    ):
        line.tell(Report.IS_ALONE)
