"""The life of one connection: its phase, and what is done when something happens to it.

``phases.py`` says what is done in which phase. All that is left when the connection begins to end
has ``WS_CLOSE_TIMEOUT`` together; then ``on_close`` runs.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable

from django_ws import conf
from django_ws.close_codes import CloseCode
from django_ws.connection.connection import Connection
from django_ws.connection.retry_after import retry_after
from django_ws.lifecycle import end
from django_ws.lifecycle.background_tasks import Background
from django_ws.lifecycle.end import clean_up, log_late, log_overdue, wait_or_log
from django_ws.lifecycle.hook_calls import Calls, Handler
from django_ws.lifecycle.phases import TABLE, Event, Phase, Reaction
from django_ws.lifecycle.subscriptions import Subscriptions
from django_ws.lifecycle.tasks import StartedTask
from django_ws.logs.throttled import ThrottledLog
from django_ws.pubsub.hub.registry import hub_of
from django_ws.threads.any_thread import done

logger = logging.getLogger("django.ws.request")

_unanswered = ThrottledLog(logger, logging.WARNING, "handshakes that a middleware left unanswered")
_slow = ThrottledLog(logger, logging.WARNING, "handshakes that took too long")
_silent = ThrottledLog(logger, logging.INFO, "connections without a valid first message")


class Life:
    """One connection from its handshake to its end. For the event loop's thread only.

    There are timers only during the handshake and at the end: an idle connection has none.
    """

    __slots__ = (
        "_background", "_cancels", "_deadline", "_subscriptions", "_timer", "calls", "connection",
        "handler", "is_restarting", "phase",
    )  # fmt: skip

    def __init__(self, connection: Connection, handler: Handler) -> None:
        self.connection = connection
        self.handler = handler
        self.phase = Phase.HANDSHAKE
        self.calls = Calls(handler, connection)
        self.is_restarting = False  # a restart is under way, and has perhaps yet to close this one
        self._timer: asyncio.TimerHandle | None = None
        self._deadline: float | None = None  # by when all that is left must have ended
        self._cancels = 0  # how often the task was cancelled here, and by nobody else
        self._background: Background | None = None
        self._subscriptions: Subscriptions | None = None
        connection.on_closing = self._connection_ends

    # What it has

    @property
    def background(self) -> Background:
        """Made for the first background task: most connections have none."""
        if self._background is None:
            self._background = Background(self.handler, self.connection, self.calls)
        return self._background

    @property
    def running_tasks(self) -> dict[str, StartedTask]:
        background = self._background
        return dict(background.tasks.running) if background is not None else {}

    def cancel(self, task_id: str) -> StartedTask | None:
        """Cancel a background task of the user's and give it, or None if no such task runs."""
        return self._background.tasks.cancel(task_id) if self._background is not None else None

    @property
    def subscriptions(self) -> Subscriptions:
        """Made for the first topic, or for a user who is logged in."""
        if self._subscriptions is None:
            self._subscriptions = Subscriptions(
                hub_of(self.handler.using),
                self.handler,
                self.connection,
                self.calls,
                self,
                is_held=self.phase is not Phase.OPEN,
            )
        return self._subscriptions

    @property
    def topics(self) -> frozenset[str]:
        return (
            frozenset(self._subscriptions.topics)
            if self._subscriptions is not None
            else frozenset()
        )

    # What happens to it

    def accepted(self) -> None:
        """The server has sent the accept. Perhaps the connection was closed meanwhile."""
        self.phase = Phase.OPENING if self.phase is Phase.CONNECTING else Phase.CLOSING

    def opened(self) -> None:
        """``on_open`` has returned: what has arrived meanwhile is handled now."""
        if self.phase is Phase.OPENING:
            self.phase = Phase.OPEN
        if self._subscriptions is not None:
            self._subscriptions.release()

    def handle(self, event: Event) -> None:
        """Do what the table says."""
        match TABLE[event][self.phase]:
            case Reaction.CLOSE:
                self._close(event)
            case Reaction.CLOSE_AFTER_HOOK:
                self._close_after_hook(event)
            case Reaction.CLOSE_AND_CANCEL:
                self._close(event)
                self._cancel()
            case Reaction.LET_FINISH:
                self._begin_end()
            case Reaction.STOP:
                self._begin_end()
                self._stop()
            case Reaction.LEAVE_TOPICS:
                self._leave_topics()
                self.connection.inbound.stop_handling()
            case Reaction.CANCEL:
                if event is Event.TIMED_OUT:
                    log_late(self.connection, self.calls.place)
                    self.start_timer(end.LAST_SECONDS, Event.OVERDUE)
                self._cancel()
            case Reaction.LOG:
                log_overdue(self.connection, self.calls.place)
            case Reaction.ABANDON:
                log_overdue(self.connection, self.calls.place)
                self.background.start(self._abandon(), "django_ws final clean-up")

    def start_timer(self, seconds: float, event: Event = Event.TIMED_OUT) -> None:
        """Let ``event`` happen in so many seconds; an earlier timer is stopped."""
        self.stop_timer()
        self._timer = self.connection.loop.call_later(seconds, self.handle, event)

    def start_end_timer(self) -> None:
        """``WS_CLOSE_TIMEOUT`` from the first call of this method on, for all that is left."""
        self.start_timer(self._remaining)

    def stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # Reactions

    def _close(self, event: Event) -> None:
        connection, place = self.connection, self.calls.place
        path = connection.path
        match event, self.phase:
            case Event.LOGIN_ENDED, _:
                connection.close(CloseCode.LOGIN_ENDED, "the log-in has ended")
            case Event.CANCELLED, _:
                connection.close(CloseCode.GOING_AWAY)
            case Event.RETURNED, Phase.HANDSHAKE:
                _unanswered.log(
                    path,
                    "WebSocket %s: a middleware neither called the next one nor rejected: "
                    "refused with 403",
                    path,
                )
                connection.refuse(403)
            case Event.RETURNED, _:
                connection.close(CloseCode.INTERNAL_ERROR)
            case Event.TIMED_OUT, Phase.FIRST_MESSAGE:
                seconds = self.handler.first_message_seconds
                self.refuse_login(f"no first message came in {seconds:g} s")
            case Event.TIMED_OUT, Phase.HANDSHAKE | Phase.CONNECTING:
                _slow.log(
                    (path, place),
                    "WebSocket %s: %s took longer than WS_CONNECT_TIMEOUT (%g s): refused with 503",
                    path,
                    place,
                    conf.get().ws_connect_timeout,
                )
                connection.refuse(503)
            case _:  # a restart
                reason = f"the server restarts: retry after {retry_after()} s"
                connection.close(CloseCode.RESTARTING, reason)

    def refuse_login(self, why: str) -> None:
        """The first message did not log the client in."""
        path = self.connection.path
        _silent.log((path, why), "WebSocket %s: %s: closed with 4401", path, why)
        self.connection.refuse(401, "Unauthorized")

    def _close_after_hook(self, event: Event) -> None:
        """What a hook sends to its end may be the acknowledgement of a message: a close while it
        runs would drop this.
        """
        if not self.connection.inbound.in_hook:
            self._close(event)
            return
        self.start_end_timer()
        self.connection.inbound.stop_handling()  # then ``live`` lets the same event happen again

    def _connection_ends(self, by_client: bool) -> None:
        self.handle(Event.CLIENT_LEFT if by_client else Event.CLOSED)

    @property
    def is_open(self) -> bool:
        return self.phase is Phase.OPENING or self.phase is Phase.OPEN

    def _begin_end(self) -> None:
        self.phase = Phase.CLOSING if self.is_open else Phase.REFUSED
        self._leave_topics()
        if self.connection.inbound.in_hook:
            self.start_end_timer()

    def _leave_topics(self) -> None:
        if self._subscriptions is not None:
            self._subscriptions.end()
        if self._background is not None:
            self._background.tasks.cancel_all()

    def _stop(self) -> None:
        connection = self.connection
        connection.inbound.stop_handling()
        if not connection.inbound.in_hook and asyncio.current_task() is not connection.task:
            self._cancel_task()  # it waits for an event; the client's own close would be one

    def _cancel(self) -> None:
        self.connection.inbound.stop_handling()
        self._cancel_task()

    def _cancel_task(self) -> None:
        self._cancels += 1
        self.connection.task.cancel()

    def take_back_cancel(self) -> bool:
        """Take the cancellations of this class back; whether there was one, and no other's."""
        if not self._cancels:
            return False
        left = 0
        while self._cancels:
            self._cancels -= 1
            left = self.connection.task.uncancel()
        return left == 0

    async def _abandon(self) -> None:
        await self.finish()

    # The end

    def finish(self) -> Awaitable[None]:
        """Tasks end, then ``on_close`` runs where the connection had opened. Once."""
        if self.phase is Phase.CLOSED:
            return done(self.connection.loop)
        was_open = self.phase is Phase.CLOSING
        self.phase = Phase.CLOSED
        self.stop_timer()
        if self.handler.request.login is not None:
            self.handler.request.login.finish()
        self.connection.over()
        on_close = was_open and "on_close" in self.handler._hooks.overridden
        if self._background is None and not on_close:
            return done(self.connection.loop)
        return clean_up(
            self.connection, self.calls, self.background, lambda: self._remaining, on_close
        )

    async def flush(self) -> None:
        """Let the server take what still waits."""
        writer = self.connection.outbound.writer
        if writer is not None:
            await wait_or_log(self.connection, {writer}, self._remaining)
            self.connection.outbound.fail(self.connection.closed_error())

    def release(self) -> None:
        """Let go of what refers back here, so that nothing waits for the garbage collector."""
        self.stop_timer()
        self.calls.context = None
        self.connection.release()
        self._subscriptions = None
        self.handler._let_go()

    @property
    def _remaining(self) -> float:
        """Seconds until the deadline, which the first who asks sets."""
        now = self.connection.loop.time()
        if self._deadline is None:
            self._deadline = now + conf.get().ws_close_timeout
        return max(0.0, self._deadline - now)
