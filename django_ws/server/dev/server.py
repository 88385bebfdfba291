"""The server of `manage.py runserver`: uvicorn where Django's command expects its WSGI server.

Under Django's autoreloader it lives in a thread, where no signal arrives: the main thread calls
``stop`` as it leaves, before anything else is taken down.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from typing import Any, cast

from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler

from django_ws.conf.application_path import application_path
from django_ws.conf.importing import import_named
from django_ws.logs.causes import cause
from django_ws.server.base import BaseServer
from django_ws.server.config import Config, http_protocol, max_message_size, ws_protocol
from django_ws.server.dev.log import Lines
from django_ws.types import ASGIApplication, Receive, Scope, Send

logger = logging.getLogger("django.server")

# A reload shall be over soon, whatever hooks do. In seconds.
HOOK_SECONDS = 0.5  # for what handlers do after the close, and for responses
CANCEL_SECONDS = 0.3  # for what was cancelled then
EXIT_SECONDS = 0.5  # for threads that still run
QUIT_SECONDS = 5  # for all of it where there is no reloader


def application(static_files: bool) -> ASGIApplication:
    """What ``application_path()`` names, behind the static files if these are wanted.

    Raises ``ImproperlyConfigured`` where it cannot be imported.
    """
    path = application_path()
    try:
        found = import_named(path)
    except Exception as error:
        raise ImproperlyConfigured(
            f"ASGI_APPLICATION: cannot import {path!r} ({cause(error)}). Correct what raises, or "
            "name the variable in your asgi.py: ASGI_APPLICATION = 'mysite.asgi.application'."
        ) from error
    if static_files:
        found = ASGIStaticFilesHandler(cast(ASGIHandler, found))
    return cast(ASGIApplication, found)


class DevelopmentServer:
    """Has the methods of a ``WSGIServer`` that ``django.core.servers.basehttp.run`` calls.

    Making one binds the port; raises ``OSError`` where that is not possible.
    """

    def __init__(
        self, address: tuple[str, int], request_handler: Any = None, ipv6: bool = False
    ) -> None:
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        both = ipv6 and socket.has_dualstack_ipv6()  # [::] takes IPv4 too, as with Django
        self._socket = socket.create_server(
            address, family=family, backlog=128, dualstack_ipv6=both
        )
        self.server_port: int = self._socket.getsockname()[1]
        self._ended = threading.Event()
        self._application: ASGIApplication
        config = Config(
            Lines(self._serve),
            interface="asgi3",
            http=http_protocol("auto"),
            ws=ws_protocol("auto"),
            # Django's LOGGING stays as it is, and uvicorn tells nothing but what went wrong: its
            # line of each socket would show the query string, and perhaps a token in it.
            log_config=None,
            log_level="warning",
            access_log=False,
            ws_max_size=max_message_size(),
            ws_per_message_deflate=False,
            proxy_headers=False,  # as with Django's server
            timeout_graceful_shutdown=QUIT_SECONDS,
        )
        self._server = BaseServer(config)

    def set_app(self, application: ASGIApplication) -> None:
        self._application = application

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._application(scope, receive, send)

    def serve_forever(self) -> None:
        """Until a signal, in the main thread, or ``stop``. Raises ``KeyboardInterrupt``."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()  # uvicorn leaves it open where the start-up failed
            self._ended.set()

    def stop(self, exit_code: int) -> None:
        """From another thread: close the sockets with 1012, let hooks end, and see to it that the
        process exits soon, whatever threads may still run. Returns within a second.
        """
        self._server.should_exit = True
        if not self._ended.wait(HOOK_SECONDS):
            logger.warning("What was still at work after %g s is cancelled.", HOOK_SECONDS)
            # uvicorn would print a traceback for each.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            self._server.force_exit = True
            self._ended.wait(CANCEL_SECONDS)
        # A sync hook or a view may be at work for long. Python would wait for its thread.
        timer = threading.Timer(EXIT_SECONDS, _exit_now, [exit_code])
        timer.daemon = True
        timer.start()


def _exit_now(exit_code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)
