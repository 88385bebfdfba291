"""Checks that the class attributes of a handler have valid values."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

from django.core.checks import CheckMessage, Error

from django_ws import conf
from django_ws.conf.rate import parse_rate
from django_ws.connection.connection import Overflow
from django_ws.handler import WebSocketHandler
from django_ws.headers import checked_headers

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2, as RFC 6455, 4.1 asks


def check_attributes(handler_class: type[WebSocketHandler], place: str) -> Iterator[CheckMessage]:
    for name, (fault_of, cure) in ATTRIBUTES.items():
        value = inspect.getattr_static(handler_class, name)
        if hasattr(value, "__get__") and not callable(value):
            continue  # a property: its value is known on instances alone
        if fault := fault_of(value):
            yield Error(f"{place}.{name}: {fault}.", hint=cure, id="django_ws.E012")


def _codec_fault(value: Any) -> str:
    if isinstance(value, type):
        return f"{value.__qualname__} is a class, not an instance"
    missing = [name for name in ("encode", "decode") if not callable(getattr(value, name, None))]
    return f"{value!r} has no method {' and no '.join(missing)}" if missing else ""


def _subprotocols_fault(value: Any) -> str:
    if isinstance(value, str) or not isinstance(value, Sequence):
        return f"{value!r} is not a list or tuple of names"
    for item in value:
        if not isinstance(item, str) or not TOKEN.fullmatch(item):
            return f"{item!r} is not a name that the subprotocol header can carry"
    return ""


def _headers_fault(value: Any) -> str:
    try:
        checked_headers("the value", value)
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


def _size_fault(value: Any) -> str:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return ""
    return f"{value!r} is neither a positive whole number nor None"


def _fault_of_parsing(parse: Callable[[Any], Any]) -> Callable[[Any], str]:
    def fault_of(value: Any) -> str:
        try:
            if value is not None:
                parse(value)
        except ValueError as error:
            return str(error)
        return ""

    return fault_of


def _one_of(*allowed: str) -> tuple[Callable[[Any], str], str]:
    names = ", ".join(map(repr, allowed))

    def fault_of(value: Any) -> str:
        return "" if value in allowed else f"{value!r} is none of {names}"

    return fault_of, f"Write one of {names}."


# For each attribute: what is wrong with a value, and the cure.
ATTRIBUTES: dict[str, tuple[Callable[[Any], str], str]] = {
    "codec": (
        _codec_fault,
        "Give an instance with encode(message) and decode(data), for example codec = JSONCodec().",
    ),
    "subprotocols": (
        _subprotocols_fault,
        'Write, for example, subprotocols = ["chat.v1"]: no spaces, commas, slashes or quotes.',
    ),
    "accept_headers": (
        _headers_fault,
        'Write pairs of str, for example accept_headers = [("X-Version", "2")].',
    ),
    "max_message_size": (
        _size_fault,
        "Give bytes, for example 64 * 1024, or None for WS_MAX_MESSAGE_SIZE.",
    ),
    "rate_limit": (
        _fault_of_parsing(parse_rate),
        "Write '20/s', '600/m' or '10000/h', for example; None for WS_RATE_LIMIT, False for none.",
    ),
    "idle_timeout": (
        _fault_of_parsing(conf.seconds),
        "Give seconds, for example idle_timeout = 300, or None for no limit.",
    ),
    "send_overflow": _one_of(*get_args(Overflow)),
    "reject_with": _one_of("http", "close"),
}
