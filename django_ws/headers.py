"""Headers of the response to a handshake: checked, and encoded for ASGI."""

from __future__ import annotations

from collections.abc import Iterable

RESERVED = "sec-websocket-"  # the server's own; a subprotocol is answered by ``subprotocols``


def checked_headers(where: str, headers: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The headers as a tuple. Raises ``TypeError`` or ``ValueError`` for what cannot be sent,
    with ``where`` they were given.
    """
    found = tuple(headers)
    for pair in found:
        if not (
            isinstance(pair, tuple | list)
            and len(pair) == 2
            and all(isinstance(part, str) for part in pair)
        ):
            raise TypeError(f"{where}: {pair!r} is not a pair of str")
        name, value = pair
        if not name or not (name + value).isprintable() or max(map(ord, name + value)) > 255:
            raise ValueError(f"{where}: {name!r}: {value!r} cannot be sent")
        if name.lower().startswith(RESERVED):
            raise ValueError(f"{where}: {name!r} is the server's own header")
    return found


def encoded_headers(headers: Iterable[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    """As ASGI wants them."""
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers]
