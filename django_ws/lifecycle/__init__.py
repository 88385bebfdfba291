"""The life of a connection, from the handshake to the final clean-up. Start with ``run.py``."""
