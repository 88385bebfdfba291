"""Broadcasts on their way from one event loop to the backend. Start with ``outbox.py``."""
