"""Log-in by a token in the handshake: where it is looked for, and what becomes of it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import ClassVar

from django_ws import conf
from django_ws.auth.tokens.authenticator import Authenticator, Secret, authenticate
from django_ws.handler import WebSocketHandler
from django_ws.printable import printable

logger = logging.getLogger("django.ws.request")


class TokenMiddleware(ABC):
    """Logs in who brings a token; the base of one class for each kind of token.

    It is looked for in the header ``Authorization: <keyword> <token>``, then in the subprotocol
    ``<keyword>.<token>`` (browsers can set no header), then, where ``WS_TOKEN_IN_URL`` is True,
    in the query string. The first that is found counts: it sets ``request.user`` and
    ``request.login``, or the handshake is refused with 401. Without a token the user of a
    middleware further out stays, so list this one after ``AuthMiddleware``.
    """

    keyword: ClassVar[str]
    always_in_url: ClassVar[bool] = False

    def __init__(self, func: Callable[[WebSocketHandler], Awaitable[None]]) -> None:
        # Here and not above: models can only be imported once Django is set up.
        from django.contrib.auth.models import AnonymousUser

        self.func = func
        self.anonymous_user = AnonymousUser
        self.authenticator = self.build_authenticator()

    @abstractmethod
    def build_authenticator(self) -> Authenticator:
        """Called once. Raises ``ImproperlyConfigured`` naming what is missing."""

    async def __call__(self, ws: WebSocketHandler) -> None:
        request = ws.request
        found = self._in_header(ws) or self._in_subprotocol(ws) or self._in_url(ws)
        if found is not None:
            place, token = found
            login = await authenticate([self.authenticator], token)
            if login is None:
                logger.warning(
                    "WebSocket %s refused with 401: the %s %s is not valid, or no more",
                    printable(request.path),
                    self.authenticator.name,
                    place,
                )
                await ws.reject(401, "Unauthorized")
                return
            request.user = login.user
            request.login = login
        elif not hasattr(request, "user"):
            request.user = self.anonymous_user()
        await self.func(ws)

    def _in_header(self, ws: WebSocketHandler) -> tuple[str, Secret] | None:
        for name, value in ws.request.scope["headers"]:
            if name.lower() == b"authorization":
                scheme, _, token = value.decode("latin-1").strip().partition(" ")
                if scheme.lower() == self.keyword.lower():
                    return "in the header Authorization", Secret(token.strip())
        return None

    def _in_subprotocol(self, ws: WebSocketHandler) -> tuple[str, Secret] | None:
        offered = ws.request.scope.get("subprotocols") or ()
        start = f"{self.keyword}."
        tokens = [name for name in offered if name.startswith(start)]
        if not tokens:
            return None
        if len(tokens) == len(offered):
            # A browser fails a connection that answers none of what it offers.
            ws._connection.token_subprotocol = tokens[0]
        return "in the subprotocol", Secret(tokens[0].removeprefix(start))

    def _in_url(self, ws: WebSocketHandler) -> tuple[str, Secret] | None:
        name = self.authenticator.name
        query: bytes = ws.request.scope.get("query_string", b"")
        if f"{name}=".encode() not in query or name not in ws.request.GET:
            return None
        if not (self.always_in_url or conf.get().ws_token_in_url):
            logger.warning(
                "WebSocket %s: the %s in the URL is ignored, since logs would keep it: send it "
                "in a header, a subprotocol or the first message, or set WS_TOKEN_IN_URL = True",
                printable(ws.request.path),
                name,
            )
            return None
        return "in the URL", Secret(str(ws.request.GET[name]))
