"""Turns an unexpected exception of a check into an error message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from django.core.checks import CheckMessage, Error

from django_ws.logs.causes import cause

Check = Callable[..., Iterator[CheckMessage]]


def guarded(check: Check) -> Callable[..., list[CheckMessage]]:
    """The check as Django calls it. What it found before it failed is kept."""

    @wraps(check)
    def run(**kwargs: Any) -> list[CheckMessage]:
        messages: list[CheckMessage] = []
        try:
            for message in check(**kwargs):
                messages.append(message)
        except Exception as error:
            messages.append(
                Error(
                    f"{check.__name__} of django_ws could not be finished: {cause(error)}.",
                    hint="Correct the object that raises this when it is looked at.",
                    id="django_ws.E014",
                )
            )
        return messages

    return run
