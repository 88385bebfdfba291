"""A handshake step by step, and what its answer means. Start with ``probe.py``."""
