"""From a path to a handler. Start with ``resolve.py``."""
