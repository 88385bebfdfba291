"""WebSockets for Django: handler classes on ASGI."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "2.0.0.dev0"

if TYPE_CHECKING:
    from django_ws.asgi import get_websocket_application
    from django_ws.close_codes import CloseCode
    from django_ws.exceptions import ConnectionClosed, Reject
    from django_ws.handler import WebSocketHandler
    from django_ws.lifecycle.tasks import TASK_DUPLICATE_STARTED, TASK_WS_CLOSED
    from django_ws.pubsub.publish import (
        abroadcast,
        abroadcast_many,
        adisconnect,
        broadcast,
        broadcast_many,
        broadcast_on_commit,
        disconnect,
    )
    from django_ws.pubsub.topics import connection_topic, user_topic
    from django_ws.request import WebSocketRequest
    from django_ws.routing.resolve import ws_reverse, ws_url

__all__ = [
    "TASK_DUPLICATE_STARTED",
    "TASK_WS_CLOSED",
    "CloseCode",
    "ConnectionClosed",
    "Reject",
    "WebSocketHandler",
    "WebSocketRequest",
    "__version__",
    "abroadcast",
    "abroadcast_many",
    "adisconnect",
    "broadcast",
    "broadcast_many",
    "broadcast_on_commit",
    "connection_topic",
    "disconnect",
    "get_websocket_application",
    "user_topic",
    "ws_reverse",
    "ws_url",
]

_MODULES = {
    "broadcast": "pubsub.publish",
    "abroadcast": "pubsub.publish",
    "broadcast_many": "pubsub.publish",
    "abroadcast_many": "pubsub.publish",
    "broadcast_on_commit": "pubsub.publish",
    "disconnect": "pubsub.publish",
    "adisconnect": "pubsub.publish",
    "connection_topic": "pubsub.topics",
    "user_topic": "pubsub.topics",
    "TASK_DUPLICATE_STARTED": "lifecycle.tasks",
    "TASK_WS_CLOSED": "lifecycle.tasks",
    "CloseCode": "close_codes",
    "ConnectionClosed": "exceptions",
    "Reject": "exceptions",
    "WebSocketHandler": "handler",
    "WebSocketRequest": "request",
    "get_websocket_application": "asgi",
    "ws_reverse": "routing.resolve",
    "ws_url": "routing.resolve",
}


def __getattr__(name: str) -> Any:
    # Names are imported when first used: Django imports this package while it reads
    # INSTALLED_APPS, before anything that needs the settings may be imported.
    if name in _MODULES:
        return getattr(importlib.import_module(f"django_ws.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
