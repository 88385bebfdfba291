"""How long the hub works before it lets the event loop turn."""

import pytest

from django_ws.pubsub.hub import time_slice
from django_ws.pubsub.hub.time_slice import TURN_SECONDS, TimeSlice


async def test_time_counts_over_several_and_anew_after_a_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 0.0
    monkeypatch.setattr(time_slice, "monotonic", lambda: now)
    counted = TimeSlice()
    counted.begin()
    now += 0.6 * TURN_SECONDS
    assert not counted.is_over()
    counted.finish()
    now += 1.0  # in which others ran
    counted.begin()
    now += 0.6 * TURN_SECONDS
    assert counted.is_over()
    counted.finish()
    counted.begin()
    assert counted.is_over()
    await counted.pass_on()
    assert not counted.is_over()
    counted.begin()
    now += 0.6 * TURN_SECONDS
    assert not counted.is_over()
