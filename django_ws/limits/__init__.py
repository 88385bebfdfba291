"""How much clients may do: handshakes, connections, messages, time.

Start with ``connection_limits.py``.
"""
