"""The tokens of Django REST framework: a row of the database for each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any, Self

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured, ObjectDoesNotExist
from django.db import router

from django_ws.auth.login import Login
from django_ws.auth.tokens.authenticator import library


class TokenLogin(Login):
    """A log-in that ends as soon as the token's row is gone, or belongs to somebody else."""

    __slots__ = ("_key", "_model")

    def __init__(self, user: Any, *, model: Any, key: str) -> None:
        super().__init__(user)
        self._model = model
        self._key = key

    @classmethod
    async def ended(cls, logins: Sequence[Self]) -> Collection[Self]:
        """As ``Login.ended``; one query more for all tokens of one model."""
        ended = set(await super().ended(logins))
        keys: defaultdict[Any, list[str]] = defaultdict(list)
        for login in logins:
            keys[login._model].append(login._key)
        for model, its_keys in keys.items():
            database = router.db_for_write(model)
            rows = model._default_manager.using(database).filter(key__in=its_keys)
            known = {row async for row in rows.values_list("key", "user__pk")}
            ended.update(
                login
                for login in logins
                if login._model is model and (login._key, login.user.pk) not in known
            )
        return ended


class RestTokenAuthenticator:
    """The tokens of ``rest_framework.authtoken``, or of ``model``: a class or "app_label.Model".

    Such a model has the fields ``key`` and ``user``, as REST framework's own has. Raises
    ``ImproperlyConfigured`` where the library or its app is not installed.
    """

    name = "token"

    def __init__(self, model: Any = None) -> None:
        self.model = _own_model() if model is None else _model(model)

    async def authenticate(self, token: str) -> Login | None:
        rows = self.model._default_manager.select_related("user")
        try:
            row = await rows.aget(key=token)
        except ObjectDoesNotExist:
            return None
        if not getattr(row.user, "is_active", False):
            return None
        return TokenLogin(row.user, model=self.model, key=row.key)


def _own_model() -> Any:
    if not apps.is_installed("rest_framework.authtoken"):
        library("rest_framework", "djangorestframework")
        raise ImproperlyConfigured(
            "The tokens of Django REST framework need their table: add "
            "'rest_framework.authtoken' to INSTALLED_APPS and run manage.py migrate, or name "
            "a model of your own."
        )
    return library("rest_framework.authtoken.models", "djangorestframework").Token


def _model(model: Any) -> Any:
    if not isinstance(model, str):
        return model
    try:
        return apps.get_model(model)
    except (LookupError, ValueError) as error:
        raise ImproperlyConfigured(
            f"The model of the tokens: {model!r} is none ({error}). Write 'app_label.Model'."
        ) from error
