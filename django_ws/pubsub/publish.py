"""Broadcasts from anywhere: views, signals, workers, the shell, async code."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

from django.core.exceptions import SynchronousOnlyOperation
from django.db import transaction

from django_ws.close_codes import CloseCode, is_sendable
from django_ws.exceptions import BroadcastError
from django_ws.pubsub.envelope import seal, seal_disconnect
from django_ws.pubsub.hubs import publisher_of, running_hub
from django_ws.pubsub.topics import CONTROL_TOPIC, UserTopic, check_topic, check_topics

logger = logging.getLogger("django.ws")

Messages = list[tuple[str, bytes]]


def broadcast(
    topics: str | Iterable[str],
    message: Any,
    *,
    exclude: str | None = None,
    using: str = "default",
) -> None:
    """Send a message to all subscribers of one topic or several, in every process.

    ``message`` is anything that ``JSONCodec`` takes, or bytes, which travel as they are.
    ``exclude`` is the id of a connection that shall not get it; ``using`` is an alias of
    ``WS_BROADCAST``. Returns when the backend has taken the broadcast, which says nothing of
    receivers. For any thread without a running event loop, and for forked workers.

    Raises ``EncodeError``, ``InvalidTopic`` and (for an ``exclude`` that is no connection's id)
    ``ValueError`` before anything is sent, ``BroadcastError`` if the backend could not take it,
    after at most 5 s, and ``SynchronousOnlyOperation`` in async code: use ``abroadcast`` there.
    """
    _refuse_in_event_loop("broadcast", "abroadcast")
    publisher_of(using).publish(_messages(topics, message, exclude))


async def abroadcast(
    topics: str | Iterable[str],
    message: Any,
    *,
    exclude: str | None = None,
    using: str = "default",
) -> None:
    """``broadcast`` for async code, in any event loop.

    Cancelling it does not take the broadcast back.
    """
    await _publish(_messages(topics, message, exclude), using)


def broadcast_on_commit(
    topics: str | Iterable[str],
    message: Any,
    *,
    exclude: str | None = None,
    using: str | None = None,
    broadcast_using: str = "default",
) -> None:
    """Broadcast when the transaction commits, and only then; at once outside a transaction.

    ``using`` is the database, as in Django's ``transaction.on_commit``; ``broadcast_using`` is
    the alias of ``WS_BROADCAST``. The message is encoded at the call, as it is now: this raises
    ``EncodeError``, ``InvalidTopic`` and ``ValueError`` as ``broadcast``. A broadcast that fails
    later is logged and does not turn committed work into an error.
    """
    messages = _messages(topics, message, exclude)

    def publish() -> None:
        try:
            publisher_of(broadcast_using).publish(messages)
        except BroadcastError as error:  # Django would log it too, with a traceback each time
            logger.error("after a commit: %s", error)

    transaction.on_commit(publish, using=using, robust=True)


def disconnect(
    topic: str,
    *,
    code: int = CloseCode.FORBIDDEN,
    reason: str = "",
    using: str = "default",
) -> None:
    """Close the sockets that subscribe to a topic, in every process.

    For ``user_topic(user)``: all sockets of the user, subscribed or not. Raises ``ValueError``
    for a code that may not be sent, otherwise as ``broadcast``.
    """
    _refuse_in_event_loop("disconnect", "adisconnect")
    publisher_of(using).publish(_disconnection(topic, code, reason))


async def adisconnect(
    topic: str,
    *,
    code: int = CloseCode.FORBIDDEN,
    reason: str = "",
    using: str = "default",
) -> None:
    """``disconnect`` for async code."""
    await _publish(_disconnection(topic, code, reason), using)


def _messages(topics: str | Iterable[str], message: Any, exclude: str | None) -> Messages:
    data = seal(message, exclude)
    return [(topic, data) for topic in check_topics(topics)]


def _disconnection(topic: str, code: int, reason: str) -> Messages:
    if not is_sendable(code):
        raise ValueError(
            f"disconnect(code={code}): not a code that may be sent. Use 1000 to 1014 (but 1004 "
            "to 1006), or 3000 to 4999 for codes of your own."
        )
    if not isinstance(reason, str):
        raise TypeError(f"disconnect(reason={reason!r}): give a str")
    check_topic(topic)
    # Every hub listens to the control topic; a user's sockets need not listen to anything.
    channel = CONTROL_TOPIC if isinstance(topic, UserTopic) else topic
    return [(channel, seal_disconnect(topic, int(code), reason))]


async def _publish(messages: Messages, using: str) -> None:
    hub = running_hub(using)
    if hub is not None:
        await hub.outbox.put(messages)
        return
    # No hub listens in this event loop, which may end at any moment: nothing is opened in it.
    await asyncio.to_thread(publisher_of(using).publish, messages)


def _refuse_in_event_loop(name: str, other: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise SynchronousOnlyOperation(
        f"{name}() would block the event loop: use `await {other}(...)` in async code."
    )
