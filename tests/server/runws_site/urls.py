"""A page that tells which worker answers, and how it was asked."""

import gc
import os

from django.http import HttpRequest, JsonResponse
from django.urls import path


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


urlpatterns = [path("", answer)]
