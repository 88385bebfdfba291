"""Broadcasts from anywhere: views, signals, workers, the shell, async code."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured, SynchronousOnlyOperation
from django.db import connections, transaction

from django_ws.close_codes import CloseCode
from django_ws.exceptions import BroadcastError
from django_ws.logs.throttled import ThrottledLog
from django_ws.pubsub.hub.registry import DEFAULT, config_of, publisher_of, running_hub
from django_ws.pubsub.outgoing import (
    Outgoing,
    broadcast_of,
    broadcasts_of,
    disconnection_of,
    messages_of,
)

logger = logging.getLogger("django.ws")

_lost = ThrottledLog(logger, logging.ERROR, "broadcasts after a commit that failed")


def broadcast(
    topics: str | Iterable[str],
    message: Any,
    *,
    exclude: str | Iterable[str] | None = None,
    exclude_users: Any = (),
    using: str = DEFAULT,
) -> None:
    """Send a message to all subscribers of one topic or several, in every process.

    ``message`` is anything that ``JSONCodec`` takes, or bytes, which travel as they are. A
    connection that has joined several of the topics gets it once. ``exclude`` is the id of a
    connection that shall not get it, or several; ``exclude_users`` are users, or their ids,
    whose connections shall not; ``using`` is an alias of ``WS_BROADCAST``. Returns when the
    backend has taken the broadcast, which says nothing of receivers. For any thread without a
    running event loop, and for forked workers.

    Raises ``EncodeError``, ``InvalidTopic`` and (for what cannot be excluded) ``ValueError``
    before anything is sent, ``BroadcastError`` if the backend could not take it, after at most
    5 s, and ``SynchronousOnlyOperation`` in async code: use ``abroadcast`` there.
    """
    _refuse_in_event_loop("broadcast", "abroadcast")
    _publish([broadcast_of(topics, message, exclude, exclude_users)], using)


async def abroadcast(
    topics: str | Iterable[str],
    message: Any,
    *,
    exclude: str | Iterable[str] | None = None,
    exclude_users: Any = (),
    using: str = DEFAULT,
) -> None:
    """``broadcast`` for async code, in any event loop.

    Cancelling it does not take the broadcast back.
    """
    await _apublish([broadcast_of(topics, message, exclude, exclude_users)], using)


def broadcast_many(
    pairs: Iterable[tuple[str | Iterable[str], Any]],
    *,
    exclude: str | Iterable[str] | None = None,
    exclude_users: Any = (),
    using: str = DEFAULT,
) -> None:
    """Send many messages in one round trip: pairs of a topic, or several, and its message.

    As ``broadcast`` otherwise, and in the order of the pairs. All of them are encoded before
    anything is sent. ``BroadcastError.errors`` has those copies that were not taken, where that
    is known, by their index: one for each topic of each pair.
    """
    _refuse_in_event_loop("broadcast_many", "abroadcast_many")
    _publish(broadcasts_of(pairs, exclude, exclude_users), using)


async def abroadcast_many(
    pairs: Iterable[tuple[str | Iterable[str], Any]],
    *,
    exclude: str | Iterable[str] | None = None,
    exclude_users: Any = (),
    using: str = DEFAULT,
) -> None:
    """``broadcast_many`` for async code."""
    await _apublish(broadcasts_of(pairs, exclude, exclude_users), using)


def broadcast_on_commit(
    topics: str | Iterable[str],
    message: Any,
    *,
    exclude: str | Iterable[str] | None = None,
    exclude_users: Any = (),
    using: str = DEFAULT,
    database: str | None = None,
) -> None:
    """Broadcast when the transaction commits, and only then; at once outside a transaction.

    ``using`` is the alias of ``WS_BROADCAST``, as in ``broadcast``; ``database`` that of
    ``DATABASES`` whose transaction it is (Django's ``"default"`` where None). The message is
    encoded at the call, as it is now: this raises ``EncodeError``, ``InvalidTopic`` and
    ``ValueError`` as ``broadcast``, and ``ImproperlyConfigured`` for an unknown alias. A
    broadcast that fails later is logged and does not turn committed work into an error.
    """
    _check_aliases(using, database)
    outgoing = broadcast_of(topics, message, exclude, exclude_users)

    def publish() -> None:
        try:
            _publish([outgoing], using)
        except BroadcastError as error:  # Django would log it too, with a traceback each time
            _lost.log(error.server, "after a commit: %s", error)

    try:
        transaction.on_commit(publish, using=database, robust=True)
    except SynchronousOnlyOperation:
        raise SynchronousOnlyOperation(
            "broadcast_on_commit() asks the database connection for its transaction: call it in "
            "the sync function that has the transaction, which async code runs by "
            "`await sync_to_async(function)()`."
        ) from None


def _check_aliases(using: str, database: str | None) -> None:
    try:
        config_of(using)
    except ImproperlyConfigured as error:
        if using not in connections.settings:
            raise
        raise ImproperlyConfigured(
            f"{error} For the database write database={using!r}: using= is an alias of "
            "WS_BROADCAST."
        ) from None
    if database is not None and database not in connections.settings:
        known = ", ".join(map(repr, connections.settings))
        raise ImproperlyConfigured(
            f"broadcast_on_commit(database={database!r}): DATABASES has only {known}. For an alias "
            "of WS_BROADCAST write using=."
        )


def disconnect(
    topic: str,
    *,
    code: int = CloseCode.FORBIDDEN,
    reason: str = "",
    exclude: str | Iterable[str] | None = None,
    using: str = DEFAULT,
) -> None:
    """Close the sockets that subscribe to a topic, in every process.

    For ``user_topic(user)``: all sockets of the user, subscribed or not; for
    ``connection_topic(id)``: that one. ``exclude`` is the id of a connection that stays, or
    several. Raises ``ValueError`` for a code that may not be sent, otherwise as ``broadcast``.
    """
    _refuse_in_event_loop("disconnect", "adisconnect")
    _publish([disconnection_of(topic, code, reason, exclude)], using)


async def adisconnect(
    topic: str,
    *,
    code: int = CloseCode.FORBIDDEN,
    reason: str = "",
    exclude: str | Iterable[str] | None = None,
    using: str = DEFAULT,
) -> None:
    """``disconnect`` for async code."""
    await _apublish([disconnection_of(topic, code, reason, exclude)], using)


def _publish(outgoing: Sequence[Outgoing], using: str) -> None:
    publisher = publisher_of(using)
    if messages := messages_of(outgoing, using):
        publisher.publish(messages)


async def _apublish(outgoing: Sequence[Outgoing], using: str) -> None:
    hub = running_hub(using)
    if hub is not None:
        if messages := messages_of(outgoing, using):
            await hub.outbox.put(messages)
        return
    # No hub listens in this event loop, which may end at any moment: nothing is opened in it.
    await asyncio.to_thread(_publish, outgoing, using)


def _refuse_in_event_loop(name: str, other: str) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise SynchronousOnlyOperation(
        f"{name}() would block the event loop: use `await {other}(...)` in async code."
    )
