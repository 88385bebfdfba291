"""The name under which the connections of one session are found."""

from __future__ import annotations

import hashlib


def session_identity(session_key: str) -> str:
    """What a log-out names to find the connections of a session.

    Not the key, which would log in whoever reads it on its way through Redis.
    """
    return f"\0session:{hashlib.sha256(session_key.encode(errors='replace')).hexdigest()}"
