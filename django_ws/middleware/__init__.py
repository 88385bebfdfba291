"""The middleware that ships with django_ws, by the names that ``WS_MIDDLEWARE`` lists."""

from django_ws.middleware.session import AuthMiddleware

__all__ = ["AuthMiddleware"]
