"""A restart of the server, for one connection: ``on_restart`` is called, then it is closed."""

from __future__ import annotations

import asyncio

from django_ws.lifecycle.life import Life
from django_ws.lifecycle.phases import Event, Phase

LOOK_SECONDS = 0.05  # whether on_open has returned


def call_on_restart(life: Life) -> asyncio.Task[None] | None:
    """Start the hook; None where nobody overrides it, or the connection is not open."""
    life.is_restarting = True
    if life.is_open and "on_restart" in life.handler._hooks.overridden:
        # Not in turn with the hook that runs, perhaps for long: this tells it of the restart.
        return life.background.start(_call_on_restart(life), "on_restart", is_alone=False)
    return None


async def _call_on_restart(life: Life) -> None:
    # on_open comes first; an event for its end would be memory for every connection.
    while life.phase is Phase.OPENING:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_SECONDS)
    if life.phase is Phase.OPEN:
        await life.calls.call_in_task("on_restart")


def close_for_restart(life: Life, on_restart: asyncio.Task[None] | None = None) -> None:
    """Close with 1012: when ``on_restart`` and the hook that runs have returned, or when
    ``WS_CLOSE_TIMEOUT`` from now is over. A handshake is refused at once, also one that waits for
    the first message.
    """
    if on_restart is None or on_restart.done() or not life.is_open:
        life.handle(Event.RESTART)
    else:
        life.start_end_timer()
        on_restart.add_done_callback(lambda _: life.handle(Event.RESTART))
