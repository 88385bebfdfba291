"""The end of a log-in is announced to all processes; where that fails, the log is told."""

import asyncio
import gc

import pytest

from django_ws.auth.orders import publish
from django_ws.pubsub.envelope import seal_check
from tests.support.asgi_peer import until
from tests.support.fickle import FickleBackend, fickle  # noqa: F401  (a fixture)

FAILED = "Sockets stay open until their log-in is checked again: publish failed at fickle"


def test_a_failure_in_sync_code_is_logged(
    fickle: type[FickleBackend],  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    fickle.is_down = True
    publish(seal_check("somebody"))
    assert caplog.messages == [f"{FAILED}: it is down"]


async def test_a_failure_in_async_code_where_no_hub_listens_is_logged(
    fickle: type[FickleBackend],  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    fickle.is_down = True
    publish(seal_check("somebody"))
    await until(lambda: caplog.messages)
    await asyncio.to_thread(gc.collect)  # which makes asyncio tell of what nobody has looked at
    assert caplog.messages == [f"{FAILED}: it is down"]
