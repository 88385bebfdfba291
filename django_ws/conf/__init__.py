"""The settings, and what else a site configures: only this package reads them.

Other code writes ``conf.get()``. Start with ``settings.py``.
"""

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
