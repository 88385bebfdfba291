"""Log-in and permissions of connections. Start with ``login.py``, then ``access.py``."""

from django_ws.auth.access import (
    LoginRequiredMixin,
    PermissionRequiredMixin,
    UserPassesTestMixin,
)
from django_ws.auth.first_message import FirstMessageAuthMixin
from django_ws.auth.tokens.ticket import amake_ticket, make_ticket

__all__ = [
    "FirstMessageAuthMixin",
    "LoginRequiredMixin",
    "PermissionRequiredMixin",
    "UserPassesTestMixin",
    "amake_ticket",
    "make_ticket",
]
