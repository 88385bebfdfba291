"""A URL for load balancers: whether this process can accept connections.

    path("ws-health/", include("django_ws.health"))

``/ws-health/`` answers 200, or 503 while broadcasts do not reach this process and while it
drains: the balancer should send new clients elsewhere. ``/ws-health/live/`` answers 200 as long as
the event loop turns: what restarts processes should ask this, since a restart cures no Redis.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from django_ws import conf, drain
from django_ws.pubsub.hub.registry import hub_of


@login_not_required
@never_cache
@require_safe
async def health(request: HttpRequest) -> HttpResponse:
    """What there is to know at this moment: nothing is asked of any server.

    A backend is connected where the orders to all processes are known to arrive. The answer names
    no host: ``broadcast`` has the aliases of ``WS_BROADCAST``, of which one is "default".
    """
    if not hasattr(request, "scope"):
        return _answer(503, status="no sockets here: this process serves WSGI")
    connected = {alias: hub_of(alias).is_connected for alias in conf.get().ws_broadcast}
    if drain.is_draining():
        status = "draining"
    elif all(connected.values()):
        status = "ok"
    else:
        status = "disconnected"
    return _answer(
        200 if status == "ok" else 503,
        status=status,
        broadcast={
            alias: "connected" if is_connected else "disconnected"
            for alias, is_connected in connected.items()
        },
        connections=len(drain.lives),
    )


@login_not_required
@never_cache
@require_safe
async def live(request: HttpRequest) -> HttpResponse:
    """It is answered, and that is all there is to say."""
    return _answer(200, status="ok")


def _answer(status_code: int, **content: Any) -> JsonResponse:
    return JsonResponse(content, status=status_code)


urlpatterns = [
    path("", health, name="ws_health"),
    path("live/", live, name="ws_live"),
]
