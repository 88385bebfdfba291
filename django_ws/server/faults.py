"""Aborts one faulty connection, so that the fault does not end the server."""

from __future__ import annotations

import logging
from typing import Any

from django_ws.logs.throttled import ThrottledLog

logger = logging.getLogger("uvicorn.error")

_faults = ThrottledLog(logger, logging.ERROR, "connections aborted for a fault of the server")


def abort_faulty(connection: Any, done: str, error: Exception) -> None:
    """For what is done with many connections, one after the other, when one has raised."""
    transport = getattr(connection, "transport", None)  # one that begins TLS has none yet
    _faults.log(
        (done, type(error).__name__),
        "A connection could not be %s, and is aborted (%s, %s)",
        done,
        type(connection).__name__,
        type(transport).__name__,
        exc_info=error,
    )
    if transport is not None:
        transport.abort()
