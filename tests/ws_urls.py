"""The WebSocket routes of the tests."""

from django.urls import URLPattern, URLResolver, path

from django_ws import WebSocketHandler


class EchoHandler(WebSocketHandler):
    async def on_message(self, message: object) -> None:
        await self.send(message)


urlpatterns: list[URLPattern | URLResolver] = [path("echo/", EchoHandler, name="echo")]
