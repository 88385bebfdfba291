"""From the head of a request to a handshake as the websockets library knows it.

Its own parser is passed by: it takes lines of 8 KiB and 128 headers, whatever the page beside it
takes, and says nothing to those that are larger.
"""

from __future__ import annotations

from websockets import __version__ as version
from websockets.datastructures import Headers
from websockets.http11 import Request

# How the library has bytes in its texts, and uvicorn gets them back.
_IS_LATIN = int(version.partition(".")[0]) >= 17
_CODEC, _ERRORS = ("latin-1", "strict") if _IS_LATIN else ("ascii", "surrogateescape")


def request_of(target: bytes, headers: list[tuple[bytes, bytes]]) -> Request:
    """Raises ``ValueError`` for what no request may have in it."""
    pairs = [(name.decode("ascii"), value.decode(_CODEC, _ERRORS)) for name, value in headers]
    return Request(target.decode("ascii"), Headers(pairs))


def split_head(data: bytes) -> tuple[bytes, bytes, list[tuple[bytes, bytes]]]:
    """Method, target and headers of a whole head, as uvicorn's HTTP protocols make it."""
    first, *lines = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
    method, _, more = first.partition(b" ")
    return method, more.rpartition(b" ")[0], [_pair(line) for line in lines]


def _pair(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b": ")
    return name, value
