"""The ASGI application: ``uvicorn demo.asgi:application`` serves pages and WebSockets."""

import os
from typing import Any

from django.conf import settings
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application

from django_ws import get_websocket_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.settings")

if settings.DEBUG:
    # Static files are served by Django's runserver, not by Django: under a plain ASGI server
    # this handler finds them. On a deployed site nginx or WhiteNoise does it, and the line at
    # the end is all that is needed.
    pages: Any = ASGIStaticFilesHandler(get_asgi_application())
    application = get_websocket_application(http_app=pages)
else:
    application = get_websocket_application()
