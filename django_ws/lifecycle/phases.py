"""The phases of a connection, and what each event does in each phase: one table.

Whatever ends a connection goes through this table. ``life.py`` keeps the phase of a connection and
carries out the reactions, ``run.py`` leads it from one phase to the next.

A new event is a new row. A new reason to close needs none: it calls ``connection.close(code,
reason)``, and this is the event ``CLOSED`` whatever the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class Phase(Enum):
    """Where a connection is between its handshake and its end. It only moves forward."""

    HANDSHAKE = "the middleware runs"
    FIRST_MESSAGE = "accepted; waits for the message that logs the client in"
    CONNECTING = "on_connect runs, and what belongs to it; the first topics are joined"
    HANDED_OVER = "an ASGI application has the connection until it returns"
    OPENING = "accepted; on_open runs"
    OPEN = "messages are handled"
    REFUSED = "never opened; what still runs comes to its end"
    CLOSING = "was open; what still runs comes to its end"
    CLOSED = "tasks end, then on_close runs; or all of this is over"


class Event(Enum):
    """What can happen to a connection."""

    MESSAGE = "the client has sent a message"
    CLIENT_LEFT = "the client has closed the connection, or has vanished"
    CLOSED = "we have closed the connection, or refused the handshake"
    LOGIN_ENDED = "the log-in has ended"
    RESTART = "the server restarts, and it is this connection's turn"
    CUT_OFF = "the time of the restart is over"
    CANCELLED = "the server has cancelled the connection's task"
    TIMED_OUT = "the time limit of the phase is over"
    OVERDUE = "what was cancelled still runs"
    RETURNED = "the code of the phase has returned"


class Reaction(Enum):
    """What is done about an event. Each ``CLOSE`` leads to the event ``CLOSED``."""

    NOTHING = "nothing"

    KEEP = "the message waits"
    LOG_IN = "authenticate_first gets the message"
    PASS_ON = "the ASGI application gets the message"
    HANDLE = "on_message gets the message, after the hook that runs"
    HANDLE_THE_REST = "on_message gets the message if we have not closed before it came"
    DISCARD = "the message is dropped"

    CLOSE = "close, or refuse, with the code of the event"
    CLOSE_AFTER_HOOK = "as CLOSE, when the hook that runs has returned"
    CLOSE_AND_CANCEL = "as CLOSE, and cancel what runs"

    LET_FINISH = "leave topics, cancel tasks; messages and the hook have WS_CLOSE_TIMEOUT"
    STOP = "as LET_FINISH, but no further message is handled"
    LEAVE_TOPICS = "as STOP, but what runs has no time limit"

    CANCEL = "cancel what runs"
    LOG = "log what still runs"
    ABANDON = "log what still runs, and clean up without waiting for it"


NOTHING = Reaction.NOTHING


def _row(
    *,
    handshake: Reaction = NOTHING,
    first_message: Reaction | None = None,  # as in the handshake
    connecting: Reaction | None = None,  # as in the handshake
    handed_over: Reaction = NOTHING,
    opening: Reaction | None = None,  # as when open
    open: Reaction = NOTHING,  # noqa: A002
    refused: Reaction = NOTHING,
    closing: Reaction = NOTHING,
    closed: Reaction = NOTHING,
) -> Mapping[Phase, Reaction]:
    return {
        Phase.HANDSHAKE: handshake,
        Phase.FIRST_MESSAGE: first_message or handshake,
        Phase.CONNECTING: connecting or handshake,
        Phase.HANDED_OVER: handed_over,
        Phase.OPENING: opening or open,
        Phase.OPEN: open,
        Phase.REFUSED: refused,
        Phase.CLOSING: closing,
        Phase.CLOSED: closed,
    }


TABLE: Mapping[Event, Mapping[Phase, Reaction]] = {
    Event.MESSAGE: _row(
        handshake=Reaction.KEEP,
        first_message=Reaction.LOG_IN,
        handed_over=Reaction.PASS_ON,
        opening=Reaction.KEEP,
        open=Reaction.HANDLE,
        refused=Reaction.DISCARD,
        closing=Reaction.HANDLE_THE_REST,
        closed=Reaction.DISCARD,
    ),
    Event.CLIENT_LEFT: _row(  # the ASGI application receives this event itself
        handshake=Reaction.LET_FINISH,
        open=Reaction.LET_FINISH,
    ),
    Event.CLOSED: _row(
        handshake=Reaction.STOP,
        handed_over=Reaction.LEAVE_TOPICS,
        open=Reaction.STOP,
        closed=Reaction.LEAVE_TOPICS,
    ),
    Event.LOGIN_ENDED: _row(
        handshake=Reaction.CLOSE,
        handed_over=Reaction.CLOSE,
        open=Reaction.CLOSE,
    ),
    Event.RESTART: _row(
        handshake=Reaction.CLOSE,
        handed_over=Reaction.CLOSE,
        open=Reaction.CLOSE_AFTER_HOOK,
    ),
    Event.CUT_OFF: _row(
        handshake=Reaction.CLOSE_AND_CANCEL,
        handed_over=Reaction.CLOSE_AND_CANCEL,
        open=Reaction.CLOSE_AND_CANCEL,
        refused=Reaction.CANCEL,
        closing=Reaction.CANCEL,
        closed=Reaction.CANCEL,
    ),
    Event.CANCELLED: _row(  # a middleware and an ASGI application get the cancellation themselves
        first_message=Reaction.CLOSE,
        connecting=Reaction.CLOSE,
        open=Reaction.CLOSE,
    ),
    Event.TIMED_OUT: _row(
        handshake=Reaction.CLOSE_AND_CANCEL,
        open=Reaction.CLOSE,  # of a restart that has waited for a hook
        refused=Reaction.CANCEL,
        closing=Reaction.CANCEL,
    ),
    Event.OVERDUE: _row(
        refused=Reaction.LOG,
        closing=Reaction.ABANDON,
    ),
    Event.RETURNED: _row(
        handshake=Reaction.CLOSE,  # a middleware has neither called the next one nor rejected
        first_message=NOTHING,
        connecting=NOTHING,
        open=Reaction.CLOSE,
    ),
}
