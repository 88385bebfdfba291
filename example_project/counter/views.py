"""The token of whoever is logged in, and the page that connects with it."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.views.generic import TemplateView, View
from rest_framework.authtoken.models import Token

TOKEN_IN_URL: bool = settings.WS_TOKEN_IN_URL  # type: ignore[misc] # mypy reads other settings


class TokenPage(TemplateView):
    """Connects by the subprotocol; with ``?by=url``, where that is switched on, by the URL."""

    template_name = "counter/token.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        by_url = TOKEN_IN_URL and self.request.GET.get("by") == "url"
        return super().get_context_data(token_in_url=TOKEN_IN_URL, by_url=by_url, **kwargs)


class KeyView(View):
    """POST gives the key of the user's token, made if need be; DELETE revokes it.

    The page asks for it, so that the key stands in no HTML that is kept somewhere.
    """

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return JsonResponse({"error": "log in first"}, status=401)
        response = super().dispatch(request, *args, **kwargs)
        response.headers["Cache-Control"] = "no-store"
        return response

    def post(self, request: HttpRequest) -> HttpResponse:
        token, _ = Token.objects.get_or_create(user=request.user)
        return JsonResponse({"token": token.key})

    def delete(self, request: HttpRequest) -> HttpResponse:
        # All connections of the token end with 4401: django_ws hears of the deleted row.
        Token.objects.filter(user=request.user).delete()
        return HttpResponse(status=204)
