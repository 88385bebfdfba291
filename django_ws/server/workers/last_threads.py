"""Ends a worker whose threads do not end by themselves."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time

from django_ws.threads.stalls import place_in

logger = logging.getLogger("django.ws")  # uvicorn's cuts text at "?", and a place is code

LAST_SECONDS = 5.0  # for hooks that still run in threads, and for what runs at the exit


def limit_the_rest() -> None:
    """Call it when all else has ended: the process is gone after ``LAST_SECONDS``."""
    threading.Thread(target=_end, name="the last seconds", daemon=True).start()


def _end() -> None:
    time.sleep(LAST_SECONDS)
    frames = sys._current_frames()
    places = [
        place
        for thread in threading.enumerate()
        if (frame := frames.get(thread.ident or 0)) and (place := place_in(frame))
    ]
    logger.warning(
        "Worker %d ends now, %g s after its server. What still runs: %s",
        os.getpid(),
        LAST_SECONDS,
        "; ".join(places) or "none of your code",
    )
    logging.shutdown()
    os._exit(0)
