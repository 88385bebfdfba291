"""System checks, which ``docs/checks.md`` lists. Each file has those of one subject."""

from __future__ import annotations

from django.core.checks import Tags, register

from django_ws.checks.broadcast import check_broadcast, check_reach
from django_ws.checks.guard import guarded
from django_ws.checks.limits import check_limits
from django_ws.checks.middleware import check_middleware
from django_ws.checks.origins import check_listed_origins, check_origins, check_proxy_header
from django_ws.checks.routes import check_routes
from django_ws.checks.runserver import check_runserver
from django_ws.checks.serving import check_application, check_websocket_library
from django_ws.checks.settings import check_settings
from django_ws.checks.tickets import check_tickets

TAG = "django_ws"

for _check in (
    check_settings,
    check_middleware,
    check_routes,
    check_broadcast,
    check_listed_origins,
    check_proxy_header,
    check_application,
    check_websocket_library,
    check_runserver,
):
    register(guarded(_check), TAG)
register(guarded(check_origins), TAG, Tags.security, deploy=True)
register(guarded(check_reach), TAG, deploy=True)
register(guarded(check_tickets), TAG, Tags.security, deploy=True)
register(guarded(check_limits), TAG, Tags.security, deploy=True)
