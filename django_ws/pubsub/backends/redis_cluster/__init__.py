"""Broadcasts through a Redis Cluster, sharded where its servers can. Start with ``backend.py``."""
