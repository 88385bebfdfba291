"""Routes with a beginner's mistake: a slash in front."""

from django_ws import WebSocketHandler
from tests.support.routes import path

urlpatterns = [path("/ws/echo/", WebSocketHandler)]
