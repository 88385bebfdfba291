"""Serves HTTP requests, and closes the database connections that they leave open.

Django's ASGI handler gives each request a thread of its own, which ends with it. With
``CONN_MAX_AGE`` the connection in it stays open and is found by nobody again, until the database
takes no more.
"""

from __future__ import annotations

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async
from django.db import connections

from django_ws.types import ASGIApplication, Receive, Scope, Send


async def serve_page(
    application: ASGIApplication, scope: Scope, receive: Receive, send: Send
) -> None:
    """Run the application, and close the database connections in the request's own thread."""
    async with ThreadSensitiveContext() as context:  # Django takes this one over
        try:
            await application(scope, receive, send)
        finally:
            # Without a thread there is nothing to close.
            if context in SyncToAsync.context_to_thread_executor:
                await sync_to_async(_close_left_over)()


def _close_left_over() -> None:
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None:  # CONN_MAX_AGE = 0 has closed it already
            connection.close()
