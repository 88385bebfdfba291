"""The ASGI extension ``django_ws.frames``: a frame made once and written to many connections.

A server that offers it puts a ``FrameExtension`` into ``scope["extensions"]``. Both sides of the
contract are here; ``docs/protocol.md`` tells it for the authors of servers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from django_ws.types import Scope, Send

NAME = "django_ws.frames"

Prepare = Callable[[Sequence[str | bytes]], Any]
Write = Callable[[Any], bool]


class FrameExtension(TypedDict):
    """What a server offers for one connection. Nothing here waits.

    ``prepare(messages)`` makes the frames of messages, text frames of ``str`` and binary ones
    of ``bytes``. They may be kept, and written to every connection whose ``prepare`` is the
    same object. Raises ``UnicodeEncodeError`` for a lone surrogate.

    ``write(frames)`` writes all of them now, as one ``send`` after the other would, and returns
    True. It returns False, with nothing written, wherever ``send`` would wait or fail: the
    client reads too slowly, or the connection is not open. Then ``send`` must be used, which
    waits or tells. For the event loop's thread, while no ``send`` of the connection is under
    way. ``write_message(message)`` is the same for one message that was not prepared. Neither
    of them raises.

    ``send`` is what the server calls the application with: whoever was called with another one
    must not use the extension, since something between them wants to see the events.
    """

    prepare: Prepare
    write: Write
    write_message: Callable[[str | bytes], bool]
    send: Send


def extension_of(scope: Scope, send: Send) -> FrameExtension | None:
    """What the server offers to an application that was called with this ``send``."""
    offered: FrameExtension | None = (scope.get("extensions") or {}).get(NAME)
    return offered if offered is not None and offered["send"] == send else None
