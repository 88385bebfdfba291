"""What one event loop publishes: in the order of the calls, many in one round trip."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context

from django_ws.acting import Pending
from django_ws.exceptions import BroadcastError

logger = logging.getLogger("django.ws")

MAX_BATCH = 500  # messages
MAX_WAITING_BYTES = 64 * 1024 * 1024

Message = tuple[str, bytes]


class Outbox:
    """For one event loop, and its thread only. Its one writer runs while anything waits."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        publish_many: Callable[[list[Message]], Awaitable[None]],
    ) -> None:
        self._loop = loop
        self._publish_many = publish_many
        self._waiting: deque[tuple[Sequence[Message], Pending]] = deque()
        self._size = 0
        self._writer: asyncio.Task[None] | None = None

    def put(self, messages: Sequence[Message]) -> Awaitable[None]:
        """Publish. Awaiting returns when the backend has taken all, or raises ``BroadcastError``;
        a failure that nobody awaits is logged. Raises it at once while too much waits.
        """
        size = sum(len(data) for _, data in messages)
        if self._waiting and self._size + size > MAX_WAITING_BYTES:
            raise BroadcastError(
                "broadcast", "the outbox", f"{self._size} bytes wait to be published already"
            )
        pending = Pending()
        self._size += size
        self._waiting.append((messages, pending))
        if self._writer is None:
            # In an empty context: it outlives whoever is the first to publish. Not by
            # loop.create_task(): an eager factory would run it before it is known here.
            self._writer = asyncio.Task(
                self._write(), loop=self._loop, name="django_ws outbox", context=Context()
            )
        return pending

    async def flush(self) -> None:
        """Wait until nothing is left to publish."""
        if self._writer is not None:
            await asyncio.wait([self._writer])

    async def _write(self) -> None:
        try:
            while self._waiting:
                await self._write_batch()
        finally:
            self._writer = None

    async def _write_batch(self) -> None:
        batch: list[Message] = []
        pendings = []
        while self._waiting and len(batch) < MAX_BATCH:
            messages, pending = self._waiting.popleft()
            batch += messages
            pendings.append(pending)
        error: BroadcastError | None = BroadcastError("broadcast", "the backend", "cancelled")
        try:
            await self._publish_many(batch)
            error = None
        except BroadcastError as failure:
            error = failure
            logger.warning("%d broadcasts were lost: %s", len(batch), failure)
        finally:
            self._size -= sum(len(data) for _, data in batch)
            for pending in pendings:
                pending.finish(error)
