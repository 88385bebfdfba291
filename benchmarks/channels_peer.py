"""Channels with the wrappers that its documentation puts around every application."""

import os
from typing import Any

import django
from channels.auth import AuthMiddlewareStack
from channels.generic.websocket import AsyncJsonWebsocketConsumer, AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "benchmarks.project.settings")
django.setup()


class TextConsumer(AsyncWebsocketConsumer):
    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data=text_data)


class JSONConsumer(AsyncJsonWebsocketConsumer):
    async def receive_json(self, content: Any) -> None:
        await self.send_json(content)


class TopicsConsumer(JSONConsumer):
    async def connect(self) -> None:
        for topic in self.scope["url_route"]["kwargs"]["topics"].split(","):
            await self.channel_layer.group_add(topic, self.channel_name)
        await self.accept()

    async def fan_out(self, event: dict[str, str]) -> None:
        await self.send(text_data=event["text"])


_routes = [
    path("text/", TextConsumer.as_asgi()),
    path("json/", JSONConsumer.as_asgi()),
    path("topics/<str:topics>/", TopicsConsumer.as_asgi()),
]
application = ProtocolTypeRouter(
    {"websocket": AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(_routes)))}
)
