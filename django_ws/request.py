"""The handshake as a Django request."""

from __future__ import annotations

import io
from typing import Any, Self, cast
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.sessions.backends.base import SessionBase
from django.core.handlers.asgi import ASGIRequest, get_script_prefix
from django.http import QueryDict, parse_cookie
from django.utils.functional import cached_property
from django.views.debug import SafeExceptionReporterFilter

from django_ws import conf
from django_ws.conf.script_name import normal_script_name
from django_ws.conf.trusted_proxies import client_address
from django_ws.logs.redaction import report_filter, shown_query
from django_ws.session import ConnectionSession, connection_session
from django_ws.threads.caches import share_cache
from django_ws.types import Login, Scope

SCHEMES = {"ws": "http", "wss": "https"}


class WebSocketRequest(ASGIRequest):
    """The handshake, an HTTP GET, as Django's ``ASGIRequest`` for views, forms and templates.

    ``path``, ``GET``, ``COOKIES``, ``headers``, ``META``, ``resolver_match``, ``get_host()``,
    ``is_secure()`` (true for wss) and ``scope`` are there; ``session``, ``user`` and ``auser()``
    where a middleware sets them. The scope is the server's, unchanged.

    What an idle connection does not need (``META`` and the headers in it) is only built when
    it is asked for.
    """

    session_store: type[SessionBase] | None = None  # set by the middleware that knows it

    login: Login | None = None  # what the user's log-in rests on; set by the same middleware

    taken_tokens: tuple[tuple[str, str], ...] = ()  # which of its tokens have logged it in

    # Constants of every handshake: a GET without a body.
    method = "GET"
    content_type = ""
    content_params: dict[str, str] | None = {}
    _body = b""
    _post_parse_error = False
    _read_started = False
    _upload_handlers: list[Any] = []  # Django's own attribute, never filled

    def __init__(self, scope: Scope) -> None:
        # Not super().__init__: it would build META and read a body that does not exist.
        self.scope = scope
        self.path = scope["path"]
        self.script_name = normal_script_name(get_script_prefix(scope))
        self.path_info = self.path.removeprefix(self.script_name) or "/"
        self.resolver_match = None

    @cached_property
    def META(self) -> dict[str, Any]:  # type: ignore[override]
        http_scope = {**self.scope, "method": self.method, "query_string": self._query_string}
        return ASGIRequest(http_scope, io.BytesIO()).META

    @cached_property
    def GET(self) -> QueryDict:  # type: ignore[override]
        return QueryDict(self._query_string)

    @property
    def _query_string(self) -> str:
        # A browser percent-encodes; what else comes must not end in an exception.
        query: bytes = self.scope.get("query_string", b"")
        return query.decode("utf-8", "replace")

    @property
    def client_address(self) -> str | None:
        """The client's IP address; from X-Forwarded-For where ``WS_TRUSTED_PROXIES`` allows.

        None where it is not known: the peer came over a unix socket, and is not trusted.
        """
        return client_address(self.scope, conf.get().ws_trusted_proxies)

    @cached_property
    def COOKIES(self) -> dict[str, str]:  # type: ignore[override]
        # Not every server lowers the names, though ASGI asks for it.
        found = [value for name, value in self.scope["headers"] if name.lower() == b"cookie"]
        return parse_cookie(b"; ".join(found).decode("latin-1")) if found else {}

    @cached_property
    def session(self) -> ConnectionSession:  # type: ignore[override]
        """The session of the cookie, opened at its first use."""
        if self.session_store is None:
            raise AttributeError("this request has no session: AuthMiddleware gives it one")
        key = self.COOKIES.get(settings.SESSION_COOKIE_NAME)
        if key is not None and not (key.isascii() and key.isprintable()):
            key = None  # no engine makes such a key, and some databases raise for a NUL
        session = self.session_store(key)
        share_cache(session)
        return connection_session(session)

    @property
    def _stream(self) -> io.BytesIO:  # type: ignore[override]  # a new one each time, since Django closes it
        return io.BytesIO()

    async def auser(self) -> Any:
        """The user, loaded before any hook runs; ``AttributeError`` without AuthMiddleware."""
        return self.user

    def __repr__(self) -> str:
        # Without the query string, which may hold a token.
        return f"<{type(self).__name__}: {self.method} {self.path!r}>"

    def for_reports(self) -> Self:
        """Itself, or a copy without the values of the query string that may be secrets.

        Error reports show the query string in several places, and no filter is asked. They ask
        for ``GET`` too, which must not raise there, however many fields there are.
        """
        shown = shown_query(self._query_string)
        if shown is None:
            return self
        fields = QueryDict(mutable=True)
        for name, value in shown:
            fields.appendlist(name, value)
        query = urlencode(shown, safe="*")
        copy = type(self)(cast(Scope, self.scope))
        copy.__dict__ |= vars(self)
        copy.__dict__ |= {"GET": fields, "META": {**self.META, "QUERY_STRING": query}}
        copy.__dict__.pop("headers", None)  # made from META
        return copy

    @property
    def scheme(self) -> str:
        """``https`` or ``http``, by ``SECURE_PROXY_SSL_HEADER`` where that is set.

        Proxies say ``wss`` or ``https`` of the same socket (Traefik the one, nginx the other).
        """
        scheme: str = super().scheme or "http"
        if settings.SECURE_PROXY_SSL_HEADER and scheme == "http":
            header, secure_value = settings.SECURE_PROXY_SSL_HEADER
            said = self.META.get(header, "").partition(",")[0].strip()  # the first, as in Django
            return SCHEMES.get(said, scheme) if secure_value == "https" else scheme
        return scheme

    def _get_scheme(self) -> str:
        scheme: str = self.scope.get("scheme", "ws")
        return SCHEMES.get(scheme, scheme)

    @property
    def exception_reporter_filter(self) -> SafeExceptionReporterFilter:  # type: ignore[override]
        """What hides secrets in error reports: Django's filter, and those of this handshake."""
        return report_filter(cast(Scope, self.scope), self.COOKIES)
