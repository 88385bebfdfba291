"""The cases of the Autobahn test suite under today's Python, against any echo server.

``python -m tests.autobahn ws://127.0.0.1:9001/`` runs them by hand. Start reading in ``cases.py``.
"""
