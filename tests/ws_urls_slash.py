"""Routes with a beginner's mistake: a slash in front."""

from django_ws import WebSocketHandler
from tests.routes import path

urlpatterns = [path("/ws/echo/", WebSocketHandler)]
