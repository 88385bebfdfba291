"""The site's ASGI application, written as a project writes its own."""

import os

from django_ws import get_websocket_application
from django_ws.server import server

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.integration.server.drain_site.settings")

# However slow the machine is: a restart waits for who has connected.
server.SETTLE_SECONDS = 40.0

application = get_websocket_application()
