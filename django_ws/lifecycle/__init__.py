"""A connection from the handshake to the final clean-up. Start with ``phases.py``."""
