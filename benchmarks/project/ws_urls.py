"""The routes. Every application under measurement answers on the same paths."""

from django.urls import path

from benchmarks.project.handlers import (
    EchoHandler,
    PingHandler,
    SpeakHandler,
    StoreHandler,
    TextEchoHandler,
    TopicsHandler,
)

urlpatterns = [
    path("text/", TextEchoHandler),
    path("json/", EchoHandler),
    path("ping/", PingHandler),
    path("topics/<str:topics>/", TopicsHandler),
    path("speak/", SpeakHandler),
    path("store/", StoreHandler),
]
