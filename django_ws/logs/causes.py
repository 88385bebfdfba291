"""The cause of a failed import, in one line that names the user's file."""

from __future__ import annotations

import importlib
import os
import traceback

import django

# Their frames only lead to the user's.
_PACKAGE = os.path.dirname(os.path.dirname(__file__))
_MACHINERY = tuple(
    f"{folder}{os.sep}"
    for folder in (*map(os.path.dirname, (django.__file__, importlib.__file__)), _PACKAGE)
)


def cause(error: Exception) -> str:
    """The exception and the innermost line of the user's code that it went through."""
    text = f"{type(error).__name__}: {str(error).rstrip('.')}"
    if isinstance(error, SyntaxError):
        return text  # it names file and line itself
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(("<frozen ", *_MACHINERY)):
            return f"{text} ({frame.filename}, line {frame.lineno})"
    return text
