"""Topics and broadcasts: hubs, backends and publishing."""

from django_ws.pubsub.publisher import Publisher

__all__ = ["Publisher"]
