"""Closing many sockets gently: all are told, then they are closed one after the other.

The server that ends calls ``drain``; ``django_ws.server.server`` does. Under other servers the
sockets are closed by the time that the application hears of the end.
"""

from __future__ import annotations

import asyncio
import logging
import random
from weakref import WeakSet

from django_ws import conf
from django_ws.lifecycle.end import LAST_SECONDS
from django_ws.lifecycle.life import Life
from django_ws.lifecycle.phases import Event
from django_ws.lifecycle.restart import call_on_restart, close_for_restart
from django_ws.limits.handshake_queue import handshake_queue_of
from django_ws.logs.counted import counted

logger = logging.getLogger("django.ws")

TOLD_AT_ONCE = 100  # sockets, between two turns of the event loop
CATCH_UP_SECONDS = 0.1  # of closes that a busy event loop was late with are made together
LOOK_SECONDS = 0.05

lives: set[Life] = set()  # of all connections of this process, in whatever state
_draining: WeakSet[asyncio.AbstractEventLoop] = WeakSet()


def is_draining(loop: asyncio.AbstractEventLoop | None = None) -> bool:
    """Whether this process, or this event loop of it, takes no new connections. In any thread."""
    if loop is not None:
        return loop in _draining
    return any(not each.is_closed() for each in list(_draining))


async def drain(seconds: float | None = None, budget: float | None = None) -> None:
    """Refuse new handshakes with 503, and end every connection of this event loop.

    Every handler's ``on_restart`` is called at once. The closes, with 1012, are spread evenly
    over ``seconds`` (``WS_DRAIN_SECONDS``) in random order; each waits for the hooks of its own
    connection. Returns when the last ``on_close`` has, or ``WS_CLOSE_TIMEOUT`` and a little after
    the last close. With a ``budget`` of seconds the closes make haste so as to leave time for
    that, and whatever then still runs is cancelled.

    Cancelling it leaves what is open open. The event loop never takes connections again.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    _draining.add(loop)
    handshake_queue_of(loop).close()
    ours = _ours(loop)
    if not ours:
        return  # also where Django is not used at all
    for life in ours:
        if life.connection.is_unanswered:  # a handshake, too, but not among those admitted
            close_for_restart(life)
    config, why = conf.get(), ""
    if seconds is None:
        seconds = config.ws_drain_seconds
    if budget is not None and budget - config.ws_close_timeout < seconds:
        seconds = max(0.0, budget - config.ws_close_timeout)
        why = f", not over WS_DRAIN_SECONDS: there are {budget:g} s for all, WS_CLOSE_TIMEOUT in it"
    logger.info(
        "Draining: %s closed over %g s%s",
        counted(len(ours), "connection is", "connections are"),
        seconds,
        why,
    )
    await _close_all(ours, seconds)
    rest = config.ws_close_timeout + 3 * LAST_SECONDS
    if budget is not None:
        rest = min(rest, began + budget - loop.time())
    await _await_end(loop, rest)


async def _close_all(ours: list[Life], seconds: float) -> None:
    random.shuffle(ours)
    told: dict[Life, asyncio.Task[None]] = {}
    for number, life in enumerate(ours):
        hook = call_on_restart(life)
        if hook is not None:
            told[life] = hook
        if number % TOLD_AT_ONCE == TOLD_AT_ONCE - 1:
            await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    gap = seconds / len(ours)
    due = loop.time()
    for life in ours:
        # An event loop that was busy for a while must not make up for it by a flood.
        due = max(due, loop.time() - CATCH_UP_SECONDS)
        while life in lives and (early := due - loop.time()) > 0:  # noqa: ASYNC110  # no event
            await asyncio.sleep(min(early, LOOK_SECONDS))
        close_for_restart(life, told.pop(life, None))
        due += gap


async def _await_end(loop: asyncio.AbstractEventLoop, seconds: float) -> None:
    """Wait until all connections have ended; cancel, and log, those that have not."""
    deadline = loop.time() + seconds
    while (left := _ours(loop)) and loop.time() < deadline:  # noqa: ASYNC110  # no event
        await asyncio.sleep(LOOK_SECONDS)
    if left:
        logger.warning(
            "Draining: %s cancelled: %s",
            counted(
                len(left), "connection has not ended, and is", "connections have not ended, and are"
            ),
            ", ".join(sorted({life.connection.path for life in left})),
        )
        for life in left:
            life.handle(Event.CUT_OFF)


def _ours(loop: asyncio.AbstractEventLoop) -> list[Life]:
    # The copy is made in one step, since other threads may have event loops of their own.
    return [life for life in list(lives) if life.connection.loop is loop]
