"""uvicorn's configuration, with defaults for WebSockets."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import uvicorn
from django.conf import settings

from django_ws import conf
from django_ws.conf.script_name import normal_script_name
from django_ws.server.access_log import guard_logging
from django_ws.server.http.limits import Limits
from django_ws.server.options import Options
from django_ws.types import ASGIApplication

FAST = "django_ws.server.protocol:FastProtocol"
LOGGED_SANSIO = "django_ws.server.protocol.socket_log:LoggedSansIO"
HTTP = {
    "httptools": "django_ws.server.http.httptools:LimitedHttpTools",
    "h11": "django_ws.server.http.h11:LimitedH11",
}


class Config(uvicorn.Config):
    """uvicorn's, with what clients may do before their request is there."""

    def __init__(self, *args: Any, limits: Limits | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.limits = limits or Limits()


def uvicorn_config(application: ASGIApplication | str, options: Options, **more: Any) -> Config:
    """For an application that is imported already, since only then its settings are known.

    It leaves logging alone but for the filters of ``access_log``; ``more`` goes to uvicorn as it
    is.
    """
    config = Config(
        application,
        limits=options.limits,
        loop=options.loop,
        http=http_protocol(options.http),
        ws=ws_protocol(options.ws),
        ws_max_size=max_message_size(),
        ws_max_queue=options.ws_max_queue,
        # None is uvicorn's word for never.
        ws_ping_interval=options.ws_ping_interval or None,
        ws_ping_timeout=options.ws_ping_timeout or None,
        ws_per_message_deflate=options.compression,
        log_config=None,
        access_log=options.access_log,
        interface="asgi3",
        backlog=options.backlog,
        proxy_headers=options.proxy_headers,
        forwarded_allow_ips=options.forwarded_allow_ips,
        root_path=normal_script_name(options.root_path),
        limit_concurrency=options.limit_concurrency,
        limit_max_requests=options.limit_max_requests,
        timeout_keep_alive=options.timeout_keep_alive,
        # A whole number of seconds for uvicorn; 0 would mean that nobody gets any time.
        timeout_graceful_shutdown=max(1, round(options.graceful_timeout)),
        ssl_certfile=options.ssl_certfile,
        ssl_keyfile=options.ssl_keyfile,
        ssl_keyfile_password=options.ssl_keyfile_password,
        ssl_ca_certs=options.ssl_ca_certs,
        ssl_cert_reqs=options.certificate_demand,
        ssl_ciphers=options.ssl_ciphers,
        **more,
    )
    guard_logging(options)
    return config


def http_protocol(name: str) -> str:
    """The path of our class; for "auto" that of httptools, where it is installed."""
    if name == "auto":
        name = "httptools" if find_spec("httptools") else "h11"
    return HTTP[name]


def ws_protocol(name: str) -> str:
    """What uvicorn is told: one of its own names, or the path of a class of ours."""
    if name == "fast" or (name == "auto" and _is_fast_usable()):
        return FAST
    return LOGGED_SANSIO if name == "websockets-sansio" else name


def _is_fast_usable() -> bool:
    """It needs a uvicorn that is not too old, and the websockets library."""
    try:
        import_module("django_ws.server.protocol.protocol")
    except ImportError:
        return False
    return True


def max_message_size() -> int:
    """``WS_MAX_MESSAGE_SIZE``: nothing larger is ever buffered. Its default without Django."""
    if settings.configured or "DJANGO_SETTINGS_MODULE" in os.environ:
        size: int = conf.read("WS_MAX_MESSAGE_SIZE")
    else:
        size = conf.SETTINGS["WS_MAX_MESSAGE_SIZE"].default()
    return size
