"""Broadcasts through ZeroMQ, with a broker that the library brings. Start with ``backend.py``."""

from django_ws.pubsub.backends.zeromq.backend import ZeroMQBackend, ZeroMQPublisher

__all__ = ["ZeroMQBackend", "ZeroMQPublisher"]
