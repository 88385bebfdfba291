"""Filters uvicorn's log: no query strings and no frames, since both may contain tokens.

uvicorn puts the query string into the line of every request and every socket, and there may be a
token in it. websockets, at DEBUG, writes down all that goes over the wire, cookies included.
"""

from __future__ import annotations

import copy
import logging
import logging.config
import os
import sys
from typing import Any

from uvicorn.config import LOGGING_CONFIG

from django_ws.logs.throttled import ThrottledLog
from django_ws.server.options import Options

LOGGERS = ("uvicorn.error", "uvicorn.access")
WIRE = ("< ", "> ")  # the directions, in front of each line of websockets
SOCKET_LINE = '%s - "WebSocket %s"'  # of uvicorn's, too
# What websockets says beside that, without a name, and not of each end.
NAMELESS_LINES = ("connection open", "connection closed", "connection reject", "HTTP response sent")
# What any client makes uvicorn say, each time that it wants to.
CLIENTS_LINES = (
    "Exceeded concurrency limit.",
    "Invalid UTF-8 sequence received from client.",
    "No supported WebSocket library detected.",
    "Unsupported upgrade request.",
)

_repeated = ThrottledLog(
    logging.getLogger("uvicorn.error"), logging.WARNING, "lines of uvicorn's about requests"
)


class WithoutSecrets(logging.Filter):
    """Cuts the query off every URL, and drops what went over the wire, and nameless lines."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(
                arg.partition("?")[0] if isinstance(arg, str) else arg for arg in record.args
            )
        text = str(record.msg)
        if record.levelno <= logging.DEBUG:
            return not text.startswith(WIRE)
        return not text.startswith(NAMELESS_LINES)


class WithoutSockets(logging.Filter):
    """Drops uvicorn's lines about each socket: it has no option for that."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith(SOCKET_LINE)


class WithoutRepetitions(logging.Filter):
    """Throttles what any client can cause, and leaves its traceback out."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = str(record.msg)
        if not text.startswith(CLIENTS_LINES):
            return True
        _repeated.log(text, "%s", text)  # which comes here again, as another format
        return False


# uvicorn's own, of the loggers that do not propagate: by the names of these.
_handlers: dict[str, list[logging.Handler]] = {}

_without_secrets, _without_sockets = WithoutSecrets(), WithoutSockets()
_without_repetitions = WithoutRepetitions()


def configure_logging(options: Options) -> None:
    """As uvicorn does it. Call it before Django is set up: ``LOGGING`` has the last word."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by what has started this; uvicorn asks it
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # to the end
    config: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    for logger in config["loggers"].values():
        logger["level"] = options.log_level.upper()
    logging.config.dictConfig(config)
    for name in config["loggers"]:
        _handlers[name] = list(logging.getLogger(name).handlers)
    guard_logging(options)


def guard_logging(options: Options) -> None:
    """Put the filters on, whoever configures logging; again is no harm.

    The loggers are enabled, too: ``LOGGING`` without ``disable_existing_loggers: False`` disables
    them, and then nobody would learn why the server does not start. And one that it names has lost
    its handlers: where it gives no others, and uvicorn lets it not propagate, they come back.
    """
    for name, handlers in _handlers.items():
        logger = logging.getLogger(name)
        is_wanted = options.access_log or name != "uvicorn.access"
        if is_wanted and not (logger.handlers or logger.propagate):
            logger.handlers = list(handlers)
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_without_secrets)
        logging.getLogger(name).disabled = False
    logging.getLogger("uvicorn.error").addFilter(_without_repetitions)
    if not options.access_log:
        logging.getLogger("uvicorn.error").addFilter(_without_sockets)
