"""uvicorn's HTTP protocol on httptools, with our limits."""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from django_ws.server.http.limited import (
    INVALID,
    PIECE,
    TOO_LARGE,
    LimitedHTTP,
    has_body,
    is_too_large,
)
from django_ws.server.http.limits import MAX_HEADERS
from django_ws.server.http.waiting import Phase

BODY_WOULD_BE_LOST = "A request that asks for another protocol may have no body."


class Refused(Exception):
    """A head, when it is there. Raised through the parser, which makes another error of it."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(status, text)
        self.status = status
        self.text = text


class LimitedHttpTools(LimitedHTTP, HttpToolsProtocol):  # type: ignore[misc]
    """Give it to uvicorn as ``http``."""

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.url = b""  # uvicorn's, which makes it with the first request
        self._part: Phase | None = None  # what the parser is in the middle of
        self._head_size = 0  # bytes of the head that is read, to a piece exact

    def _parse(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._head_size += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stop_parsing(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            refused = error.__context__
            if isinstance(refused, Refused):
                self.refuse(refused.status, refused.text)
            else:
                self.refuse(400, INVALID)
        else:
            if self._part is Phase.HEAD and self._head_size > self.limits.max_header_size:
                self.refuse(431, TOO_LARGE)

    def _stop_parsing(self, rest: bytes) -> None:
        """httptools does, where a client asks for another protocol."""
        if self._should_upgrade():
            self.upgrade(self.scope["method"].encode(), self.url, self.headers, rest)
            return
        self._unsupported_upgrade_warning()
        if rest:  # it is answered as if it had not asked: uvicorn's forgets what comes behind it
            self._parse(rest)

    # Called by the parser

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._part = Phase.HEAD

    def on_headers_complete(self) -> None:
        limit = self.limits.max_header_size
        # Only what may be too large is looked at closely: a head may begin within a piece.
        may_be_too_large = self._head_size > limit - PIECE or len(self.headers) > MAX_HEADERS
        if may_be_too_large and is_too_large(limit, self.url, self.headers):
            raise Refused(431, TOO_LARGE)
        if self.parser.should_upgrade() and has_body(self.headers) and not self._should_upgrade():
            raise Refused(400, BODY_WOULD_BE_LOST)
        super().on_headers_complete()
        self._part = Phase.BODY

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._part = None
        self._head_size = 0

    def _let_go(self) -> None:
        super()._let_go()
        self.parser = None  # type: ignore[assignment]  # as uvicorn's, when a connection is lost

    # For LimitedHTTP

    def _reads(self) -> Phase | None:
        return self._part

    def _head_begin(self) -> tuple[bytes, bytes]:
        return self.parser.get_method() if self.url else b"Request", self.url
