"""What Django tells about the end of log-ins, handed on to all processes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from django.apps import apps
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_out
from django.core.signals import setting_changed
from django.db import router, transaction
from django.db.models import Model
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

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
    # Sender by sender: a receiver of every deletion would make Django load whatever the site
    # deletes, row by row.
    for model in _models_like(get_user_model()):
        post_save.connect(_saved, sender=model, dispatch_uid="django_ws")
        post_delete.connect(_deleted, sender=model, dispatch_uid="django_ws")
    if apps.is_installed("rest_framework.authtoken"):
        from rest_framework.authtoken.models import Token

        for model in _models_like(Token):
            post_delete.connect(_token_deleted, sender=model, dispatch_uid="django_ws")


@receiver(setting_changed)
def _connect_again(*, setting: str, **kwargs: Any) -> None:
    if setting == "AUTH_USER_MODEL":
        connect()


def _models_like(model: type[Model]) -> list[type[Model]]:
    """It, its proxies and its children: each sends signals of its own."""
    return [each for each in apps.get_models() if issubclass(each, model)]


def _logged_out(*, request: Any, user: Any, **kwargs: Any) -> None:
    # Sent before the session is flushed; hubs remember that it has ended.
    key = getattr(getattr(request, "session", None), "session_key", None)
    if key:
        order = seal_disconnect(session_owner(key), CloseCode.LOGIN_ENDED, "the log-in has ended")
        # Not type(), for it may be a lazy object; None where nobody has looked who it is.
        model = get_user_model() if user is None else user.__class__
        try:
            _order_on_commit(order, router.db_for_write(model, instance=user))
        except Exception:  # the user must get out all the same
            logger.exception("Sockets stay open until their log-in is checked again")


def _saved(
    *,
    instance: Model,
    created: bool,
    update_fields: frozenset[str] | None,
    using: str,
    **kwargs: Any,
) -> None:
    if not created and (update_fields is None or DECISIVE & update_fields):
        _order_on_commit(seal_check(user_topic(instance)), using)


def _deleted(*, instance: Model, using: str, **kwargs: Any) -> None:
    _order_on_commit(seal_check(user_topic(instance)), using)


def _token_deleted(*, instance: Any, using: str, **kwargs: Any) -> None:
    _order_on_commit(seal_check(user_topic(instance.user)), using)


def _order_on_commit(order: bytes, using: str) -> None:
    """When it is certain, and so that who looks then finds it."""
    transaction.on_commit(lambda: _publish(order), using=using, robust=True)


def _publish(order: bytes) -> None:
    messages = [(CONTROL_TOPIC, order)]
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        _publish_now(messages)
        return
    hub = running_hub(DEFAULT)
    if hub is not None:
        hub.outbox.put(messages)
    else:
        loop.run_in_executor(None, _publish_now, messages)


def _publish_now(messages: list[tuple[str, bytes]]) -> None:
    try:
        publisher_of(DEFAULT).publish(messages)
    except BroadcastError as error:
        logger.error("Sockets stay open until their log-in is checked again: %s", error)
