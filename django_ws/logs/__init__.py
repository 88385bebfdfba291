"""What goes into logs and error reports: bounded in number, printable, and without secrets.

Start with ``throttled.py``.
"""
