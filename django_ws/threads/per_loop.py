"""One object of a kind for each event loop, made at first use, gone with the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class PerLoop(Generic[T]):
    """``queue_of = PerLoop(Queue)``, then ``queue_of(loop)`` in the thread of that loop."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._all: WeakKeyDictionary[asyncio.AbstractEventLoop, T] = WeakKeyDictionary()

    def __call__(self, loop: asyncio.AbstractEventLoop) -> T:
        try:
            return self._all[loop]
        except KeyError:
            found = self._all[loop] = self._make()
            return found
