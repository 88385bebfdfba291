"""The middleware classes: one for each kind of token."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from django_ws import conf
from django_ws.auth.tokens import (
    Authenticator,
    JSONWebTokenAuthenticator,
    RestTokenAuthenticator,
    SesameAuthenticator,
    SimpleJWTAuthenticator,
    TicketAuthenticator,
)
from django_ws.auth.tokens.simplejwt import header_of_simplejwt
from django_ws.middleware.token import TokenMiddleware


class TokenAuthMiddleware(TokenMiddleware):
    """The tokens of Django REST framework: ``Authorization: Token <key>``, ``Token.<key>``.

    ``model``, in a subclass, names another model with the fields ``key`` and ``user``:
    a class, or "app_label.Model".
    """

    keyword = "Token"
    model: Any = None

    def build_authenticator(self) -> Authenticator:
        return RestTokenAuthenticator(self.model)


class JWTAuthMiddleware(TokenMiddleware):
    """JSON Web Tokens: ``Authorization: Bearer <jwt>``, the subprotocol ``Bearer.<jwt>``.

    Validated by PyJWT where ``WS_JWT`` is set, otherwise by djangorestframework-simplejwt and
    its own settings. With ``close_at_expiry = False``, in a subclass or in ``WS_JWT``, open
    connections outlive the token's ``exp``.
    """

    keyword = "Bearer"
    close_at_expiry: bool | None = None  # as WS_JWT says; True where that says nothing

    def build_authenticator(self) -> Authenticator:
        if conf.get().ws_jwt is not None:
            return JSONWebTokenAuthenticator(self.close_at_expiry)
        if find_spec("rest_framework_simplejwt") is not None:
            if type(self).keyword == JWTAuthMiddleware.keyword:
                self.header, self.schemes = header_of_simplejwt()
            return SimpleJWTAuthenticator(self.close_at_expiry is not False)
        raise ImproperlyConfigured(
            "JWTAuthMiddleware: neither is WS_JWT set nor djangorestframework-simplejwt "
            "installed. Set WS_JWT to a dict such as {'key': ..., 'algorithms': ['ES256']} and "
            "pip install PyJWT, or pip install djangorestframework-simplejwt."
        )


class SesameAuthMiddleware(TokenMiddleware):
    """The tokens of django-sesame: ``Authorization: Sesame <token>``, ``Sesame.<token>``.

    ``scope`` and ``max_age`` (seconds or a ``timedelta``), in a subclass, are those of
    ``sesame.utils.get_user``.
    """

    keyword = "Sesame"
    scope: str = ""
    max_age: Any = None

    def build_authenticator(self) -> Authenticator:
        return SesameAuthenticator(self.scope, self.max_age)


class TicketAuthMiddleware(TokenMiddleware):
    """The tickets of ``django_ws.auth.make_ticket``: ``?ticket=<ticket>``.

    They may stand in the URL whatever ``WS_TOKEN_IN_URL`` says: a log keeps them, but by then
    they are used up. ``Authorization: Ticket <ticket>`` and the subprotocol work as well.
    """

    keyword = "Ticket"
    always_in_url = True

    def build_authenticator(self) -> Authenticator:
        return TicketAuthenticator()
