"""Runs the server for both commands: listens, then serves until a signal ends it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from django_ws.server.access_log import configure_logging, guard_logging
from django_ws.server.options import Options
from django_ws.server.workers.child import is_starting
from django_ws.server.workers.file_changes import Changes
from django_ws.server.workers.listening import BindError, Listening
from django_ws.server.workers.loading import CANNOT_START
from django_ws.server.workers.open_files import raise_limit
from django_ws.server.workers.supervisor import Supervisor

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
    if is_starting():
        logger.error(
            "A worker imports %s as it starts, which starts the server again. Put that below "
            'if __name__ == "__main__": as in the manage.py that startproject writes',
            sys.argv[0],
        )
        sys.exit(CANNOT_START)
    raise_limit()
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
            # Hooks get a second. One worker is enough for who changes files.
            options = replace(options, workers=1, graceful_timeout=1.0)
            with closing(Changes(application)) as changes:
                return Supervisor(application, options, listening.sockets, changes).run()
        return Supervisor(application, options, listening.sockets).run()
    finally:
        listening.close()
