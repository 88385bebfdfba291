"""Messages to all processes: check this log-in again, or close its connections."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from django.db import transaction
from django.db.transaction import TransactionManagementError

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.hub.registry import DEFAULT, publisher_of, running_hub
from django_ws.pubsub.topics import CONTROL_TOPIC

logger = logging.getLogger("django.ws")


def order_on_commit(order: bytes, using: str) -> None:
    """When it is certain, and so that who looks then finds it."""
    call_on_commit(lambda: publish(order), using)


def call_on_commit(call: Callable[[], None], using: str) -> None:
    try:
        transaction.on_commit(call, using=using, robust=True)
    except TransactionManagementError:  # without autocommit Django does not know of the commit
        call()


def publish(order: bytes) -> None:
    """Raises nothing for a backend that is away: that is logged."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        _publish_here(order)
        return
    hub = running_hub(DEFAULT)
    if hub is not None:
        hub.outbox.put([(CONTROL_TOPIC, order)])
    else:
        loop.run_in_executor(None, _publish_here, order)


def _publish_here(order: bytes) -> None:
    try:
        publisher_of(DEFAULT).publish([(CONTROL_TOPIC, order)])
    except BroadcastError as error:
        logger.error("Sockets stay open until their log-in is checked again: %s", error)
