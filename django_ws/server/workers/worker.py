"""One worker: a process that serves the application."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import uvicorn
from django.conf import settings

from django_ws import conf
from django_ws.limits.handshake_queue import handshake_queue_of
from django_ws.pubsub.backends.memory import MemoryBackend
from django_ws.pubsub.hub.registry import all_connected, backend_class
from django_ws.server import garbage
from django_ws.server.access_log import configure_logging
from django_ws.server.base import TICK_SECONDS
from django_ws.server.http.limits import limits_of
from django_ws.server.http.waiting import waiting_of
from django_ws.server.server import Server
from django_ws.server.workers import import_failure, main_thread
from django_ws.server.workers.accepting import Accepting
from django_ws.server.workers.child import PARENTS_SIGNALS, Order, Report, release_signals
from django_ws.server.workers.last_threads import limit_the_rest
from django_ws.server.workers.loading import Site, prepared
from django_ws.server.workers.shared_table import Row
from django_ws.threads import stalls

logger = logging.getLogger("uvicorn.error")

BROKER_SECONDS = 20.0  # to wait for the broker; then it is served without
CUT_OFF_SECONDS = 2.0  # without its backend, until others are left what comes
HANDSHAKE_SECONDS = 3.0  # for handshakes that are under way when others take what comes


@dataclass(frozen=True)
class Place:
    """What a worker shares with its parent."""

    sockets: list[socket.socket]
    row: Row
    stack: Connection  # where it tells on what it stands


class Supervised(Server):
    """Takes its share of the connections. Tells the supervisor when it serves, when it begins to
    end, and that its event loop turns.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        line: Line,
        place: Place,
        *,
        tunes: bool,
        report: Report = Report.READY,
    ) -> None:
        super().__init__(config)
        self._line = line
        self._place = place
        self._tunes = tunes
        self._report = report
        self._accepting: Accepting  # since the startup
        self._connected_at = 0.0  # to all backends, by the event loop's time
        self._collector: garbage.Collector | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([])  # uvicorn would take whatever comes
        loop, limits = asyncio.get_running_loop(), limits_of(self.config)
        stalls.watch(loop)
        self._connected_at = loop.time()
        if self._tunes:
            garbage.tune()
            self._collector = garbage.Collector()
        self._accepting = Accepting(
            self._place.sockets,
            self._new_protocol,
            self.server_state.connections,
            self._place.row,
            self.config.ssl,
            limits.header_timeout,
            waiting_of(self.server_state, loop, limits),
        )
        servers: list[Any] = self.servers
        servers.append(self._accepting)
        self._line.tell(self._report)

    def _new_protocol(self) -> asyncio.Protocol:
        """As uvicorn makes it for each connection."""
        protocol: Callable[..., asyncio.Protocol] = self.config.http_protocol_class
        return protocol(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    async def on_tick(self, counter: int) -> bool:
        accepting = self._accepting
        accepting.can_serve = not self._is_cut_off()
        accepting.show()
        if self._collector is not None:
            pages = self.server_state.total_requests
            self._collector.look(accepting.count, accepting.accepted, pages)
        return await super().on_tick(counter)

    def _is_cut_off(self) -> bool:
        """Whether a backend has been away for a while: topics cannot be joined then."""
        now = asyncio.get_running_loop().time()
        if all_connected():
            self._connected_at = now
        return now - self._connected_at >= CUT_OFF_SECONDS

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._line.tell(Report.LEAVING)
        try:
            await super().shutdown(sockets)
        finally:
            if self._line.is_of_process:
                limit_the_rest()

    async def _settle(self) -> None:
        await super()._settle()
        if not self._hands_over:
            return
        # Who has connected here is served here, however many they are.
        deadline = asyncio.get_running_loop().time() + HANDSHAKE_SECONDS
        if self._accepting.beginning:
            await _until(lambda: not self._accepting.beginning, deadline)
            await super()._settle()
        queue = handshake_queue_of(asyncio.get_running_loop())
        await _until(lambda: not queue.inside + queue.waiting, deadline)


async def _until(condition: Callable[[], bool], deadline: float) -> None:
    while (  # noqa: ASYNC110  # no event
        not condition() and asyncio.get_running_loop().time() < deadline
    ):
        await asyncio.sleep(TICK_SECONDS)


class Line:
    """The worker's end of the pipe. A thread reads it, also while the event loop is busy.

    ``seconds_without_parent``: how long the worker may take to end when its parent has died, who
    would have killed it.
    """

    def __init__(self, pipe: Connection, seconds_without_parent: float) -> None:
        self.server: Server | None = None
        self.is_of_process = False  # which ends with the server
        self._pipe = pipe
        self._seconds_without_parent = seconds_without_parent
        self._may_go_on = threading.Event()
        threading.Thread(target=self._read, name="orders", daemon=True).start()

    def tell(self, report: Report) -> None:
        try:
            self._pipe.send(report)
        except OSError:
            logger.debug("the parent has gone")

    def ask_for_broker(self) -> None:
        self.tell(Report.NEEDS_BROKER)
        self._may_go_on.wait(BROKER_SECONDS)

    def _read(self) -> None:
        try:
            while True:
                self._obey(self._pipe.recv())
        except (EOFError, OSError):
            logger.warning("the parent of worker %d has died: it stops", os.getpid())
            self._obey(Order.STOP)
            time.sleep(self._seconds_without_parent)
            logger.error("Worker %d did not stop in time: it ends at once", os.getpid())
            logging.shutdown()
            os._exit(1)

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


def run(pipe: Connection, site: Site, place: Place) -> None:
    """In a new process, until its end."""
    # Only SIGTERM and SIGINT mean the same to a worker, once it serves. SIG_IGN would be
    # inherited by whatever the site starts.
    for number in PARENTS_SIGNALS:
        signal.signal(number, lambda *_: None)
    main_thread.tell_on_signal(place.stack)
    release_signals()
    configure_logging(site.options)
    line = Line(pipe, site.options.graceful_timeout + site.options.late_seconds)
    line.is_of_process = True
    try:
        serve_site(site, line, place)
    except SystemExit:  # the log says why
        if not site.options.reload or (line.server is not None and line.server.started):
            raise
        line.server = None
        server = Supervised(
            import_failure.config(site.options), line, place, tunes=False, report=Report.EXPLAINS
        )
        line.server = server
        server.run(place.sockets)


def serve_site(site: Site, line: Line, place: Place) -> None:
    # Before an event loop runs, so that Django may use the database as it is imported.
    config = prepared(site, lambda: tell_of_broadcasts(site, line))
    line.server = server = Supervised(config, line, place, tunes=site.options.gc_tuning)
    server.run(place.sockets)


def tell_of_broadcasts(site: Site, line: Line) -> None:
    """Who else hears the broadcasts of this worker?"""
    if not settings.configured:
        return  # an application without Django
    broadcast = conf.get().ws_broadcast
    if site.broker and any(config.location == site.broker for config in broadcast.values()):
        line.ask_for_broker()
    elif any(
        issubclass(backend_class(alias, config), MemoryBackend)
        for alias, config in broadcast.items()
    ):
        line.tell(Report.IS_ALONE)
