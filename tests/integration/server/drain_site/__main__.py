"""Serves the site by one ``Server``, as a worker does, without a parent."""

import os

import uvicorn

from django_ws.server.server import Server
from tests.integration.server.drain_site.asgi import application

config = uvicorn.Config(
    application,
    port=0,
    ws=os.environ["DRAIN_WS"],
    timeout_graceful_shutdown=int(os.environ.get("DRAIN_GRACEFUL", "0")) or None,
)
Server(config).run()
