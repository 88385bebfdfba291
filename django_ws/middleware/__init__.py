"""The middleware for ``WS_MIDDLEWARE``, and the chain. Start with ``chain.py``."""

from django_ws.middleware.session import AuthMiddleware
from django_ws.middleware.token import TokenMiddleware
from django_ws.middleware.tokens import (
    JWTAuthMiddleware,
    SesameAuthMiddleware,
    TicketAuthMiddleware,
    TokenAuthMiddleware,
)

__all__ = [
    "AuthMiddleware",
    "JWTAuthMiddleware",
    "SesameAuthMiddleware",
    "TicketAuthMiddleware",
    "TokenAuthMiddleware",
    "TokenMiddleware",
]
