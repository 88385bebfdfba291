"""What both commands do: listen, then serve until a signal ends it."""

from __future__ import annotations

import functools
import logging
import socket
from collections.abc import Callable

import uvicorn
from uvicorn.supervisors import ChangeReload

from django_ws.server.access_log import configure_logging, guard_logging
from django_ws.server.binding import BindError, Listening
from django_ws.server.loading import CANNOT_START
from django_ws.server.options import Options
from django_ws.server.supervisor import Supervisor
from django_ws.server.worker import serve_until_changed

logger = logging.getLogger("uvicorn.error")


def serve(
    application: str, options: Options, configure_more: Callable[[], object] = lambda: None
) -> int:
    """Serve ``"package.module:attribute"``; the exit code. For the main thread alone.

    ``configure_more`` configures logging further, where that was done already.
    """
    configure_logging(options)
    configure_more()
    guard_logging(options)
    listening = Listening()
    try:
        listening.open(options.bind, options.backlog)
    except BindError as error:
        logger.error("%s", error)
        return CANNOT_START
    try:
        for address in listening.shown("https" if options.ssl_certfile else "http"):
            logger.info("Listening on %s", address)
        if options.reload:
            return serve_and_reload(application, options, listening.sockets)
        return Supervisor(application, options, listening.sockets).run()
    finally:
        listening.close()


def serve_and_reload(application: str, options: Options, sockets: list[socket.socket]) -> int:
    """One worker, which uvicorn's own reloader starts anew."""
    config = uvicorn.Config(application, reload=True, log_config=None)
    target = functools.partial(serve_until_changed, application, options)
    ChangeReload(config, target=target, sockets=sockets).run()
    return 0
