"""The ASGI state machine of one socket. Start with ``connection.py``."""
