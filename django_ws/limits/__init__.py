"""Limits on handshakes, connections, the rate of messages, and idle time.

Start with ``connection_limits.py``. The limit of topics is in ``lifecycle/subscriptions.py``, those
of sizes are in ``connection/``.
"""
