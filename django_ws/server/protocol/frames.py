"""Builds WebSocket frames, compressed where that pays."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from struct import Struct
from typing import Any

FIN, OPCODE = 0x80, 0x0F  # bits of the first byte
MASKED, LENGTH = 0x80, 0x7F  # of the second
CONTINUATION, TEXT, BINARY, CLOSE = 0, 1, 2, 8
CONTROL = 8  # a bit of the opcode
OPCODES = {CONTINUATION, TEXT, BINARY, 8, 9, 10}
FIN_TEXT, FIN_BINARY = FIN | TEXT, FIN | BINARY
RSV1 = 0x40  # of a compressed message (RFC 7692, 6.1)
WORTH_COMPRESSING = 256  # bytes; a smaller message would hardly shrink without its predecessors
COMPRESSION: dict[str, Any] = {"memLevel": 5}  # uvicorn's, for zlib.compressobj
ENDLESS = 2**64  # bytes, more than any frame can have
FLUSHED = b"\x00\x00\xff\xff"  # at the end of what a sync flush gives; RFC 7692, 7.2.1 cuts it

# The heads of frames with a one-byte length, made once.
TEXT_HEADS = [bytes((FIN_TEXT, length)) for length in range(126)]
BINARY_HEADS = [bytes((FIN_BINARY, length)) for length in range(126)]
_medium_length = Struct("!H").unpack_from
_large_length = Struct("!Q").unpack_from
_medium_head = Struct("!BBH").pack
_large_head = Struct("!BBQ").pack


def frame(first: int, payload: bytes) -> bytes:
    """One frame; ``first`` is its first byte: flags and opcode."""
    length = len(payload)
    if length < 126:
        return bytes((first, length)) + payload
    if length < 65536:
        return _medium_head(first, 126, length) + payload
    return _large_head(first, 127, length) + payload


def sizes_of_frame(data: bytes, start: int) -> tuple[int, int] | None:
    """The bytes of a client's frame: its head with the mask, and its payload.

    None while they are not known. A frame that is wrong already, in its opcode or for want of a
    mask, has no end: who reads it will not read on.
    """
    there = len(data) - start
    if there < 2:
        return None
    if not data[start + 1] & MASKED or data[start] & OPCODE not in OPCODES:
        return 2, ENDLESS
    length = data[start + 1] & LENGTH
    if length < 126:
        return 6, length
    if length == 126:
        return (8, _medium_length(data, start + 2)[0]) if there >= 4 else None
    return (14, _large_length(data, start + 2)[0]) if there >= 10 else None


class Frames:
    """The frames of some messages, made once and written to any number of connections.

    ``plain`` are all of them without compression, one behind the other.
    """

    __slots__ = ("_deflated", "_payloads", "plain")

    def __init__(self, messages: Sequence[str | bytes]) -> None:
        self._payloads = [
            (FIN_TEXT, message.encode()) if isinstance(message, str) else (FIN_BINARY, message)
            for message in messages
        ]
        self.plain = b"".join([frame(first, payload) for first, payload in self._payloads])
        self._deflated: dict[int, bytes] = {}  # by the bits of the window

    def deflated(self, bits: int) -> bytes:
        """For clients with permessage-deflate, without context takeover, and such a window."""
        try:
            return self._deflated[bits]
        except KeyError:
            frames = b"".join(
                [_deflated(first, payload, bits) for first, payload in self._payloads]
            )
            self._deflated[bits] = frames
            return frames


def _deflated(first: int, payload: bytes, bits: int) -> bytes:
    """Compressed, if that makes it smaller: RFC 7692 leaves it open for each message."""
    if len(payload) >= WORTH_COMPRESSING:
        compressor = zlib.compressobj(wbits=-bits, **COMPRESSION)
        compressed = compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)
        if len(compressed) - len(FLUSHED) < len(payload):
            return frame(first | RSV1, compressed[: -len(FLUSHED)])
    return frame(first, payload)
