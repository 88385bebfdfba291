"""Tells one connection of a restart, and closes it once its hook has returned."""

from __future__ import annotations

import asyncio

from django_ws.close_codes import CloseCode
from django_ws.connection.connection import CONNECTING, HANDED_OVER, OPEN
from django_ws.connection.retry_after import retry_after
from django_ws.lifecycle.ending import Ending

LOOK_SECONDS = 0.05  # whether on_open has returned


class Restarting(Ending):
    """What ``drain`` does with a connection. For the loop's thread only.

    A close while a hook runs would drop what that hook sends to its end, and what it sends may
    be the acknowledgement of a message. So the hook is waited for, no other message is handled,
    and then comes the close.
    """

    __slots__ = ()

    def tell_of_restart(self) -> asyncio.Task[None] | None:
        """Call ``on_restart``; None where nobody overrides it, or it is not open."""
        self.is_restarting = True
        if self.connection.state is OPEN and "on_restart" in self.handler._hooks.overridden:
            # Not in turn with the hook that runs, perhaps for long: this tells it of the restart.
            return self.background.start(self._call_on_restart(), "on_restart", is_alone=False)
        return None

    async def _call_on_restart(self) -> None:
        # on_open comes first; an event for its end would be memory for every connection.
        while not self._is_started and self.connection.state is OPEN:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
        if self.connection.state is OPEN:
            await self.calls.call_beside("on_restart")

    def restart(self, told: asyncio.Task[None] | None = None) -> None:
        """End with 1012: when ``told`` and the running hook are done, or ``WS_CLOSE_TIMEOUT``
        from now is over. A handshake, also one that waits for the first message, ends at once.
        """
        state = self.connection.state
        if state is HANDED_OVER or state is CONNECTING:
            self._close_for_restart()
        elif state is OPEN:
            timer = self.connection.loop.call_later(self._remaining, self._close_for_restart)
            self._set_timer(timer)
            if told is None or told.done():
                self._end_after_hook()
            else:
                told.add_done_callback(self._end_after_hook)

    def cut_off(self) -> None:
        """The time for all is up: end with 1012 at once, whatever still runs."""
        self._close_for_restart()
        self.connection.inbound.stop_handling()
        self._cancel_task()

    def _end_after_hook(self, told: asyncio.Task[None] | None = None) -> None:
        if self.connection.state is not OPEN:
            return
        if self.connection.inbound.in_hook:
            self.connection.inbound.stop_handling()  # then ``live`` closes
        else:
            self._close_for_restart()

    def _close_for_restart(self) -> None:
        reason = f"the server restarts: retry after {retry_after()} s"
        self.connection.close(CloseCode.RESTARTING, reason)
