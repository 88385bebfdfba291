"""Topics and broadcasts. Start with ``publish.py``, then ``hub/hub.py``."""

from django_ws.pubsub.publisher import Publisher

__all__ = ["Publisher"]
