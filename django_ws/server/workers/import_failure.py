"""What ``--reload`` serves while the site cannot be imported: 503, and the reason."""

from __future__ import annotations

import uvicorn

from django_ws.server.options import Options
from django_ws.types import Event, Receive, Scope, Send

TEXT = (
    b"The site cannot be served now: the server's log says why. "
    b"It is tried again when a file has changed.\n"
)


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """An ASGI application that refuses everything."""
    response = f"{scope['type']}.http.response" if scope["type"] == "websocket" else "http.response"
    start: Event = {
        "type": f"{response}.start",
        "status": 503,
        "headers": [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(TEXT)).encode()),
            (b"cache-control", b"no-store"),
            (b"retry-after", b"1"),
        ],
    }
    await send(start)
    await send({"type": f"{response}.body", "body": TEXT})


def config(options: Options) -> uvicorn.Config:
    """It asks for none of the settings, which may be what is broken."""
    explaining = uvicorn.Config(
        application,
        loop=options.loop,
        http=options.http,
        ws="websockets-sansio",
        log_config=None,
        access_log=options.access_log,
        interface="asgi3",
        lifespan="off",
        ssl_certfile=options.ssl_certfile,
        ssl_keyfile=options.ssl_keyfile,
        ssl_keyfile_password=options.ssl_keyfile_password,
        ssl_ca_certs=options.ssl_ca_certs,
        ssl_cert_reqs=options.certificate_demand,
        ssl_ciphers=options.ssl_ciphers,
        timeout_graceful_shutdown=1,
    )
    explaining.load()
    return explaining
