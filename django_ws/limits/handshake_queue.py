"""Limits how many handshakes run at once; the others wait in a queue.

When all clients come back together they are let in in turns this way, first come, first served:
whoever is connected already gets a turn of the event loop after at most so many handshakes.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from http import HTTPStatus

from django_ws import conf
from django_ws.connection.connection import CONNECTING, Connection
from django_ws.logs.throttled import ThrottledLog
from django_ws.threads.per_loop import PerLoop

logger = logging.getLogger("django.ws.request")

WAITING_FOR_EACH = 100  # handshakes that may wait, for each that may be under way

_turned_away = ThrottledLog(logger, logging.WARNING, "handshakes refused for WS_MAX_HANDSHAKES")


def refuse_for_now(connection: Connection) -> None:
    """Answer a handshake with 503."""
    connection.refuse(503, HTTPStatus.SERVICE_UNAVAILABLE.phrase)


class RouteQueue:
    """The handshakes of one route: a slow ``on_connect`` of one keeps no other route waiting.

    Somebody waits only while ``inside`` is full, since whoever leaves lets the next one in at
    once: who finds room overtakes nobody, and where nobody is inside nobody waits.
    """

    __slots__ = ("inside", "target", "waiting")

    def __init__(self, target: object) -> None:
        self.target = target
        self.inside: set[Connection] = set()
        self.waiting: OrderedDict[Connection, asyncio.Future[None]] = OrderedDict()


class HandshakeQueue:
    """The queues of one event loop, one for each target of a route. For its thread only.

    ``WS_MAX_HANDSHAKES`` may be inside of each, a hundred times as many may wait, everyone for at
    most ``WS_CONNECT_TIMEOUT``. That wait is its own: who comes in has all that time once more.
    """

    def __init__(self) -> None:
        # Those at which anybody is, by the id of the target: it need not be hashable.
        self._routes: dict[int, RouteQueue] = {}
        self._places: dict[Connection, RouteQueue] = {}  # of all who are inside or wait
        self._refused = 0

    @property
    def inside(self) -> int:
        return sum(len(route.inside) for route in self._routes.values())

    @property
    def waiting(self) -> int:
        return len(self._places) - self.inside

    def admits(self, connection: Connection, target: object) -> bool:
        """Come in where there is room; otherwise ``wait``."""
        route = self._routes.get(id(target))
        if route is None:
            route = self._routes[id(target)] = RouteQueue(target)
        elif len(route.inside) >= conf.get().ws_max_handshakes:
            return False
        route.inside.add(connection)
        self._places[connection] = route
        return True

    async def wait(self, connection: Connection, target: object) -> bool:
        """Wait for a turn; whether it came. Otherwise the client is turned away, or gone.

        A client that leaves is noticed within a second or so, and costs no turn.
        """
        config = conf.get()
        route = self._routes[id(target)]
        if len(route.waiting) >= config.ws_max_handshakes * WAITING_FOR_EACH:
            self._refuse(connection, route, "too many wait already")
            return False
        turn = route.waiting[connection] = connection.loop.create_future()
        self._places[connection] = route
        timer = connection.loop.call_later(
            config.ws_connect_timeout, self._too_late, connection, route
        )
        connection.on_closing = lambda by_client: self.leave(connection)
        connection.inbound.hook_starts()  # so that the client's leaving is read
        try:
            await turn
        except asyncio.CancelledError:  # by the server, which ends
            connection.over()
            raise
        finally:
            timer.cancel()
            if connection.state is CONNECTING:
                connection.inbound.hook_ends()
            else:
                connection.release()
        return connection.state is CONNECTING

    def leave(self, connection: Connection) -> None:
        """Its handshake is over, or was never let in. Again is no harm."""
        route = self._places.pop(connection, None)
        if route is None:
            return
        turn = route.waiting.pop(connection, None)
        if turn is None:
            route.inside.remove(connection)
            self._let_in(route)
        elif not turn.done():
            turn.set_result(None)
        if not route.inside:
            del self._routes[id(route.target)]

    def _let_in(self, route: RouteQueue) -> None:
        limit = conf.get().ws_max_handshakes
        while route.waiting and len(route.inside) < limit:
            connection, turn = route.waiting.popitem(last=False)
            route.inside.add(connection)
            if not turn.done():  # cancelled: its task has yet to leave
                turn.set_result(None)

    def close(self) -> None:
        """Turn away all who wait, and all inside: some have yet to learn that they are."""
        for connection in list(self._places):
            refuse_for_now(connection)

    def _too_late(self, connection: Connection, route: RouteQueue) -> None:
        seconds = conf.get().ws_connect_timeout
        self._refuse(connection, route, f"no turn within WS_CONNECT_TIMEOUT ({seconds:g} s)")

    def _refuse(self, connection: Connection, route: RouteQueue, why: str) -> None:
        self._refused += 1
        _turned_away.log(
            id(route.target),
            "WebSocket %s refused with 503: %s; %d handshakes of this route are under way, "
            "as many as WS_MAX_HANDSHAKES allows, and %d wait (%d refused so far)",
            connection.path,
            why,
            len(route.inside),
            len(route.waiting),
            self._refused,
        )
        refuse_for_now(connection)


handshake_queue_of = PerLoop(HandshakeQueue)
