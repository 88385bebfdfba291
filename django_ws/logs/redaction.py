"""What error reports must not show: the secrets of a handshake, and passwords in URLs.

Django's reports (its error mails, above all) show the variables of every frame of an exception.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote, unquote_plus

from django.conf import settings
from django.http import HttpRequest
from django.views.debug import SafeExceptionReporterFilter, get_default_exception_reporter_filter

from django_ws.types import Scope

STARS = SafeExceptionReporterFilter.cleansed_substitute
# The names of parameters and cookies that hold secrets: those of Django's filter, and of log-ins.
NAMES = re.compile("api|auth|jwt|key|pass|secret|sesame|session|signature|ticket|token", re.I)
USER_IN_URL = re.compile(r"(?<=://)[^/?#\s'\"]*@")
_ESCAPES = str.maketrans("", "", "\\'\"")
MIN_SECRET = 8  # characters; a shorter text would be found in variables that have none of it
# A client chooses how many secrets there are, and how long a message is: looking for the ones in
# the other takes bounded time. Django shows 4,096 characters of a variable.
LOOKED_AT, SHOWN = 20_000, 4096


def shown_query(query: str) -> list[tuple[str, str]] | None:
    """The pairs of a query string, with stars for the secrets; None where it may be shown.

    Not where it has more fields than Django allows either: to parse it as usual would raise.
    """
    pairs = parse_qsl(query, keep_blank_values=True)
    most = settings.DATA_UPLOAD_MAX_NUMBER_FIELDS
    if not any(NAMES.search(name) for name, _ in pairs) and (most is None or len(pairs) <= most):
        return None
    return [(name, STARS if NAMES.search(name) else value) for name, value in pairs]


def report_filter(scope: Scope, cookies: dict[str, str]) -> SafeExceptionReporterFilter:
    """Django's filter, or that of the setting, which hides the secrets of this handshake too."""
    base: Any = type(get_default_exception_reporter_filter())
    found = {secret for secret in _secrets(scope, cookies) if len(secret) >= MIN_SECRET}
    made: SafeExceptionReporterFilter = _hiding(base)(found)
    return made


def _forms(secret: str) -> Iterator[str]:
    """A secret as ``repr()`` and JSON may write it, in text and in bytes.

    Headers are decoded as Latin-1, as WSGI and ASGI servers do, whatever is in them.
    """
    texts = [secret]
    with suppress(UnicodeError):
        texts.append(secret.encode("latin-1").decode("utf-8", "replace"))
    for text in texts:
        yield from (text, repr(text)[1:-1], ascii(text)[1:-1], json.dumps(text)[1:-1])
        for encoding in ("latin-1", "utf-8"):
            with suppress(UnicodeError):
                yield repr(text.encode(encoding))[2:-1]


def _flat(text: str) -> str:
    """Without what is doubled, or left out, where one ``repr()`` stands inside of another."""
    return text.translate(_ESCAPES)


def _secrets(scope: Scope, cookies: dict[str, str]) -> Iterator[str]:
    """Whatever a client may have logged in by."""
    for name, value in cookies.items():
        if _is_secret_cookie(name, value):
            yield from (value, unquote(value))  # as pages write what has quotes in it
    for part in scope.get("query_string", b"").decode("latin-1").split("&"):
        name, _, value = part.partition("=")
        if NAMES.search(unquote_plus(name)):
            yield from (value, unquote_plus(value))
    for raw_name, raw_value in scope["headers"]:
        text = raw_value.decode("latin-1")
        match raw_name.lower():
            case b"authorization":
                yield from text.split()
            case b"cookie":  # as it came: quoted, or more than once
                pairs = [part.strip().partition("=") for part in text.split(";")]
                for name, _, value in pairs:
                    if _is_secret_cookie(name, value):
                        yield from (value, unquote(value))
            case b"sec-websocket-protocol":
                yield from (name.strip().partition(".")[2] for name in text.split(","))
            case b"sec-websocket-key":
                pass  # no secret, whatever its name says
            case name if NAMES.search(name.decode("latin-1")):
                yield from text.split()


def _is_secret_cookie(name: str, value: str) -> bool:
    """Whatever is long enough: sites name the cookies that log in as they like."""
    is_known = name == settings.LANGUAGE_COOKIE_NAME
    return not is_known and (len(value) >= MIN_SECRET or bool(NAMES.search(name)))


class Beginning:
    """What a report shows of a long variable."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _starts(texts: Iterable[str]) -> frozenset[str]:
    return frozenset(text[:MIN_SECRET] for text in texts if len(text) >= MIN_SECRET)


def _has_one(text: str, starts: frozenset[str]) -> bool:
    """Whether one of them stands in the text: in one pass, however many there are."""
    last = len(text) - MIN_SECRET
    return any(text[at : at + MIN_SECRET] in starts for at in range(last + 1))


@lru_cache(maxsize=1)
def _hiding(base: Any) -> Any:
    class HidingFilter(base):  # type: ignore[misc]
        def __init__(self, secrets: Iterable[str]) -> None:
            super().__init__()
            forms = {form for secret in secrets for form in _forms(secret)}
            self._starts, self._flat_starts = _starts(forms), _starts(map(_flat, forms))

        def get_safe_request_meta(self, request: Any) -> dict[str, Any]:
            meta: dict[str, Any] = super().get_safe_request_meta(request)
            name = "HTTP_SEC_WEBSOCKET_PROTOCOL"  # browsers can carry a token nowhere else
            return {**meta, name: self.cleansed_substitute} if name in meta else meta

        def get_safe_cookies(self, request: Any) -> dict[str, Any]:
            cookies: dict[str, Any] = super().get_safe_cookies(request)
            return {
                name: self.cleansed_substitute if _is_secret_cookie(name, str(value)) else value
                for name, value in cookies.items()
            }

        def cleanse_setting(self, key: Any, value: Any) -> Any:
            cleansed = super().cleanse_setting(key, value)
            return USER_IN_URL.sub(f"{STARS}@", cleansed) if type(cleansed) is str else cleansed

        def get_traceback_frame_variables(
            self, request: HttpRequest | None, tb_frame: Any
        ) -> list[tuple[str, Any]]:
            variables = super().get_traceback_frame_variables(request, tb_frame)
            return [(name, self._without_secrets(value)) for name, value in variables]

        def _without_secrets(self, value: Any) -> Any:
            try:
                text = repr(value)
            except Exception:  # the report says so itself
                return value
            is_long = len(text) > LOOKED_AT
            text = text[:LOOKED_AT]
            if (
                _has_one(text, self._starts)
                or _has_one(_flat(text), self._flat_starts)
                or USER_IN_URL.search(text)
            ):
                return self.cleansed_substitute
            return Beginning(text[:SHOWN]) if is_long else value

    return HidingFilter
