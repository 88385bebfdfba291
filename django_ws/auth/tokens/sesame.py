"""The tokens of django-sesame, as its own settings say."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth import get_backends
from django.core.exceptions import ImproperlyConfigured

from django_ws.auth.login import Login
from django_ws.auth.tokens.authenticator import library


class SesameAuthenticator:
    """What ``sesame.utils.get_user`` takes, with the same ``scope`` and ``max_age``.

    The token is for the log-in, not for its life: the connection outlives it. ``max_age`` is
    a number of seconds or a ``timedelta``; None stands for ``SESAME_MAX_AGE``. Raises
    ``ImproperlyConfigured`` where no backend of django-sesame is set up.
    """

    name = "token"

    def __init__(self, scope: str = "", max_age: Any = None) -> None:
        self._get_user = library("sesame.utils", "django-sesame").get_user
        self._options = {"scope": scope, "max_age": max_age}
        mixin = library("sesame.backends", "django-sesame").SesameBackendMixin
        if not any(isinstance(backend, mixin) for backend in get_backends()):
            raise ImproperlyConfigured(
                "django-sesame logs nobody in without its backend: add "
                "'sesame.backends.ModelBackend' to AUTHENTICATION_BACKENDS."
            )

    async def authenticate(self, token: str) -> Login | None:
        try:
            user = await sync_to_async(self._get_user)(token, **self._options)
        except NotImplementedError:  # tokens of version 1 know no scope and no max_age
            return None
        return None if user is None else Login(user)
