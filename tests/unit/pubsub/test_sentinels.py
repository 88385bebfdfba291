"""Asking the sentinels: callers that come together ask once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from django_ws.pubsub.backends.redis.sentinels import (
    AsyncSentinels,
    Named,
    Setting,
    SyncSentinels,
)

SETTING = Setting("mymaster", [("127.0.0.1", 1)], {}, 0, None)


def an_answer() -> Named:
    return Named(("127.0.0.1", 2), is_sure=True, is_up=True, since=9.0, asked_at=time.monotonic())


def test_a_thread_that_has_waited_for_another_one_takes_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sentinels = SyncSentinels(SETTING)

    class Lock:
        """Free only when another thread has asked."""

        def acquire(self, timeout: float) -> bool:
            sentinels._memory.last = an_answer()
            return True

        def release(self) -> None: ...

    monkeypatch.setattr(sentinels, "_lock", Lock())
    monkeypatch.setattr(sentinels, "_ask", None)  # would raise
    assert sentinels.ask(time.monotonic() + 9, max_age=9) == sentinels.last is not None


async def test_a_task_that_has_waited_for_another_one_takes_its_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sentinels = AsyncSentinels(SETTING)
    asked: list[Any] = []

    async def ask() -> None:
        asked.append(None)
        await asyncio.sleep(0)
        sentinels._memory.last = an_answer()

    monkeypatch.setattr(sentinels, "_ask", ask)
    one, other = await asyncio.gather(sentinels.ask(max_age=9), sentinels.ask(max_age=9))
    assert one == other is not None
    assert len(asked) == 1
