"""Parses rates such as ``"20/s"``, for ``WS_RATE_LIMIT`` and ``rate_limit``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

FORM = re.compile(r"([1-9][0-9]{0,8})/([smh])", re.ASCII)
NANOSECONDS = {"s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


@dataclass(frozen=True, slots=True)
class Rate:
    """So many messages in so many nanoseconds; as many may come at once."""

    count: int
    period: int


def parse_rate(value: Any) -> Rate | None:
    """The rate that a text such as ``"20/s"`` gives; None, without a limit, for ``False``.

    Raises ``ValueError`` for all else.
    """
    if value is False:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a rate")
    return _parse(value)


@lru_cache(maxsize=256)  # read for each connection; a property may give any number of them
def _parse(text: str) -> Rate:
    match = FORM.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a rate: a number from 1, a slash, and s, m or h")
    return Rate(int(match[1]), NANOSECONDS[match[2]])
