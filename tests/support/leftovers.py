"""What is left to the garbage collector: objects that nobody uses, and that refer to each other."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

UNTRACKED = ("builtins.dict", "builtins.tuple")  # a collection ceases to look at many of them


def _kinds() -> Counter[str]:
    types = Counter(map(type, gc.get_objects()))
    return Counter({f"{each.__module__}.{each.__qualname__}": n for each, n in types.items()})


class Leftovers:
    """``found``: by the names of their types, how many objects only the collector could free.

    What ``gc.DEBUG_SAVEALL`` keeps would not do: a cycle with a suspended generator ends in the
    generator's finalizer, and is not kept.
    """

    def __init__(self) -> None:
        self.found: dict[str, int] = {}

    def look(self) -> None:
        before = _kinds()
        gc.collect()
        freed = before - _kinds()
        self.found = {name: n for name, n in freed.items() if name not in UNTRACKED}


@contextmanager
def leftovers() -> Iterator[Leftovers]:
    """With the collector off. ``look`` tells what the block, up to there, has left to it."""
    found = Leftovers()
    gc.collect()
    gc.disable()
    try:
        yield found
    finally:
        gc.enable()


async def left_by(visit: Callable[[], Awaitable[None]]) -> dict[str, int]:
    """What two calls leave to the collector, after a first one: every time.

    What only one of three rounds finds is another test's, which has ended meanwhile.
    """
    await visit()
    for _ in range(3):
        with leftovers() as left:
            for _ in range(2):
                await visit()
            left.look()
        if not left.found:
            break
    return left.found
