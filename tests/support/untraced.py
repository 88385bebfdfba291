"""Coverage stands aside while Playwright switches greenlets.

With its option for greenlets, coverage asks for the current one in every thread; and when a thread
that has asked ends, CPython 3.11 may stay for ever in the weak reference's callback, which it
traces while it handles pending calls. So the option is off, and a browser's test is not traced in
its own thread: the server it visits is another thread, or another process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def untraced() -> Iterator[None]:
    """In this thread alone."""
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)
