"""A page that tells which worker answers, and how it was asked."""

import gc
import os

from django.http import HttpRequest, JsonResponse
from django.urls import path, reverse

from django_ws import ws_reverse


def answer(request: HttpRequest) -> JsonResponse:
    response = JsonResponse(
        {
            "pid": os.getpid(),
            "scheme": request.scheme,
            "address": request.META.get("REMOTE_ADDR"),
            "path": request.path,
            "frozen": gc.get_freeze_count(),
            "thresholds": gc.get_threshold(),
        }
    )
    response["Content-Length"] = str(len(response.content))
    return response


def where(request: HttpRequest) -> JsonResponse:
    """What a page knows of its place."""
    response = JsonResponse(
        {
            "path": request.path,
            "path_info": request.path_info,
            "page": reverse("where"),
            "socket": ws_reverse("where"),
        }
    )
    response["Content-Length"] = str(len(response.content))
    return response


urlpatterns = [path("", answer), path("where/", where, name="where")]
