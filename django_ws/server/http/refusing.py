"""The response to a request that is refused before the application gets it."""

from __future__ import annotations

import asyncio
import http
import logging
from abc import ABC, abstractmethod
from typing import Any

from uvicorn.server import ServerState

from django_ws.logs.printable import printable
from django_ws.logs.throttled import ThrottledLog
from django_ws.server.http.waiting import Phase

logger = logging.getLogger("uvicorn.error")

LINGER_SECONDS = 2.0  # for a refused client to take its answer
LINGER_BYTES = 2**20  # that it may still send meanwhile

_refusals = ThrottledLog(logger, logging.WARNING, "refused requests")


class Refusing(ABC):
    """Adds ``refuse`` to a protocol of uvicorn's for HTTP."""

    # Those of uvicorn's that are used here:
    server_state: ServerState
    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    client: tuple[str, int] | None
    cycle: Any

    # And what is said by those that know the parser:

    @abstractmethod
    def _reads(self) -> Phase | None:
        """What the parser is in the middle of: a head, a body, or nothing."""

    @abstractmethod
    def _head_begin(self) -> tuple[bytes, bytes]:
        """Of the request that is read: its method and target, as far as they are known."""

    _refusal: tuple[int, str] | None = None
    _lingering: asyncio.TimerHandle | None = None
    _discarded = 0  # bytes since the refusal

    def refuse(self, status: int, text: str, request: tuple[bytes, bytes] | None = None) -> None:
        """Answer the request that is read, when those before it are answered, and close.

        ``request``: method and target of one that the application has not got, though its head is
        there.
        """
        method, target = request or self._head_begin()
        path = printable(target.partition(b"?")[0].decode("latin-1")) or "unknown"
        _refusals.log(
            (status, path),
            "%s %s refused with %d: %s (client %s)",
            printable(method.decode("latin-1")),
            path,
            status,
            text,
            self.client[0] if self.client else "unknown",
        )
        self._refusal = (status, text)
        if request is None and self._reads() is Phase.BODY:
            # The application has the request, and perhaps waits for this very body.
            if not self._is_busy or self.cycle.response_started:
                self.transport.close()
                return
            self.cycle.disconnected = True
            self.cycle.message_event.set()
            self._send_refusal()
        elif not self._is_busy:
            self._send_refusal()

    @property
    def _is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _send_refusal(self) -> None:
        assert self._refusal is not None
        status, text = self._refusal
        lines = [
            b"HTTP/1.1 %d %b" % (status, http.HTTPStatus(status).phrase.encode()),
            *(b"%b: %b" % header for header in self.server_state.default_headers),
            b"content-type: text/plain; charset=utf-8",
            b"content-length: %d" % len(text),
            b"connection: close",
            b"",
            text.encode(),
        ]
        self.transport.write(b"\r\n".join(lines))
        self._linger()

    def _linger(self) -> None:
        """Close when the client has: were it still sending, its kernel would throw the answer away
        with the connection.
        """
        if not self.transport.can_write_eof():  # TLS
            self.transport.close()
            return
        self.transport.write_eof()
        self.transport.resume_reading()
        self._lingering = self.loop.call_later(LINGER_SECONDS, self.transport.abort)

    def _discard(self, data: bytes) -> None:
        """What comes after the refusal."""
        self._discarded += len(data)
        if self._discarded > LINGER_BYTES:
            self.transport.abort()

    def _stop_lingering(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
