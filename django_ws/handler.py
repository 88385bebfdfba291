"""WebSocketHandler: a connection as the user's code sees it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import Any, ClassVar, Literal, cast
from weakref import WeakMethod

from django.utils.timezone import now

from django_ws import conf
from django_ws.codecs import Codec, JSONCodec, TextCodec
from django_ws.connection.connection import CONNECTING, HANDED_OVER, OPEN, Connection, Overflow
from django_ws.exceptions import DecodeError, EncodeError, InvalidMessage, Reject, StateError
from django_ws.lifecycle.hooks import Hooks, hooks_of
from django_ws.lifecycle.life import Life
from django_ws.lifecycle.read_only import read_only
from django_ws.lifecycle.run import live
from django_ws.lifecycle.tasks import (
    Ended,
    StartedTask,
    TaskCallback,
    TaskFunction,
    sleep_loop,
    too_late,
)
from django_ws.logs.printable import printable
from django_ws.logs.throttled import ThrottledLog
from django_ws.pubsub.hub.addresses import addresses_of
from django_ws.pubsub.hub.registry import ensure_hub, hub_of
from django_ws.pubsub.outgoing import broadcast_of, messages_of
from django_ws.request import WebSocketRequest
from django_ws.threads.any_thread import Done, Failed, act, done
from django_ws.types import HandlerType, Subscriber

logger = logging.getLogger("django.ws.request")

_closed_early = ThrottledLog(logger, logging.INFO, "calls of close() before the accept")

PING_TASK = "ping"
_text = TextCodec()
_nothing_to_do = Done(None)


class WebSocketHandler(metaclass=HandlerType):
    """One instance lives for each connection. Subclass it, override hooks, name it in ``ws_urls``.

    Hooks may be ``async def``, or ``def``: these run in a bounded thread and may use the ORM
    directly. ``on_task_error`` and task callbacks always run in the event loop.

    Every acting method (``send``, ``close``, ``reject``, ``start_task``, ``cancel_task``)
    starts at the call and may be called from any thread. In the event loop it may be awaited
    or not; in a sync hook or another thread it blocks until done, at most ``WS_SEND_TIMEOUT``
    (10 s; then ``SendTimeout``). Cancelling who awaits it does not take the action back.
    """

    codec: Codec = JSONCodec()
    subprotocols: Sequence[str] = ()
    accept_headers: Sequence[tuple[str, str]] = ()  # more headers of the accept, pairs of str
    max_message_size: int | None = None  # bytes; WS_MAX_MESSAGE_SIZE where None
    rate_limit: str | Literal[False] | None = None  # "20/s"; WS_RATE_LIMIT where None
    idle_timeout: float | None = None  # seconds without a message from the client
    send_overflow: Overflow = "close"
    topics: Sequence[str] = ()  # joined from the start
    using: str = "default"  # the alias of WS_BROADCAST
    reject_with: Literal["http", "close"] = "http"
    concurrent_broadcasts: bool = False  # on_broadcast and on_broadcast_gap may overlap others
    PROCESS_CANCEL_ERRORS = False

    first_message_seconds: float = 10.0
    _rate_limited: int = 0
    _hooks: ClassVar[Hooks]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._hooks = hooks_of(cls, WebSocketHandler)

    def __init__(
        self,
        connection: Connection,
        request: WebSocketRequest,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None = None,
    ) -> None:
        if kwargs is None:  # called with scope, receive and send
            raise TypeError(
                f"{type(self).__qualname__} is a handler class, no ASGI application: name it in a "
                "route of ws_urls.py, and serve get_websocket_application()"
            )
        self._request = request
        self.args = args
        self.kwargs = kwargs
        self._connection = connection
        if "unit_of_work" in self._hooks.overridden:
            connection.sync_work.around = WeakMethod(self.unit_of_work)
        connection.overflow = self.send_overflow
        connection.subprotocols = self.subprotocols
        connection.refuse_after_accept = self.reject_with == "close"
        self._life: Life | None = Life(connection, self)  # None after the end

    # Hooks. Declared as neither async nor sync, so that both kinds may override them.

    def authenticate_first(self, message: Any) -> Any:
        """``async def``: the ``Login`` that the first message stands for, or None.

        A handler that overrides it (``FirstMessageAuthMixin`` does) is accepted at once, and
        nothing else happens until the client's first message has logged it in: otherwise, or
        after ``first_message_seconds``, it is closed with 4401.
        """
        return _nothing_to_do

    def authorize(self) -> Any:
        """Before ``on_connect``: whether this client may connect.

        None and True let it in; False refuses it, with 401 where nobody is logged in and 403
        otherwise; ``Reject`` refuses it with any status. Whatever else it returns is an error,
        and nobody gets in.

        For mixins, such as those of ``django_ws.auth``: they hold whatever ``on_connect`` does.
        """
        return _nothing_to_do

    def on_connect(self) -> Any:
        """Before the accept: ``request``, its user and ``kwargs`` are there.

        Refuses the handshake by raising ``Reject``, ``PermissionDenied`` or ``Http404``, or by
        returning False (401 where nobody is logged in, 403 otherwise).
        """
        return _nothing_to_do

    def on_open(self) -> Any:
        """The connection is open: ``send`` works from here on."""
        return _nothing_to_do

    def on_message(self, message: Any) -> Any:
        """One decoded message. One at a time, in order."""
        return _nothing_to_do

    def on_bytes(self, data: bytes) -> Any:
        """The raw data of a binary frame; without this hook the codec decodes it too."""
        return _nothing_to_do

    def on_text(self, text: str) -> Any:
        """The raw text of a text frame, before the codec: for clients that send a bare ``ping``
        beside JSON, for example. Returns True where that is all: otherwise the codec decodes it,
        and ``on_message`` gets it.
        """
        return _nothing_to_do

    def on_close(self) -> Any:
        """The end: exactly once for each accepted connection, after all tasks have ended.

        ``close_code`` and ``close_reason`` say why. Nothing can be sent any more.
        """
        return _nothing_to_do

    def on_error(self, error: BaseException) -> Any:
        """An exception in a hook. It is logged already; the connection closes with 1011 after."""
        return _nothing_to_do

    def on_decode_error(self, error: DecodeError) -> Any:
        """The client sent what the codec cannot decode. By default: close with 1007."""
        return self._connection.close(1007, error.reason)

    def on_invalid_message(self, error: InvalidMessage) -> Any:
        """A hook has raised ``InvalidMessage``. By default: close with 1008 and its reason.

        Where this does not close, the next message is handled as always.
        """
        return self._connection.close(1008, error.reason)

    def on_rate_limited(self) -> Any:
        """The client sent more than ``rate_limit`` allows. By default: close with 4429.

        Called for each message that is too much, in its place: it is not handled, whatever this
        does. ``rate_limited`` counts them.
        """
        return self._connection.close(4429, "too many messages")

    def on_task_error(self, error: BaseException) -> Any:
        """An exception in a background task. It is logged already; the connection stays open.

        Cancellations come here too (as ``CancelledError`` with the message
        ``TASK_DUPLICATE_STARTED`` or ``TASK_WS_CLOSED``) where ``PROCESS_CANCEL_ERRORS`` is True.
        """

    def on_broadcast(self, topic: str, message: Any) -> Any:
        """A broadcast to a topic that this connection has joined. By default: send it on.

        One at a time, in order, and in turn with the other hooks: while ``on_message`` runs,
        broadcasts wait, within ``WS_SEND_BUFFER``. With ``concurrent_broadcasts = True`` it may
        overlap them. Without this hook the encoded data goes to the client without a copy for
        each connection, which is much faster, and waits for no hook.
        """
        return self.send(message)

    def on_broadcast_gap(self, topics: frozenset[str]) -> Any:
        """Broadcasts to these topics may not have arrived: the backend was away for a while.

        It is back when this is called, in turn with the other hooks and with ``on_broadcast``,
        which gets later broadcasts after it. Those that no hook gets are sent on meanwhile.
        """
        return _nothing_to_do

    def on_restart(self) -> Any:
        """The server is about to end: the last word to the client may be said here.

        Called as soon as it is known, and beside ``on_message``: the one hook that may overlap
        others. The connection stays open, and goes on as always, until its turn comes to be
        closed with 1012, within ``WS_DRAIN_SECONDS`` and not before this has returned. Only
        ``runws`` can call it.
        """
        return _nothing_to_do

    def get_topics(self) -> Any:
        """The topics from the start, by default those of the attribute ``topics``.

        Called in the event loop, after ``on_connect``, and may be ``async def``. The handshake
        is accepted when all are confirmed, and refused with 503 if the backend is down.
        """
        return self.topics

    def may_subscribe(self, topic: str) -> bool:
        """Whether this connection may join a topic: asked for each, by whatever way it comes.

        Called in the event loop and never ``async def``: read what it needs in ``on_connect``.
        Where it gives False, ``subscribe`` raises ``TopicForbidden``, and a handshake with this
        topic is refused with 403.
        """
        return True

    def unit_of_work(self) -> AbstractContextManager[Any] | None:
        """What surrounds each unit of this connection's sync work: each sync hook, each call of
        ``sync_to_async`` and each query of the async ORM. None, as by default, is nothing.

        Called in the thread, never ``async def``. For what belongs to a thread's database
        connection and not to the context: ``return tenant_context(self.tenant)``. Also the checks
        of the connection's log-in run in it.
        """
        return None

    # State

    @read_only
    def request(self) -> WebSocketRequest:
        """The handshake, as a Django request."""
        return self._request

    @read_only
    def id(self) -> str:
        """This connection's unique id, 32 random hexadecimal digits: for ``exclude``, and for
        ``connection_topic``, by which anybody can reach this connection.
        """
        identity = self._own_id
        if "_is_addressed" not in self.__dict__:
            self.__dict__["_is_addressed"] = True
            loop = self._connection.loop
            addresses_of(loop).add(identity, self)
            ensure_hub(loop, self.using)
        return identity

    @read_only
    def _own_id(self) -> str:
        """The same, also where a subclass has an ``id`` of its own. As long as nobody else knows
        it, the connection cannot be reached by it.
        """
        identity: str | None = self.__dict__.get("_id")
        if identity is None:
            new = addresses_of(self._connection.loop).new_id()
            identity = self.__dict__.setdefault("_id", new)
        return identity

    @property
    def _hears_gaps(self) -> bool:
        return "on_broadcast_gap" in self._hooks.overridden

    def _as_subscriber(self, *, for_message: bool) -> Subscriber | None:
        """For broadcasts to this connection alone; None after the end, and for messages where
        an application has the connection.
        """
        life = self._life
        if life is None or self._connection.gone:
            return None
        if for_message and self._connection.state is HANDED_OVER:
            return None
        return life.subscriptions

    @read_only
    def _known_id(self) -> str | None:
        """The id, if anybody has asked for it."""
        return self.__dict__.get("_id")

    @read_only
    def connected(self) -> bool:
        """Accepted, and not closing or closed."""
        return self._connection.state is OPEN

    @read_only
    def closed(self) -> bool:
        """A close was sent or received, the client is gone, or the handshake was refused."""
        return self._connection.closed

    @read_only
    def close_code(self) -> int | None:
        """The close code; 1005 where the client gave none, 1006 where it vanished."""
        return self._connection.close_code

    @read_only
    def close_reason(self) -> str:
        return self._connection.close_reason

    @read_only
    def restarting(self) -> bool:
        """Whether the server is about to end: a hook that runs for long should come to its end.

        True from before ``on_restart``.
        """
        return self._life is not None and self._life.is_restarting

    @read_only
    def subprotocol(self) -> str | None:
        """The subprotocol that was selected, once open."""
        return self._connection.subprotocol

    @read_only
    def rate_limited(self) -> int:
        """How many messages of this connection its ``rate_limit`` did not allow."""
        return self._rate_limited

    @read_only
    def dropped(self) -> int:
        """How many messages could not be sent: on overflow, or after the close."""
        return self._connection.dropped

    # Sending

    def send(self, message: Any) -> Awaitable[None]:
        """Encode with ``codec`` and send one message. May be awaited or not.

        Raises ``EncodeError`` (a ``TypeError``) at the call if the message cannot be encoded,
        and ``StateError`` before the accept. Awaiting returns when the server has taken the
        message (backpressure), and raises ``ConnectionClosed`` or ``MessageDropped`` if it did
        not; a message that nobody awaits and that is dropped is counted in ``dropped``.
        """
        return self._connection.send_data(self.codec.encode(message))

    def send_text(self, text: str) -> Awaitable[None]:
        """Send a text frame past the codec. As ``send`` otherwise."""
        return self._connection.send_data(_text.encode(text))

    def send_bytes(self, data: bytes | bytearray | memoryview) -> Awaitable[None]:
        """Send a binary frame past the codec. As ``send`` otherwise."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise EncodeError("$", f"send_bytes() takes bytes, not {type(data).__name__}")
        return self._connection.send_data(bytes(data))

    def close(self, code: int = 1000, reason: str = "") -> Awaitable[None]:
        """Close; what was sent before goes out before. The first close counts.

        ``code`` is 1000 to 1014 (without 1004 to 1006) or 3000 to 4999, else ``ValueError``;
        ``reason`` is cut to 123 bytes of UTF-8. Before the accept it refuses the handshake, with
        the reason as the body: codes from 4400 to 4599 with ``code - 4000``, 1012 and 1013 with
        503, others with 403. With ``reject_with = "close"`` the client gets the code itself.
        """
        connection = self._connection
        if connection.state is CONNECTING and not connection.refuse_after_accept:
            path = connection.path
            _closed_early.log(
                (path, code),
                "WebSocket %s: close(%d, %r) before the accept refuses the handshake with an HTTP "
                "status, and browsers see 1006. To let clients see the code and the reason, set "
                'reject_with = "close" on %s.',
                path,
                code,
                printable(reason),
                type(self).__qualname__,
            )
        return connection.close(code, reason)

    def reject(
        self, status: int = 403, reason: str = "", headers: Iterable[tuple[str, str]] = ()
    ) -> Awaitable[None]:
        """Refuse the handshake, in middleware or ``on_connect``. The caller runs on.

        ``status`` (400 to 599) and ``reason`` (the body, as text) reach clients that can read
        them; browsers only with ``reject_with = "close"``. Raises ``StateError`` after the accept.
        """
        rejection = Reject(status, reason, headers)
        connection = self._connection
        return act(
            connection.loop,
            "reject",
            lambda: connection.refuse(status, reason, rejection.headers),
        )

    # Topics

    @read_only
    def subscriptions(self) -> frozenset[str]:
        """The topics that are joined now; once the connection has begun to end, and so in
        ``on_close``, those that were joined then.
        """
        life = self._life
        return life.topics if life is not None else frozenset()

    def subscribe(
        self, topics: str | Iterable[str], handler: Callable[[str, Any], Any] | None = None
    ) -> Awaitable[None]:
        """Join a topic, or several. Awaiting returns when the backend has confirmed: nothing
        that is broadcast after that is missed.

        ``handler(topic, message)``, ``async def`` or ``def``, is called for what arrives on these
        topics, in turn with the hooks; ``on_broadcast`` is not, and nothing is sent on. Other
        topics stay as fast as they are. Joining again replaces the handler.

        Raises ``InvalidTopic``, ``TooManyTopics`` (``WS_MAX_TOPICS``) and ``TopicForbidden``
        (``may_subscribe``) at the call; awaiting raises ``BroadcastError`` after 5 s if the
        backend is down (topics joined before stay) and ``ConnectionClosed`` after the close.
        What arrives before ``on_open`` has returned waits for it.
        """

        def join() -> Awaitable[None]:
            if self._life is None:
                return Failed(self._connection.closed_error())
            return self._life.subscriptions.join(topics, handler)

        return act(self._connection.loop, "subscribe", join)

    def unsubscribe(self, topics: str | Iterable[str]) -> Awaitable[None]:
        """Leave a topic, or several, at once. Those that are not joined do nothing."""

        def leave() -> Awaitable[None]:
            if self._life is None:
                return done(self._connection.loop)
            return self._life.subscriptions.leave(topics)

        return act(self._connection.loop, "unsubscribe", leave)

    def broadcast(
        self,
        topics: str | Iterable[str],
        message: Any,
        exclude_self: bool = False,
        *,
        exclude_users: Any = (),
    ) -> Awaitable[None]:
        """Send a message to all subscribers of a topic, or of several, in every process.

        Who has joined several of them gets it once; the connections of ``exclude_users`` (users,
        or their ids) do not. Raises ``EncodeError``, ``InvalidTopic`` and ``ValueError`` at the
        call. Awaiting returns when the backend has taken it and raises ``BroadcastError`` if it
        has not after 5 s. What nobody awaits keeps its order all the same; a failure is logged.
        """
        exclude = self._own_id if exclude_self else None
        outgoing = broadcast_of(topics, message, exclude, exclude_users)

        def put() -> Awaitable[None]:
            return hub_of(self.using).outbox.put(messages_of([outgoing], self.using))

        return act(self._connection.loop, "broadcast", put)

    # Background tasks

    @read_only
    def tasks(self) -> Mapping[str, StartedTask]:
        """The running background tasks by id; a copy."""
        life = self._life  # a copy: in a thread it may vanish at any moment
        return life.running_tasks if life is not None else {}

    def start_task(
        self,
        task_id: str,
        coroutine_function: TaskFunction | Coroutine[Any, Any, Any],
        callback: TaskCallback | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
    ) -> StartedTask:
        """Start a named background task that ends with the connection at the latest.

        A running task of the same id is cancelled with ``TASK_DUPLICATE_STARTED``; at the end
        all are cancelled with ``TASK_WS_CLOSED`` and awaited. ``callback(task)`` is called in
        the event loop when the task has ended, however it ended. Gives the task; awaiting the
        call confirms the start and does not wait for the end. Raises ``ConnectionClosed``
        after the close and ``TypeError`` for what is not a coroutine function.
        """

        def start() -> StartedTask:
            if self._life is None:
                raise too_late(task_id, coroutine_function)
            background = self._life.background
            return background.start_task(task_id, coroutine_function, callback, args, kwargs)

        started: Any = act(self._connection.loop, "start_task", start)
        if isinstance(started, Done):  # in a thread: it has blocked until started
            started = started.value
        return cast(StartedTask, started)

    def cancel_task(self, task_id: str) -> Awaitable[None]:
        """Cancel a background task; awaiting waits until it has ended. Unknown ids do nothing."""

        def cancel() -> Awaitable[None]:
            task = self._life.cancel(task_id) if self._life is not None else None
            if task is None or task is asyncio.current_task():
                return done(self._connection.loop)
            return Ended(task)

        return act(self._connection.loop, "cancel_task", cancel)

    async def sleep_loop(
        self,
        coroutine_function: Callable[..., Awaitable[Any]],
        seconds: float,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Call ``coroutine_function(*args, **kwargs)`` every ``seconds``, until the close.

        The first call comes after one period. The calls keep to a fixed grid on the monotonic
        clock: no drift, no overlap; a point that passes during a call is left out. An
        exception in the function ends the loop and is raised here.
        """
        if not seconds > 0:
            raise ValueError(f"sleep_loop(seconds={seconds!r}): give a positive number")
        closed = self._connection.closed_future
        await sleep_loop(coroutine_function, seconds, args, kwargs, closed)

    def start_ping(self, interval: float | None = None) -> StartedTask:
        """Send ``{"ping": "<ISO time>"}`` every ``interval`` seconds (``WS_PING_INTERVAL``).

        The background task is called ``"ping"``. Protocol pings are the server's affair; these
        are messages, for clients and proxies that look at traffic.
        """
        seconds = conf.get().ws_ping_interval if interval is None else interval
        return self.start_task(PING_TASK, self.sleep_loop, args=(self._send_ping, seconds))

    async def _send_ping(self) -> None:
        message = {"ping": now().isoformat()}
        try:
            await self.send(message)
        except EncodeError:  # a codec of text or bytes
            await self.send_text(json.dumps(message))

    # The life of the connection

    def _run(self) -> Awaitable[None]:
        """From ``on_connect`` to ``on_close``; what the innermost middleware calls."""
        # Not async def: one more coroutine would stay in memory all the while.
        return live(self._alive)

    @property
    def _alive(self) -> Life:
        if self._life is None:
            raise StateError("the connection has ended: a handler serves one connection")
        return self._life

    def _refusal(self) -> Reject:
        """What a hook that returned False stands for: 401 for who may log in yet, else 403."""
        user = getattr(self.request, "user", None)
        is_anonymous = user is not None and not getattr(user, "is_authenticated", False)
        status = 401 if is_anonymous else 403
        return Reject(status, HTTPStatus(status).phrase)

    def _let_go(self) -> None:
        """The life is over; refer to it no more, so that no garbage collection is needed."""
        self._life = None


WebSocketHandler._hooks = hooks_of(WebSocketHandler, WebSocketHandler)
