"""Receivers of Django's signals that end log-ins; they notify all processes."""

from __future__ import annotations

import logging
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.core.signals import setting_changed
from django.db import router
from django.db.models import Model
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from django_ws.auth import session_rows
from django_ws.auth.orders import order_on_commit
from django_ws.auth.session_identity import session_identity
from django_ws.close_codes import CloseCode
from django_ws.pubsub.envelope import seal_check, seal_disconnect
from django_ws.pubsub.topics import user_topic

logger = logging.getLogger("django.ws")

DECISIVE = frozenset({"password", "is_active"})  # other fields end no log-in


def connect() -> None:
    """Listen to the signals of ``django.contrib.auth``. Calling it again does nothing."""
    if not apps.is_installed("django.contrib.auth"):
        return
    user_logged_out.connect(_logged_out, dispatch_uid="django_ws")
    user_logged_in.connect(_logged_in, dispatch_uid="django_ws")
    # Sender by sender: a receiver of every deletion would make Django load whatever the site
    # deletes, row by row.
    for model in _models_like(get_user_model()):
        post_save.connect(_saved, sender=model, dispatch_uid="django_ws")
        post_delete.connect(_deleted, sender=model, dispatch_uid="django_ws")
    if apps.is_installed("rest_framework.authtoken"):
        from rest_framework.authtoken.models import Token

        for model in _models_like(Token):
            post_delete.connect(_token_deleted, sender=model, dispatch_uid="django_ws")
    session_rows.listen()


@receiver(setting_changed)
def _connect_again(*, setting: str, **kwargs: Any) -> None:
    if setting == "AUTH_USER_MODEL":
        connect()


def _models_like(model: type[Model]) -> list[type[Model]]:
    """It, its proxies and its children: each sends signals of its own."""
    return [each for each in apps.get_models() if issubclass(each, model)]


def _logged_out(*, request: Any, user: Any, **kwargs: Any) -> None:
    # Sent before the session is flushed; hubs remember that it has ended.
    _session_ended(getattr(getattr(request, "session", None), "session_key", None), user)


def _logged_in(*, request: Any, user: Any, **kwargs: Any) -> None:
    """Whoever was logged in by the browser's cookie until now is not any more.

    Django has given the session another key, unless the same user has logged in again.
    """
    session = getattr(request, "session", None)
    key = getattr(request, "COOKIES", {}).get(settings.SESSION_COOKIE_NAME)
    if session is not None and key != getattr(session, "session_key", None):
        _session_ended(key, user)


def _session_ended(key: str | None, user: Any) -> None:
    if not key:
        return
    try:
        session = session_identity(key)
        order = seal_disconnect(session, CloseCode.LOGIN_ENDED, "the log-in has ended")
        # Not type(), for it may be a lazy object; None where nobody has looked who it is.
        model = get_user_model() if user is None else user.__class__
        order_on_commit(order, router.db_for_write(model, instance=user))
    except Exception:  # the user must get in, or out, all the same
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
        order_on_commit(seal_check(user_topic(instance)), using)


def _deleted(*, instance: Model, using: str, **kwargs: Any) -> None:
    order_on_commit(seal_check(user_topic(instance)), using)


def _token_deleted(*, instance: Any, using: str, **kwargs: Any) -> None:
    order_on_commit(seal_check(user_topic(instance.user)), using)
