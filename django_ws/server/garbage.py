"""Python's garbage collection, tuned for many objects that live long.

A full collection looks at every object, and at 10,000 sockets there are millions: it stops the
event loop for 100 milliseconds and more, just when sockets are opened in numbers.
"""

from __future__ import annotations

import gc

# The first two are Python's own up to 3.12: young objects are looked at when 700 more were made
# than freed, middle-aged ones every 10th time. All are every 1000th time of that, and not every
# 10th: in thousands of sockets nothing is to be found.
THRESHOLDS = (700, 10, 1000)


def tune() -> None:
    """Call it when the application is loaded: what is there now is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
