"""What Django tells about the end of log-ins, handed on to all processes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_out
from django.db import router, transaction
from django.db.models import Model
from django.db.models.signals import post_delete, post_save

from django_ws.auth.session import session_owner
from django_ws.close_codes import CloseCode
from django_ws.exceptions import BroadcastError
from django_ws.pubsub.envelope import seal_check, seal_disconnect
from django_ws.pubsub.hubs import DEFAULT, publisher_of, running_hub
from django_ws.pubsub.topics import CONTROL_TOPIC, user_topic

logger = logging.getLogger("django.ws")

DECISIVE = frozenset({"password", "is_active"})  # other fields end no log-in


def connect() -> None:
    """Listen to the signals of ``django.contrib.auth``. Calling it again does nothing."""
    if not apps.is_installed("django.contrib.auth"):
        return
    user_logged_out.connect(_logged_out, dispatch_uid="django_ws")
    post_save.connect(_saved, dispatch_uid="django_ws")
    post_delete.connect(_deleted, dispatch_uid="django_ws")


def _logged_out(*, request: Any, user: Any, **kwargs: Any) -> None:
    # Sent before the session is flushed.
    key = getattr(getattr(request, "session", None), "session_key", None)
    if user is not None and key:
        order = seal_disconnect(session_owner(key), CloseCode.LOGIN_ENDED, "the log-in has ended")
        _order_on_commit(order, user)


def _saved(
    *, instance: Model, created: bool, update_fields: frozenset[str] | None, **kwargs: Any
) -> None:
    if created or not isinstance(instance, get_user_model()):
        return
    if update_fields is None or DECISIVE & update_fields:
        _order_on_commit(seal_check(user_topic(instance)), instance)


def _deleted(*, instance: Model, **kwargs: Any) -> None:
    if isinstance(instance, get_user_model()):
        _order_on_commit(seal_check(user_topic(instance)), instance)
    elif apps.is_installed("rest_framework.authtoken"):
        from rest_framework.authtoken.models import Token

        if isinstance(instance, Token):
            _order_on_commit(seal_check(user_topic(instance.user)), instance)


def _order_on_commit(order: bytes, instance: Model) -> None:
    """When it is certain, and so that who looks then finds it."""
    using = router.db_for_write(type(instance), instance=instance)
    transaction.on_commit(lambda: _publish(order), using=using, robust=True)


def _publish(order: bytes) -> None:
    messages = [(CONTROL_TOPIC, order)]
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        try:
            publisher_of(DEFAULT).publish(messages)
        except BroadcastError as error:
            logger.error("Sockets stay open until their log-in is checked again: %s", error)
        return
    hub = running_hub(DEFAULT)
    if hub is not None:
        hub.outbox.put(messages)
    else:
        loop.run_in_executor(None, publisher_of(DEFAULT).publish, messages)
