"""The ``WS_*`` settings, and the parsers of their values. Start with ``settings.py``."""

from django_ws.conf.settings import (
    BROKER_VARIABLE,
    DEFAULT_PREFIX,
    SETTINGS,
    BroadcastConfig,
    Conf,
    get,
    read,
    seconds,
)

__all__ = [
    "BROKER_VARIABLE",
    "DEFAULT_PREFIX",
    "SETTINGS",
    "BroadcastConfig",
    "Conf",
    "get",
    "read",
    "seconds",
]
