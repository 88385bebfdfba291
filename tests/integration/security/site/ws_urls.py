"""The WebSocket routes of the site that is attacked."""

from django.urls import path, re_path

from tests.integration.security.site import handlers

urlpatterns = [
    path("echo/", handlers.Echo),
    path("text/", handlers.TextEcho),
    path("bytes/", handlers.BytesEcho),
    path("packed/", handlers.PackedEcho),
    path("sync/", handlers.SyncEcho),
    path("mixed/", handlers.MixedEcho),
    path("limited/", handlers.Limited),
    path("topics/", handlers.Topics),
    path("changing/", handlers.Changing),
    path("news/", handlers.News),
    path("private/", handlers.Private),
    path("slow/", handlers.Slow),
    path("first/", handlers.FirstMessage),
    path("hangs/", handlers.Hangs),
    path("numbers/", handlers.Numbers),
    path("item/<int:number>/<slug:name>/<path:rest>", handlers.Echo),
    re_path(r"^any/(?P<word>.*)$", handlers.Echo),
]
