"""The site's pages."""

from django.http import HttpRequest, HttpResponse
from django.urls import include, path


def index(request: HttpRequest) -> HttpResponse:
    return HttpResponse("a page by Django", content_type="text/plain")


urlpatterns = [path("", index), path("ws-health/", include("django_ws.health"))]
