"""The middleware that ships with django_ws, by the names that ``WS_MIDDLEWARE`` lists."""

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
