"""The HTTP routes of the tests."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.urls import path


def index(request: HttpRequest) -> HttpResponse:
    return HttpResponse("hello from Django", content_type="text/plain")


urlpatterns = [
    path("", index, name="index"),
    path("admin/", admin.site.urls),
]
