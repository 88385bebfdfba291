"""The routes. Every application under measurement answers on the same paths."""

from django.urls import path

from benchmarks.project.handlers import EchoHandler, PingHandler, TextEchoHandler

urlpatterns = [
    path("text/", TextEchoHandler),
    path("json/", EchoHandler),
    path("ping/", PingHandler),
]
