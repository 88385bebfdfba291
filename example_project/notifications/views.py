"""The page of the site, and the token for the front end."""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_GET
from django.views.generic import TemplateView
from sesame.utils import get_token

from notifications.entries import viewable

FRONT_END: str = settings.FRONT_END  # type: ignore[misc] # mypy reads other settings
TOKEN_SCOPE = "notifications"  # the token is good for nothing else


class NotificationsPage(TemplateView):
    template_name = "notifications/notifications.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        user = self.request.user
        may_view = viewable(user) if isinstance(user, User) else {}
        return super().get_context_data(
            front_end=FRONT_END, may_view=sorted(set(may_view.values())), **kwargs
        )


@require_GET
def token(request: HttpRequest) -> HttpResponse:
    """The first message for the socket: ``{"token": ...}``, null for who is not logged in.

    The front end fetches it with the cookie of the site for each connection, so that it needs to
    live for seconds alone, stands in no URL, and a log-out is the end of it. (The session cookie
    is SameSite=Lax: a browser sends it along from another port or subdomain, not from another
    site. There the token would come some other way, such as a link of the site's page with the
    token in the fragment, which browsers send to no server.)
    """
    user = request.user
    value = get_token(user, scope=TOKEN_SCOPE) if user.is_authenticated else None
    response = JsonResponse({"token": value})
    response.headers["Cache-Control"] = "no-store"
    # CORS: the pages of this one origin may read the answer.
    patch_vary_headers(response, ["Origin"])
    if request.headers.get("Origin") == FRONT_END:
        response.headers["Access-Control-Allow-Origin"] = FRONT_END
        response.headers["Access-Control-Allow-Credentials"] = "true"
    return response
