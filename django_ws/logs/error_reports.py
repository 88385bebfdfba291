"""Reports an exception in the user's code: in the log, and by Django's signal."""

from __future__ import annotations

import asyncio
import logging
import traceback
from typing import Protocol

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.signals import got_request_exception
from django.http import HttpRequest

from django_ws.logs.printable import printable
from django_ws.logs.throttled import ThrottledLog

logger = logging.getLogger("django.ws.request")

# One broadcast can fail in the hooks of thousands of connections.
_of_broadcasts = ThrottledLog(logger, logging.WARNING, "exceptions in hooks of broadcasts")


class Request(Protocol):
    """The handshake, as far as a report needs it."""

    @property
    def path(self) -> str: ...

    def for_reports(self) -> HttpRequest:
        """Without what no report may show."""


async def report_error(
    sender: type,
    request: Request,
    connection_id: str,
    place: str,
    error: BaseException,
    *,
    is_of_broadcast: bool = False,
) -> None:
    """Log one exception with traceback, and send ``got_request_exception``.

    In a thread, as Django does it: a log handler may send mail, a receiver may use the network.
    What these raise is logged too, and goes no further. Of the exceptions in the hooks for
    broadcasts one of a kind is logged in 10 s, and the others are counted.
    """
    report = sync_to_async(_report)
    is_logged = not is_of_broadcast or _of_broadcasts.admits(
        (sender.__qualname__, place, type(error).__qualname__),
        "WebSocket %s: %s in %s",
        printable(request.path),
        type(error).__qualname__,
        place,
    )
    try:
        # Whatever happens to the connection meanwhile, the exception is reported.
        await asyncio.shield(report(sender, request, connection_id, place, error, is_logged))
    except Exception:
        try:
            logger.exception("WebSocket %s: reporting an exception failed", printable(request.path))
        except Exception:  # the log itself is broken
            traceback.print_exc()


def _report(
    sender: type,
    request: Request,
    connection_id: str,
    place: str,
    error: BaseException,
    is_logged: bool,
) -> None:
    user, shown = getattr(request, "user", None), request.for_reports()
    if is_logged:
        logger.error(
            "WebSocket %s: exception in %s (user %s, connection %s)",
            printable(shown.path),
            place,
            printable(str(user)),
            connection_id,
            exc_info=error,
            extra={"request": shown, "status_code": 500},
        )
    try:
        raise error  # receivers ask sys.exc_info()
    except BaseException:
        got_request_exception.send(sender=sender, request=shown)


def debug_reason(error: BaseException) -> str:
    """What the client may know of an exception: its type and text with DEBUG, else nothing."""
    return f"{type(error).__name__}: {error}" if settings.DEBUG else ""
