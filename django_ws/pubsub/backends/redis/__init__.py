"""Broadcasts through one Redis server, or a set with Sentinel. Start with ``backend.py``.

For a list of cluster nodes it chooses ``redis_cluster``.
"""

from django_ws.pubsub.backends.redis.backend import RedisBackend, RedisPublisher

__all__ = ["RedisBackend", "RedisPublisher"]
