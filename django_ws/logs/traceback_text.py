"""Removes an exception's frames, whose variables may hold tokens and keys."""

from __future__ import annotations

import traceback
from typing import TypeVar

Error = TypeVar("Error", bound=Exception)


def without_frames(error: Error) -> Error:
    """The exception, and those it comes from, with their tracebacks as text in a note.

    The text has files, lines and source as always, and no variable.
    """
    links: list[BaseException | None] = [error]
    seen: set[int] = set()  # they may go in circles
    for link in links:
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        if link.__traceback__ is not None:
            places = "".join(traceback.format_tb(link.__traceback__))
            link.add_note(f"Raised at (its frames are withheld, for what they hold):\n{places}")
            link.__traceback__ = None
        links += [link.__cause__, link.__context__]
        if isinstance(link, BaseExceptionGroup):
            links += link.exceptions
    return error
