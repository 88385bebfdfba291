"""The limits for requests that are not complete yet: sizes, times, numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MAX_HEADER_SIZE = 64 * 1024  # bytes of a request line and its headers
MAX_HEADERS = 1000  # of one request: what each costs is not its bytes alone
MOST_WAITING = 8192


def default_max_waiting() -> int:
    """A quarter of the files that this process may open, and at most 8,192."""
    try:
        import resource
    except ImportError:  # pragma: no cover - on Windows, where only `runserver` is used
        return MOST_WAITING
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MOST_WAITING
    return max(1, min(MOST_WAITING, files // 4))


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of the connections of one server."""

    max_header_size: int = MAX_HEADER_SIZE
    header_timeout: float = 10.0  # seconds until the head of a request is there
    max_waiting: int = field(default_factory=default_max_waiting)


def limits_of(config: Any) -> Limits:
    """Those that a configuration of ours has, or the defaults."""
    found = getattr(config, "limits", None)
    return found if isinstance(found, Limits) else Limits()
