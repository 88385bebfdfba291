"""Every exception of the library, under one base class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from django_ws.headers import checked_headers
from django_ws.logs.printable import printable


class WebSocketError(Exception):
    """The base of every exception that django_ws raises."""


class ConnectionClosed(WebSocketError):
    """A message could not be sent, or an action was asked for, after the close.

    ``code`` and ``reason`` are the connection's close code and reason;
    1006 and ``""`` where the peer vanished.
    """

    def __init__(self, code: int = 1006, reason: str = "") -> None:
        self.code = code
        self.reason = reason
        text = f"{code}: {printable(reason)}" if reason else str(code)
        super().__init__(f"the connection is closed ({text})")


class MessageDropped(WebSocketError):
    """A message was dropped on overflow, under ``send_overflow`` "drop_oldest" or "drop_newest"."""

    def __init__(self) -> None:
        super().__init__(
            "the message was dropped: the client reads too slowly and the outbound buffer "
            "(WS_SEND_BUFFER) is full"
        )


class SendTimeout(WebSocketError, TimeoutError):
    """A call from a sync hook or another thread was not done in time.

    The action stays queued: only the waiting ended.
    """

    def __init__(self, action: str, seconds: float) -> None:
        self.action = action
        self.seconds = seconds
        super().__init__(
            f"{action}() was not done after {seconds:g} s: the client reads too slowly, or the "
            "event loop is blocked"
        )


class Reject(WebSocketError):
    """Raise in middleware or ``on_connect`` to refuse the handshake.

    ``status`` is the HTTP status (400 to 599) the client gets where the server offers
    ``websocket.http.response``; ``reason`` is the body, as text; ``headers`` are more
    response headers, pairs of ``str``. Raised after the accept it closes the connection
    with 4000 + status (1011 for 500), and the reason.
    """

    def __init__(
        self, status: int = 403, reason: str = "", headers: Iterable[tuple[str, str]] = ()
    ) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"Reject(status={status!r}): use an HTTP error status, 400 to 599")
        self.status = status
        self.reason = reason
        self.headers = checked_headers("Reject(headers=...)", headers)
        super().__init__(f"handshake refused with {status}{': ' + reason if reason else ''}")


class TopicForbidden(Reject):
    """``may_subscribe`` has refused ``topic``.

    Where nobody catches it, it refuses the handshake with 403, or closes with 4403.
    """

    def __init__(self, topic: str) -> None:
        super().__init__(403, "Forbidden")
        self.topic = topic
        self.args = (f"may_subscribe() refuses the topic {printable(topic)!r}",)


class EncodeError(WebSocketError, TypeError):
    """A message cannot be encoded. ``path`` names the value: ``$["user"]["avatar"]``."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"cannot encode the message: {path}: {reason}")


class DecodeError(WebSocketError, ValueError):
    """The client sent data that the handler's codec cannot decode."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"cannot decode the message: {reason}")


class InvalidMessage(WebSocketError, ValueError):
    """The handler's own code has found a message of the client's malformed; ``reason`` says why.

    Raised in a hook it is the client's fault and no error of the site's: it is logged as a
    WARNING without a traceback, and ``on_invalid_message`` decides; by default the connection is
    closed with 1008 and the reason, which the client can read. Before the accept the handshake
    is refused with 400.
    """

    def __init__(self, reason: str = "") -> None:
        self.reason = reason
        super().__init__(f"invalid message: {printable(reason)}" if reason else "invalid message")


class StateError(WebSocketError, RuntimeError):
    """A method was called at a moment of the connection's life where it means nothing.

    For example ``send()`` before the accept, or ``reject()`` after it.
    """


class SessionError(WebSocketError, RuntimeError):
    """What was asked of a connection's session would need a cookie, which cannot be sent any more.

    A session that is not saved on the server yet, or is kept in the cookie, cannot be saved; no
    session can get a new key.
    """


class BroadcastError(WebSocketError):
    """A broadcast could not be handed to the backend, or a subscription was not confirmed.

    ``action`` is what was tried, ``server`` names the backend (without passwords), ``reason``
    says what went wrong; the exception of the client library is the ``__cause__``.

    ``errors``: where a backend was given several messages at once, those that were not taken,
    by their index. Empty where nobody knows: any of them may be lost then.
    """

    def __init__(
        self,
        action: str,
        server: str,
        reason: str,
        errors: Mapping[int, BroadcastError] | None = None,
    ) -> None:
        self.action = action
        self.server = server
        self.reason = reason
        self.errors = errors or {}
        super().__init__(f"{action} failed at {server}: {reason}")


class LoginCheckError(WebSocketError):
    """Whether a log-in still holds could not be found out; the ``__cause__`` says why."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(f"the log-in could not be checked: {type(cause).__name__}: {cause}")


class InvalidTopic(WebSocketError, ValueError):
    """Not a topic: ``reason`` says why."""

    def __init__(self, topic: object, reason: str) -> None:
        self.topic = topic
        self.reason = reason
        super().__init__(f"not a topic: {printable(repr(topic)[:100])}: {reason}")


class TooManyTopics(WebSocketError):
    """A connection subscribed to more than ``WS_MAX_TOPICS`` topics."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        super().__init__(
            f"this connection has joined {limit} topics, as many as WS_MAX_TOPICS allows: "
            "unsubscribe from some, or raise the setting"
        )
