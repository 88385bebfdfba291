"""A queue of broadcasts to the backend: in order, many in one round trip."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends.base import TOO_LATE
from django_ws.pubsub.outbox.loss_log import LossLog
from django_ws.threads.any_thread import Pending

MAX_BATCH = 500  # messages
MAX_BATCH_BYTES = 1024 * 1024  # so that a slow network takes a batch in time; one always fits

Message = tuple[str, bytes]


class Call:
    """One call of ``Outbox.put``. Ends with its last part; a loss that nobody awaits is logged."""

    __slots__ = ("_error", "_losses", "_lost", "_parts", "deadline", "pending")

    def __init__(self, parts: int, deadline: float) -> None:
        self.pending = Pending()
        self.deadline = deadline  # by the loop's clock
        self._parts = parts
        self._lost = 0
        self._error: BroadcastError | None = None
        self._losses: LossLog | None = None

    def end_part(self, error: BroadcastError | None, lost: int, losses: LossLog) -> None:
        """One part has ended, and ``lost`` of its messages were not published."""
        if error is not None and self._error is None:
            self._error, self._losses = error, losses
        self._lost += lost
        self._parts -= 1
        if not self._parts:
            if self._error is not None and self._losses is not None and not self.pending.is_awaited:
                self._losses.add(self._lost, self._error)
            self.pending.finish(self._error)


class Part:
    """The messages of a call that go through one queue."""

    __slots__ = ("_is_over", "call", "messages")

    def __init__(self, call: Call, messages: Sequence[Message]) -> None:
        self.call = call
        self.messages = messages
        self._is_over = False

    def end(self, error: BroadcastError | None, lost: int, losses: LossLog) -> None:
        """Report the outcome to the call. Later outcomes are ignored."""
        if not self._is_over:
            self._is_over = True
            self.call.end_part(error, lost, losses)


class PublishQueue:
    """One task publishes, as long as messages wait. For the loop's thread only.

    ``on_release`` is called for each part that has been published or dropped, ``on_idle`` when
    nothing waits any more.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        publish_many: Callable[[list[Message]], Awaitable[None]],
        failure: Callable[[str], BroadcastError],
        on_release: Callable[[Part], None],
        on_idle: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._publish_many = publish_many
        self._failure = failure
        self._on_release = on_release
        self._on_idle = on_idle
        self._waiting: deque[Part] = deque()
        self._under_way: list[Part] = []
        self.writer: asyncio.Task[None] | None = None
        self.losses = LossLog(loop)
        self._timeout: asyncio.Timeout | None = None  # of the batch under way

    @property
    def is_idle(self) -> bool:
        is_over = self.writer is None or self.writer.done()  # cancelled before its first step
        return is_over and not self._waiting

    def put(self, part: Part) -> None:
        self._waiting.append(part)
        if self.writer is None or self.writer.done():  # cancelled before its first step
            # In an empty context, since it outlives the first caller. Not by loop.create_task():
            # an eager task factory would run it before self.writer is set.
            self.writer = asyncio.Task(
                self._write(), loop=self._loop, name="django_ws outbox", context=Context()
            )

    def expire(self) -> float | None:
        """Fail the parts whose deadline has passed. Returns the next deadline, if there is one."""
        now = self._loop.time()
        for part in self._under_way:
            if part.call.deadline <= now:
                part.end(self._failure(TOO_LATE), len(part.messages), self.losses)
            else:
                return part.call.deadline
        if self._timeout is not None and self._timeout.when() is None:
            self._timeout.reschedule(now)  # nobody waits any more
        while self._waiting and self._waiting[0].call.deadline <= now:
            self._drop(self._waiting.popleft(), self._failure(TOO_LATE))
        return self._waiting[0].call.deadline if self._waiting else None

    def close(self, error: BroadcastError) -> None:
        """Fail what waits and what is under way, and end the writer."""
        while self._waiting:
            self._drop(self._waiting.popleft(), error)
        for part in self._under_way:
            part.end(error, len(part.messages), self.losses)
        if self.writer is not None:
            self.writer.cancel()
        self.losses.tell()

    def _drop(self, part: Part, error: BroadcastError) -> None:
        self._on_release(part)
        part.end(error, len(part.messages), self.losses)

    async def _write(self) -> None:
        try:
            while self._waiting:
                if batch := self._next_batch():
                    await self._write_batch(batch)
        finally:
            self.writer = None
            while self._waiting:  # the writer was cancelled: its event loop ends
                self._drop(self._waiting.popleft(), self._failure("cancelled"))
            self._on_idle()

    async def _write_batch(self, batch: list[Message]) -> None:
        try:
            async with asyncio.timeout(None) as self._timeout:  # expire() sets it
                await self._publish_many(batch)
        except BroadcastError as failure:
            self._end_batch(failure)
        except TimeoutError:
            self._end_batch(self._failure(TOO_LATE))
        except Exception as defect:  # a bug in the backend: go on with the next batch
            error = self._failure(f"{type(defect).__name__}: {defect}")
            error.__cause__ = defect
            self._end_batch(error)
        except BaseException:
            self._end_batch(self._failure("cancelled"))
            raise
        else:
            self._end_batch(None)

    def _next_batch(self) -> list[Message]:
        """The next messages. Those whose deadline has passed are dropped."""
        batch: list[Message] = []
        size = 0
        now = self._loop.time()
        while self._waiting:
            part = self._waiting[0]
            if part.call.deadline <= now:
                self._drop(self._waiting.popleft(), self._failure(TOO_LATE))
                continue
            size += sum([len(data) for _, data in part.messages])
            if batch and (len(batch) + len(part.messages) > MAX_BATCH or size > MAX_BATCH_BYTES):
                break
            batch += part.messages
            self._under_way.append(self._waiting.popleft())
        return batch

    def _end_batch(self, error: BroadcastError | None) -> None:
        """End the parts under way, each with the error of its own messages."""
        self._timeout = None
        parts, self._under_way = self._under_way, []
        index = 0
        for part in parts:
            after = index + len(part.messages)
            self._on_release(part)
            if error is None:
                part.end(None, 0, self.losses)
            elif error.errors:
                own = [error.errors[n] for n in range(index, after) if n in error.errors]
                part.end(own[0] if own else None, len(own), self.losses)
            else:
                part.end(error, len(part.messages), self.losses)
            index = after
        if error is None:
            self.losses.end()
