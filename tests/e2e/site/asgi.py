"""The site's ASGI application, written as a project writes its own."""

import os

from django_ws import get_websocket_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.e2e.site.settings")

application = get_websocket_application()
