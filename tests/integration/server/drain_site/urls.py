"""A page, and one that takes until the server drains."""

import asyncio
import os

from django.http import HttpRequest, HttpResponse
from django.urls import path

from django_ws.drain import is_draining


def index(request: HttpRequest) -> HttpResponse:
    return HttpResponse("a page by Django", content_type="text/plain")


async def slow(request: HttpRequest) -> HttpResponse:
    while not is_draining():  # noqa: ASYNC110 - there is no event to be awaited
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.3)  # most sockets are closed meanwhile
    return HttpResponse(f"finished by {os.getpid()}", content_type="text/plain")


urlpatterns = [path("", index), path("slow/", slow)]
