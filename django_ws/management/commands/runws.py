"""``manage.py runws``: the production server."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.log import configure_logging

from django_ws.conf.application_path import application_path
from django_ws.server.options import Options, add_arguments


class Command(BaseCommand):
    help = (
        "Serves the site, its pages and its WebSockets, with several workers: for production. "
        "Static files are for a web server in front, or for a package such as WhiteNoise."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        add_arguments(parser)

    def handle(self, **options: Any) -> None:
        try:
            from django_ws.server.workers.running import serve
        except ModuleNotFoundError as error:
            raise CommandError(
                f'{error.name} is not installed. Run: pip install "django-ws[server]"'
            ) from error
        again = partial(configure_logging, settings.LOGGING_CONFIG, settings.LOGGING)
        code = serve(application_target(), Options.of(options), again)
        if code:
            sys.exit(code)


def application_target() -> str:
    """What is served, as ``"package.module:name"``."""
    path = application_path()
    module, _, name = str(path).rpartition(".")
    if not module:
        raise CommandError(
            f"ASGI_APPLICATION is {path!r}: give the dotted path of the variable in asgi.py, for "
            "example 'mysite.asgi.application'."
        )
    return f"{module}:{name}"
