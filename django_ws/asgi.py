"""get_websocket_application(): http to Django, websocket to the routes, lifespan."""

from __future__ import annotations

import logging
from typing import Any

import django
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.urls import Resolver404, ResolverMatch, set_script_prefix
from django.utils import translation

from django_ws import missed_upgrades
from django_ws.auth import signals
from django_ws.conf.installed import tell_what_is_missing
from django_ws.conf.script_name import normal_scope, normal_script_name
from django_ws.connection.connection import Connection
from django_ws.drain import is_draining, lives
from django_ws.handler import WebSocketHandler
from django_ws.lifecycle.run import Serving
from django_ws.lifespan import lifespan
from django_ws.limits.connection_limits import limits
from django_ws.limits.handshake_queue import handshake_queue_of, refuse_for_now
from django_ws.logs.throttled import ThrottledLog
from django_ws.middleware.chain import chain
from django_ws.origin import Refusal, check_origin, without_cookies
from django_ws.pages import serve_page
from django_ws.request import WebSocketRequest
from django_ws.routing import resolve
from django_ws.types import ASGIApplication, Receive, Scope, Send

logger = logging.getLogger("django.ws.request")

_foreign = ThrottledLog(logger, logging.WARNING, "handshakes refused for their origin or host")
_cookies = ThrottledLog(logger, logging.INFO, "handshakes whose cookies do not count")
_unknown_paths = ThrottledLog(logger, logging.INFO, "handshakes on unknown paths")


def get_websocket_application(http_app: ASGIApplication | None = None) -> WebSocketApplication:
    """Set Django up and give the ASGI application of the whole site.

    ``http`` goes to Django, or to ``http_app``; ``websocket`` goes to the routes of
    ``ROOT_WS_URLCONF``; ``lifespan`` is answered, and ``http_app`` takes part in it where it
    can. Call it in ``asgi.py`` in the place of ``get_asgi_application()``.
    """
    django.setup(set_prefix=False)
    if settings.FORCE_SCRIPT_NAME:
        # With a slash at its end Django finds no page, though it makes good URLs.
        settings.FORCE_SCRIPT_NAME = normal_script_name(settings.FORCE_SCRIPT_NAME)
    signals.connect()
    missed_upgrades.connect()
    tell_what_is_missing()
    return WebSocketApplication(http_app)


class WebSocketApplication:
    """The ASGI application. One serves any number of connections and event loops."""

    def __init__(self, http_app: ASGIApplication | None = None) -> None:
        self.http_app = http_app
        self._http: Any = http_app or ASGIHandler()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("root_path"):
            scope = normal_scope(scope)
        match scope["type"]:
            case "websocket":
                handler = await new_handler(scope, receive, send)
                if handler is not None:
                    lives.add(life := handler._alive)
                    try:
                        run_chain = chain()
                        async with Serving(life):
                            await run_chain(handler)
                    finally:
                        lives.discard(life)
                        _leave(life.connection)
            case "lifespan":
                await lifespan(scope, receive, send, self.http_app)
            case _:
                if self.http_app is not None:  # which may send no signal of Django's
                    missed_upgrades.look_at(scope)
                await serve_page(self._http, scope, receive, send)


async def new_handler(scope: Scope, receive: Receive, send: Send) -> WebSocketHandler | None:
    """The handler of a new connection; None where the handshake was refused.

    Returns before the connection's life begins: the frame of a coroutine is memory that every
    idle connection would pay for.
    """
    event = await receive()
    if event["type"] != "websocket.connect":
        return None  # the client left before the server called
    connection = Connection(scope, receive, send)
    request = _request_of(connection)
    if request is None or (match := _match_of(connection, request)) is None:
        await _finish_refusal(connection)
        return None
    limits.enter()  # also who waits: otherwise any number could
    queue = handshake_queue_of(connection.loop)
    try:
        if queue.admits(connection, match.func) or await queue.wait(connection, match.func):
            return resolve.new_handler(match, connection, request)
    except BaseException:
        _leave(connection)
        connection.release()
        raise
    _leave(connection)
    await _finish_refusal(connection)
    return None


def _request_of(connection: Connection) -> WebSocketRequest | None:
    """The handshake; None where it is refused for its origin, or since there is no room."""
    scope = connection.scope
    try:
        cookies_count = check_origin(scope)
    except Refusal as refusal:
        _foreign.log(
            refusal.message,
            "WebSocket %s refused with %d: %s (client %s)",
            connection.path,
            refusal.status,
            refusal.message,
            WebSocketRequest(scope).client_address or "unknown",
        )
        connection.refuse(refusal.status)
        return None
    if not cookies_count:
        connection.scope = _without_cookies(scope, connection)
    if is_draining(connection.loop):
        refuse_for_now(connection)
        return None
    request = WebSocketRequest(connection.scope)
    return None if limits.is_full(connection, request) else request


def _match_of(connection: Connection, request: WebSocketRequest) -> ResolverMatch | None:
    """The route, for the request too; None where no route matches: refused with 404."""
    if request.script_name:
        set_script_prefix(f"{request.script_name}/")
    try:
        request.resolver_match = resolve.resolve(request.path_info)
    except Resolver404 as not_found:
        client = request.client_address or "unknown"
        path = connection.path
        _unknown_paths.log(
            path, "WebSocket %s refused with 404: no route (client %s)", path, client
        )
        connection.refuse(404, _tried(request, not_found) if settings.DEBUG else "Not Found")
        return None
    return request.resolver_match


def _without_cookies(scope: Scope, connection: Connection) -> Scope:
    kept = without_cookies(scope)
    if len(kept["headers"]) < len(scope["headers"]):
        _cookies.log(
            connection.path,
            "WebSocket %s: its cookies do not count, since any file and any page in a sandbox has "
            "the origin of this one: log in by a token or ticket",
            connection.path,
        )
    return kept


async def _finish_refusal(connection: Connection) -> None:
    """Let the server send the response; then the connection is not used any more."""
    try:
        await connection.settle()
    finally:
        connection.release()


def _leave(connection: Connection) -> None:
    """It no longer counts towards the limits."""
    limits.leave(connection)
    handshake_queue_of(connection.loop).leave(connection)


def _tried(request: WebSocketRequest, not_found: Resolver404) -> str:
    """The routes that were tried, for the developer."""
    tried = not_found.args[0].get("tried", []) if not_found.args else []
    with translation.override(resolve.language_of(request.path_info)):
        routes = ["".join(str(pattern.pattern) for pattern in patterns) for patterns in tried]
    lines = [f"No WebSocket route matches {request.path_info!r}. Tried, in order:", *routes, ""]
    if any(route.startswith("/") for route in routes):
        lines.append("Routes begin without a slash: remove it from those that have one.\n")
    return "\n".join(lines)
