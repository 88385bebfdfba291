"""Tells whether a callable takes certain arguments, without calling it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

# Annotations may name what only type checkers import, which Python 3.14 would look up.
_OPTIONS: dict[str, Any] = (
    {"annotation_format": import_module("annotationlib").Format.FORWARDREF}
    if sys.version_info >= (3, 14)
    else {}
)


def signature(function: Callable[..., Any], *, follow_wrapped: bool) -> inspect.Signature | None:
    """None where there is none to be had, as for some built-in functions."""
    try:
        return inspect.signature(function, follow_wrapped=follow_wrapped, **_OPTIONS)
    except (TypeError, ValueError):
        return None


def takes(function: Callable[..., Any], *args: str) -> bool:
    """Whether it can be called with so many positional arguments; if in doubt, it can.

    A decorated function is judged by its outermost wrapper: that is what is called, and a
    wrapper may add arguments of its own.
    """
    called = signature(function, follow_wrapped=False)
    if called is None:
        return True
    try:
        called.bind(*args)
    except TypeError:
        return False
    return True


def first_parameters(function: Callable[..., Any]) -> set[str]:
    """The names of the first parameter, of the function and of what its wrappers stand for."""
    found = (signature(function, follow_wrapped=follow) for follow in (False, True))
    return {next(iter(each.parameters), "") for each in found if each is not None}
