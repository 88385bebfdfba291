"""The Autobahn test suite against `runws`, and against uvicorn's own class beside it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.autobahn.cases import cases, group_of
from tests.autobahn.verdict import Verdict, judge
from tests.support.running import Runws

pytestmark = pytest.mark.heavy

logger = logging.getLogger(__name__)

COMMAND = ("-m", "django_ws.server", "tests.support.echo:application")
SETTINGS = "tests.autobahn.settings"
SERVERS = {"runws": "fast", "uvicorn": "websockets-sansio"}
GROUPS = (1, 2, 3, 4, 5, 6, 7, 10)  # those that are no measurements: some seconds
# What follows a message half sent and a close. The websockets library finds the message
# incomplete and closes with 1002. Where it has learned to answer with 1000, empty this.
FAILS = {"7.1.5"}


@pytest.fixture(scope="module", params=SERVERS)
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    environment = {"DJANGO_SETTINGS_MODULE": SETTINGS}
    options = ("--ws", SERVERS[request.param], "--compression", "--no-access-log")
    with Runws(*options, command=COMMAND, environment=environment) as server:
        yield f"ws://127.0.0.1:{server.port}/"
        if request.param == "uvicorn" and "Traceback" in server.printed:
            server.trouble = "Traceback"  # of each text that is no UTF-8


def failed(verdicts: list[Verdict]) -> set[str]:
    bad = [verdict for verdict in verdicts if verdict.has_failed]
    for verdict in bad:  # shown where the test fails
        logger.info("%s", verdict.report)
    return {verdict.number for verdict in bad}


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_of_cases(url: str, group: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, __name__)
    chosen = cases([f"{group}.*"])
    verdicts = judge(url, [f"{group}.*"])
    assert failed(verdicts) == FAILS & set(chosen)
    assert not any(verdict.is_skipped for verdict in verdicts)


def test_the_groups_are_what_is_installed() -> None:
    numbers = list(cases())
    assert len(numbers) == len(set(numbers)) == 517
    assert {group_of(number) for number in numbers} == {*GROUPS, 9, 12, 13}


@pytest.mark.faults
def test_all_cases(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, __name__)
    verdicts = judge(url, ["*"])
    assert len(verdicts) == 517
    assert failed(verdicts) == FAILS
    assert not any(verdict.is_skipped for verdict in verdicts)
