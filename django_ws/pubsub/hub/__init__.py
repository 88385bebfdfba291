"""One hub for each event loop: who is subscribed here, and the delivery of what arrives.

Start with ``hub.py``.
"""
