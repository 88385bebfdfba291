"""JSON Web Tokens, validated by PyJWT as the setting ``WS_JWT`` says."""

from __future__ import annotations

import logging
from typing import Any

from django.contrib.auth import get_user_model
from django.core.exceptions import (
    FieldDoesNotExist,
    ImproperlyConfigured,
    MultipleObjectsReturned,
    ObjectDoesNotExist,
    ValidationError,
)
from django.db import DataError

from django_ws import conf
from django_ws.auth.login import Login
from django_ws.auth.tokens.authenticator import library

logger = logging.getLogger("django.ws.request")


class JSONWebTokenAuthenticator:
    """Tokens that another service has signed. The log-in ends at ``exp`` plus the leeway.

    With ``close_at_expiry`` False (of ``WS_JWT`` where it is None here) an expired token is
    refused all the same, but a connection that is open stays so for as long as its user may log
    in. So it does with a token without ``exp``. A token with an ``aud`` is only valid where
    ``WS_JWT`` names that audience. Raises ``ImproperlyConfigured`` where ``WS_JWT`` is not set,
    or its key does not fit its algorithms.
    """

    name = "token"

    def __init__(self, close_at_expiry: bool | None = None) -> None:
        self._jwt = library("jwt", "PyJWT")
        config = conf.get().ws_jwt
        if config is None:
            raise ImproperlyConfigured(
                "WS_JWT is not set. Set it to a dict such as {'key': ..., 'algorithms': ['ES256']}."
            )
        self._config = config
        self._closes = config.close_at_expiry if close_at_expiry is None else close_at_expiry
        for algorithm in config.algorithms:
            self._check_key(algorithm)
        self._users = get_user_model()._default_manager
        if config.user_field != "pk":
            try:
                get_user_model()._meta.get_field(config.user_field)
            except FieldDoesNotExist as error:
                raise ImproperlyConfigured(f"WS_JWT['user_field']: {error}.") from None

    def _check_key(self, algorithm: str) -> None:
        try:
            self._jwt.get_algorithm_by_name(algorithm).prepare_key(self._config.key)
        except NotImplementedError:
            raise ImproperlyConfigured(
                f"WS_JWT['algorithms']: PyJWT cannot verify {algorithm}: "
                "pip install cryptography, or correct the name."
            ) from None
        except Exception as error:
            raise ImproperlyConfigured(
                f"WS_JWT['key'] is not a key for {algorithm} ({type(error).__name__}). Give the "
                "secret for HS algorithms, the public key as PEM text for the others."
            ) from None  # its text, or a frame's, might show the key

    async def authenticate(self, token: str) -> Login | None:
        claims = self._claims(token)
        user = None if claims is None else await self._user(claims.get(self._config.user_claim))
        if claims is None or user is None:
            return None
        expires = claims.get("exp")
        if expires is None:
            return Login(user)
        try:
            expires_at = float(int(expires) + self._config.leeway)
        except OverflowError:  # an int that is no time
            return None
        return Login(user, expires_at=expires_at if self._closes else None)

    def _claims(self, token: str) -> dict[str, Any] | None:
        config = self._config
        try:
            claims: dict[str, Any] = self._jwt.decode(
                token,
                config.key,
                algorithms=list(config.algorithms),
                audience=config.audience,
                issuer=config.issuer,
                leeway=config.leeway,
                options={"verify_sub": False},  # many issuers write numbers
            )
        except Exception as error:  # of whatever kind: a client wrote the token
            # The text of the exception may show parts of it.
            logger.debug("a JSON Web Token is not valid: %s", type(error).__name__)
            return None
        return claims

    async def _user(self, identity: Any) -> Any:
        if not isinstance(identity, str | int) or isinstance(identity, bool):
            return None
        try:
            user = await self._users.aget(**{self._config.user_field: identity})
        except (ObjectDoesNotExist, MultipleObjectsReturned):
            return None
        except (ValueError, TypeError, OverflowError, ValidationError, DataError):
            return None  # not of the field's type, or nothing that the database can hold
        return user if user.is_active else None
