"""The session that a ticket was made in. Its key is kept in the cache of the tickets.

Not in the ticket, which may stand in a URL, and so in logs. And not as it is in the cache either:
who reads that needs the ticket as well.
"""

from __future__ import annotations

import hashlib
import logging

from django_ws.logs.throttled import ThrottledLog
from django_ws.threads.caches import cache_of_thread

logger = logging.getLogger("django.ws")

_not_kept = ThrottledLog(logger, logging.ERROR, "tickets whose session was not in the cache")


def keep_session(nonce: str, session_key: str, seconds: float) -> None:
    """Keep the key for as long as its ticket may be used. Blocks; from any thread.

    Raises what the cache raises where its server is away.
    """
    hidden = _with_mask(nonce, session_key.encode())
    cache_of_thread("default").set(_place(nonce), hidden, timeout=seconds)


def session_key_of(nonce: str) -> str | None:
    """The key, once; None, and an error in the log, where the cache does not have it. Blocks."""
    cache, place = cache_of_thread("default"), _place(nonce)
    hidden = cache.get(place)
    if hidden is None:
        _not_kept.log(
            "default",
            "CACHES['default'] does not have the session of a ticket, which was refused: do all "
            "processes share this cache, is its server up, and has it room for every ticket?",
        )
        return None
    cache.delete(place)
    return _with_mask(nonce, hidden).decode()


def _place(nonce: str) -> str:
    return f"django_ws:ticket-session:{hashlib.sha256(nonce.encode()).hexdigest()}"


def _with_mask(nonce: str, data: bytes) -> bytes:
    """Hidden, or shown again: a mask for each ticket, which nobody can tell without it."""
    mask = hashlib.shake_256(b"django_ws.auth.ticket.session" + nonce.encode()).digest(len(data))
    return bytes(one ^ other for one, other in zip(data, mask, strict=True))
