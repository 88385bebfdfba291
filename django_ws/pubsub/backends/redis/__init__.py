"""Broadcasts through one Redis server, or a set with Sentinel. Start with ``backend.py``."""

from django_ws.pubsub.backends.redis.backend import RedisBackend, RedisPublisher

__all__ = ["RedisBackend", "RedisPublisher"]
