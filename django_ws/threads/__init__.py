"""Sync code beside the event loop: bounded threads, and calls from any thread.

Start with ``pool.py``.
"""
