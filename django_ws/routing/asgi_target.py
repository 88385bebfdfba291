"""Lets any ASGI application be a route, behind the origin check and the middleware."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from django.apps import apps

from django_ws import conf
from django_ws.connection.connection import Connection
from django_ws.exceptions import StateError
from django_ws.handler import WebSocketHandler
from django_ws.lifecycle.run import hand_over
from django_ws.request import WebSocketRequest
from django_ws.types import ASGIApplication, Scope

if TYPE_CHECKING:
    from django_ws.routing.diagnostics import Fault


class ASGIApplicationHandler(WebSocketHandler):
    """What stands for an ASGI application in the middleware chain: its ``_run`` calls it.

    The application gets a copy of the server's scope with ``url_route``, ``user``, ``session``
    and ``cookies``, as Channels' middleware would set them. From then on the connection is the
    application's: no time-out, limit or hook of a handler applies.
    """

    def __init__(
        self,
        connection: Connection,
        request: WebSocketRequest,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        application: ASGIApplication,
    ) -> None:
        super().__init__(connection, request, args, kwargs)
        self.application = application

    def subscribe(
        self, topics: str | Iterable[str], handler: Callable[[str, Any], Any] | None = None
    ) -> Awaitable[None]:
        """Raises ``StateError``: what is broadcast could not be sent past the application."""
        raise StateError("subscribe() on a route of an ASGI application: it has the connection")

    async def _run(self) -> None:
        """Raises ``ImproperlyConfigured`` for a target that fails because it is none."""
        try:
            await hand_over(self._alive, self.application, self._scope())
        except Exception as error:
            fault = self._fault()
            if fault is None:
                raise
            raise fault.error() from error

    def _fault(self) -> Fault | None:
        from django_ws.routing.diagnostics import target_fault  # only where something is wrong

        match = self.request.resolver_match
        route = "" if match is None else match.route
        return target_fault(conf.get().root_ws_urlconf, route, self.application)

    def _scope(self) -> Scope:
        request = self.request
        user = getattr(request, "user", None)
        return {
            **request.scope,
            "url_route": {"args": self.args, "kwargs": self.kwargs},
            "user": _anonymous_user() if user is None else user,
            "session": getattr(request, "session", {}),
            "cookies": request.COOKIES,
        }


def _anonymous_user() -> Any:
    """None in a project without users."""
    if not apps.is_installed("django.contrib.auth"):
        return None
    from django.contrib.auth.models import AnonymousUser  # needs Django to be set up

    return AnonymousUser()
