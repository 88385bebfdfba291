"""`manage.py runserver`: Django's command, with WebSockets."""

from __future__ import annotations

import re
from importlib.util import find_spec
from io import StringIO
from typing import TYPE_CHECKING, Any, cast

from django.apps import apps
from django.conf import settings
from django.contrib.staticfiles.management.commands.runserver import Command as StaticFilesCommand
from django.core.handlers.wsgi import WSGIHandler
from django.core.management.base import CommandError, CommandParser, OutputWrapper
from django.core.management.commands.runserver import Command as DjangoCommand
from django.core.servers.basehttp import WSGIServer
from django.utils import autoreload

if TYPE_CHECKING:
    from django_ws.server.dev.server import DevelopmentServer


class Command(StaticFilesCommand):
    """All of it is Django's but the server, which is uvicorn and serves ``application_path()``."""

    help = "Starts a web server for development: pages, static files and WebSockets."
    _server: DevelopmentServer | None = None

    def add_arguments(self, parser: CommandParser) -> None:
        if apps.is_installed("django.contrib.staticfiles"):
            super().add_arguments(parser)
        else:  # as Django's own command, which then knows nothing of static files
            DjangoCommand.add_arguments(self, parser)

    def handle(self, *args: Any, **options: Any) -> None:
        if not find_spec("uvicorn"):
            raise CommandError(
                "uvicorn is not installed, which serves WebSockets. "
                'Run: pip install "django-ws[server]"'
            )
        # Then Django calls server_cls as it is, without mixing threads into it.
        options["use_threading"] = False
        self.server_cls = cast(type[WSGIServer], self._make_server)
        super().handle(*args, **options)

    def inner_run(self, *args: Any, **options: Any) -> None:
        from django_ws.server.workers.loading import import_routes

        if options["use_reloader"]:
            # A mistake in routes must raise here, for the reloader to watch its file: the check
            # only tells of it.
            autoreload.raise_last_exception()
            import_routes()
        super().inner_run(*args, **options)

    def _make_server(self, *args: Any, **options: Any) -> DevelopmentServer:
        from django_ws.server.dev.server import DevelopmentServer

        self._server = DevelopmentServer(*args, **options)
        return self._server

    def get_handler(self, *args: Any, **options: Any) -> WSGIHandler:
        from django_ws.server.dev.server import application

        static_files = options.get("use_static_handler", False) and (
            settings.DEBUG or options["insecure_serving"]
        )
        return cast(WSGIHandler, application(static_files))

    def on_bind(self, server_port: int) -> None:
        """What Django prints, in the words of its version, but for what it calls the server."""
        stdout, said = self.stdout, StringIO()
        self.stdout = OutputWrapper(said)
        try:
            super().on_bind(server_port)
        finally:
            self.stdout = stdout
        text = said.getvalue()
        stdout.write(re.sub("Starting (WSGI )?development", "Starting ASGI development", text))
        stdout.flush()

    def run(self, **options: Any) -> None:
        """In the reloader's child the server is in another thread, and this one is told to leave:
        by the reloader after a change (``SystemExit(3)``), by SIGTERM (0) or by CONTROL-C.
        """
        # Django looks for changes once a second, and starting again takes about one. For both
        # together to take less than two:
        autoreload.StatReloader.SLEEP_TIME = 0.5  # type: ignore[assignment]
        exit_code = 0
        try:
            super().run(**options)
        except SystemExit as leaving:
            exit_code = cast(int, leaving.code)
            raise
        finally:
            if options["use_reloader"] and self._server is not None:
                self._server.stop(exit_code)
