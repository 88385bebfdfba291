"""Log lines that anybody can cause: one for each key, ten of a kind, and the rest counted."""

import logging
from concurrent.futures import ThreadPoolExecutor

import pytest

from django_ws.logs import throttled
from django_ws.logs.throttled import MAX_KEYS, SECONDS, ThrottledLog, flush_all
from tests.support.asgi_peer import until

logger = logging.getLogger("tests.throttled")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> ThrottledLog:
    return ThrottledLog(logger, logging.WARNING, "odd things", clock)


def test_each_key_is_logged_once_in_ten_seconds(
    log: ThrottledLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    assert log.log("a", "odd: %s", "first")
    assert not log.log("a", "odd: %s", "second")
    assert log.log("b", "odd: %s", "other")
    clock.now = SECONDS - 0.01
    assert not log.log("a", "odd: %s", "third")
    assert caplog.messages == ["odd: first", "odd: other"]


def test_what_was_left_out_is_counted_when_the_time_is_over(
    log: ThrottledLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5):
        log.log("a", "odd: %d", number)
    clock.now = SECONDS
    log.log("a", "odd: %d", 5)
    assert caplog.messages == [
        "odd: 0",
        "Further odd things in 10 s: 4. The last: odd: 4",
        "odd: 5",
    ]


def test_many_keys_are_ten_lines_and_a_count(
    log: ThrottledLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1000):
        log.log(number, "odd: %d", number)
    assert len(caplog.messages) == MAX_KEYS
    log.flush()
    assert caplog.messages[-1] == (
        f"Further odd things in 10 s: {1000 - MAX_KEYS}. The last: odd: 999"
    )
    clock.now = SECONDS
    assert log.log(1000, "odd: %d", 1000)


def test_a_line_below_the_level_costs_nothing_and_is_not_counted(
    log: ThrottledLog, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger=logger.name):
        for _ in range(3):
            assert not log.log("a", "%d", "no number, which would raise")
    log.flush()
    assert caplog.messages == []


async def test_in_an_event_loop_the_count_needs_no_further_line(
    log: ThrottledLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log.log("a", "odd")
    monkeypatch.setattr(throttled, "SECONDS", 0.01)
    log.log("a", "odd again")
    await until(lambda: len(caplog.messages) == 2)
    assert caplog.messages == ["odd", "Further odd things in 0.01 s: 1. The last: odd again"]


def test_at_the_end_of_a_process_all_counts_are_logged(
    log: ThrottledLog, caplog: pytest.LogCaptureFixture
) -> None:
    log.log("a", "odd")
    log.log("a", "odd again")
    flush_all()
    flush_all()
    assert caplog.messages == ["odd", "Further odd things in 10 s: 1. The last: odd again"]


def test_nothing_is_lost_between_threads(
    log: ThrottledLog, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor(8) as pool:
        logged = sum(pool.map(lambda number: log.log(number % 3, "odd"), range(4000)))
    log.flush()
    assert logged == 3
    assert caplog.messages == ["odd"] * 3 + ["Further odd things in 10 s: 3997. The last: odd"]


def test_the_line_names_the_place_of_the_caller(
    log: ThrottledLog, caplog: pytest.LogCaptureFixture
) -> None:
    try:
        raise ValueError("why")
    except ValueError as error:
        log.log("a", "odd", exc_info=error)
    [record] = caplog.records
    assert record.filename == "test_throttled_log.py"
    assert record.exc_info is not None
    assert "ValueError: why" in caplog.text
