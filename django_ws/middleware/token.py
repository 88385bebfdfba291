"""Log-in by a token in the handshake: finds the token, and checks it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from typing import ClassVar, NamedTuple

from django_ws import conf
from django_ws.auth.tokens.authenticator import Authenticator, Secret, authenticate
from django_ws.handler import WebSocketHandler
from django_ws.logs.printable import printable
from django_ws.logs.throttled import ThrottledLog

logger = logging.getLogger("django.ws.request")

_invalid = ThrottledLog(logger, logging.WARNING, "handshakes with tokens that are not valid")
_ignored = ThrottledLog(logger, logging.WARNING, "tokens in URLs that were ignored")


SUBPROTOCOL = "in the subprotocol"


class Found(NamedTuple):
    """A token, and where it was: several middlewares may find the same."""

    place: str
    name: str  # the keyword, or the parameter of the URL
    token: Secret

    @property
    def origin(self) -> tuple[str, str]:
        return self.place, self.name


class TokenMiddleware(ABC):
    """Logs in who brings a token; the base of one class for each kind of token.

    It is looked for in the header ``Authorization: <keyword> <token>``, then in the subprotocol
    ``<keyword>.<token>`` (browsers can set no header), then, where ``WS_TOKEN_IN_URL`` is True,
    in the query string. The first that is found counts: it sets ``request.user`` and
    ``request.login``, or the handshake is refused with 401. Where several of them are listed
    and find the same token, the first that takes it counts, and the last refuses it. Without a
    token the user of a middleware further out stays, so list this one after ``AuthMiddleware``.
    """

    keyword: ClassVar[str]
    always_in_url: ClassVar[bool] = False
    # Those listed behind this one, which find their token behind it; set when the chain is built.
    inner: Sequence[TokenMiddleware] = ()

    def __init__(self, func: Callable[[WebSocketHandler], Awaitable[None]]) -> None:
        # Here and not above: models can only be imported once Django is set up.
        from django.contrib.auth.models import AnonymousUser

        self.func = func
        self.anonymous_user = AnonymousUser
        self.header = "Authorization"
        self.schemes: Sequence[str] = [self.keyword]  # in front of the token in that header
        self.authenticator = self.build_authenticator()
        self._header = self.header.lower().encode()
        self._schemes = {scheme.lower() for scheme in self.schemes}

    @abstractmethod
    def build_authenticator(self) -> Authenticator:
        """Called once. Raises ``ImproperlyConfigured`` naming what is missing.

        It may set ``header`` and ``schemes`` where the tokens' own settings name others.
        """

    async def __call__(self, ws: WebSocketHandler) -> None:
        request = ws.request
        found = self.find(ws)
        if found is not None and found.place == SUBPROTOCOL:
            self._answer_subprotocol(ws)
        if found is None:
            self._tell_of_ignored(ws)
        elif found.origin not in request.taken_tokens:
            login = await authenticate([self.authenticator], found.token)
            if login is not None:
                request.user = login.user
                request.login = login
                request.taken_tokens = (*request.taken_tokens, found.origin)
            elif not self._is_left_to_another(ws, found):
                path = printable(request.path)
                _invalid.log(
                    (path, found.origin),
                    "WebSocket %s refused with 401: the %s %s is not valid, or no more",
                    path,
                    self.authenticator.name,
                    found.place,
                )
                await ws.reject(401, "Unauthorized")
                return
        if not hasattr(request, "user"):
            request.user = self.anonymous_user()
        await self.func(ws)

    def _is_left_to_another(self, ws: WebSocketHandler, found: Found) -> bool:
        finds = [each.find(ws) for each in self.inner]
        return any(each is not None and each.origin == found.origin for each in finds)

    def find(self, ws: WebSocketHandler) -> Found | None:
        """The token that this middleware would look at."""
        return self._in_header(ws) or self._in_subprotocol(ws) or self._in_url(ws)

    def _in_header(self, ws: WebSocketHandler) -> Found | None:
        for name, value in ws.request.scope["headers"]:
            if name.lower() == self._header:
                scheme, _, token = value.decode("latin-1").strip().partition(" ")
                if scheme.lower() in self._schemes:
                    place = f"in the header {self.header}"
                    return Found(place, scheme.lower(), Secret(token.strip()))
        return None

    def _in_subprotocol(self, ws: WebSocketHandler) -> Found | None:
        start = f"{self.keyword}."
        for name in ws.request.scope.get("subprotocols") or ():
            if name.startswith(start):
                return Found(SUBPROTOCOL, self.keyword, Secret(name.removeprefix(start)))
        return None

    def _answer_subprotocol(self, ws: WebSocketHandler) -> None:
        """A browser fails a connection that answers none of what it offers."""
        offered = ws.request.scope["subprotocols"]
        if all(name.startswith(f"{self.keyword}.") for name in offered):
            ws._connection.token_subprotocol = offered[0]

    def _in_url(self, ws: WebSocketHandler) -> Found | None:
        if not self._is_in_url(ws) or not (self.always_in_url or conf.get().ws_token_in_url):
            return None
        name = self.authenticator.name
        return Found("in the URL", name, Secret(str(ws.request.GET[name])))

    def _is_in_url(self, ws: WebSocketHandler) -> bool:
        name = self.authenticator.name
        query: bytes = ws.request.scope.get("query_string", b"")
        return f"{name}=".encode() in query and name in ws.request.GET

    def _tell_of_ignored(self, ws: WebSocketHandler) -> None:
        """Once, where several look for it."""
        name = self.authenticator.name
        if self._is_in_url(ws) and not any(each.authenticator.name == name for each in self.inner):
            path = printable(ws.request.path)
            _ignored.log(
                (path, name),
                "WebSocket %s: the %s in the URL is ignored, since logs would keep it: send it "
                "in a header, a subprotocol or the first message, or set WS_TOKEN_IN_URL = True",
                path,
                name,
            )
