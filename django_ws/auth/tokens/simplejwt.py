"""The access tokens of djangorestframework-simplejwt, as its own settings say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asgiref.sync import sync_to_async
from django.core.exceptions import ValidationError
from django.db import DataError

from django_ws.auth.login import Login
from django_ws.auth.tokens.authenticator import library

# What Python and Django raise for contents that nobody has thought of.
_NOT_A_TOKEN = (ValueError, TypeError, OverflowError, RecursionError, DataError)

PACKAGE = "djangorestframework-simplejwt"


def header_of_simplejwt() -> tuple[str, Sequence[str]]:
    """``AUTH_HEADER_NAME`` as on the wire, and ``AUTH_HEADER_TYPES``."""
    settings = library("rest_framework_simplejwt.settings", PACKAGE).api_settings
    types = settings.AUTH_HEADER_TYPES
    name = settings.AUTH_HEADER_NAME.removeprefix("HTTP_").replace("_", "-").title()
    return name, [types] if isinstance(types, str) else types


class SimpleJWTAuthenticator:
    """What simplejwt's ``JWTAuthentication`` takes; the log-in ends at the token's ``exp`` plus
    the leeway.

    That is after five minutes where simplejwt's settings name no other time. With
    ``close_at_expiry`` False an expired token is refused all the same, but a connection that is
    open stays so for as long as its user may log in.
    """

    name = "token"

    def __init__(self, close_at_expiry: bool = True) -> None:
        self._closes = close_at_expiry
        self._validation = library("rest_framework_simplejwt.authentication", PACKAGE)
        self._not_valid = library("rest_framework.exceptions", PACKAGE).APIException
        self._backend = self._validation.JWTAuthentication()

    async def authenticate(self, token: str) -> Login | None:
        return await sync_to_async(self._authenticate)(token)

    def _authenticate(self, token: str) -> Login | None:
        try:
            validated = self._backend.get_validated_token(token.encode())
            user: Any = self._backend.get_user(validated)
        except (self._not_valid, ValidationError, *_NOT_A_TOKEN):
            return None
        leeway: float = validated.get_token_backend().get_leeway().total_seconds()
        return Login(user, expires_at=validated["exp"] + leeway if self._closes else None)
