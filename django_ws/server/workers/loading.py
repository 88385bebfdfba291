"""Imports the application in a worker, and configures uvicorn for it."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import uvicorn
from django.apps import apps
from django.conf import settings
from django.urls import get_resolver

from django_ws import conf
from django_ws.middleware.chain import chain
from django_ws.routing.diagnostics import is_missing
from django_ws.server.access_log import guard_logging
from django_ws.server.config import uvicorn_config
from django_ws.server.options import Options

logger = logging.getLogger("uvicorn.error")

CANNOT_START = 3  # the exit code where another attempt would end in the same way; uvicorn's, too


@dataclass(frozen=True)
class Site:
    """What a worker serves, and how."""

    application: str  # "package.module:name"
    options: Options
    broker: str | None = None  # where broadcasts go if WS_BROADCAST is not set


class CannotImport(Exception):
    """There is no such application."""


def prepared(site: Site, when_imported: Callable[[], None] = lambda: None) -> uvicorn.Config:
    """Do everything that can fail, and would fail again: ends the process with CANNOT_START then.

    ``when_imported`` is called when Django's settings are known.
    """
    if site.broker is None:
        os.environ.pop(conf.BROKER_VARIABLE, None)
    else:
        os.environ[conf.BROKER_VARIABLE] = site.broker
    try:
        try:
            application = imported(site.application)
        finally:
            guard_logging(site.options)  # Django has configured logging meanwhile
        if apps.ready:  # otherwise it is an application without Django
            import_routes()
            chain()
        when_imported()
        config = uvicorn_config(application, site.options)
        config.load()
        return config
    except CannotImport as error:
        logger.error("Cannot serve %s: %s", site.application, error)
    except Exception:  # in the site's modules; settings, certificates, packages that are missing
        logger.exception("Cannot serve %s", site.application)
    sys.exit(CANNOT_START)


def import_routes() -> None:
    """Import what is imported at the first request: so that what is broken there shows before.

    Raises what the modules raise. That there are no routes for sockets is no mistake here.
    """
    if getattr(settings, "ROOT_URLCONF", None):
        _ = get_resolver().url_patterns
    name = conf.read("ROOT_WS_URLCONF")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if not is_missing(name, error):
            raise


def imported(path: str) -> Any:
    """What ``"package.module:name"`` names. Raises ``CannotImport``, or what the module raises."""
    name, _, attributes = path.partition(":")
    try:
        found = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if is_missing(name, error):
            raise CannotImport(
                f"there is no module {error.name!r}. Check the name, and the folder: it is "
                "looked for in the current one, in --app-dir, and among what is installed"
            ) from error
        raise
    try:
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except AttributeError as error:
        raise CannotImport(f"{error}. Name the variable in your asgi.py") from error
    return found
