"""The limit of open files is as high as it may be."""

from __future__ import annotations

import logging
import resource
from typing import Any

import pytest

from django_ws.server.workers.open_files import MOST, raise_limit
from tests.support.running import Runws

INFINITY = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Those of the process, without changing them for the other tests."""
    found: dict[str, Any] = {"now": (1024, 4096), "error": None}

    def set_limit(kind: int, wanted: tuple[int, int]) -> None:
        if found["error"] is not None:
            raise found["error"]
        found["now"] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda kind: found["now"])
    monkeypatch.setattr(resource, "setrlimit", set_limit)
    return found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((1024, 4096), 4096),
        ((1024, 2**30), MOST),
        ((1024, INFINITY), MOST),
        ((4096, 4096), 4096),
        ((INFINITY, INFINITY), INFINITY),
        ((2**30, 2**30), 2**30),
    ],
)
def test_it_is_raised_to_the_hard_limit(
    limits: dict[str, Any],
    before: tuple[int, int],
    after: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "uvicorn.error")
    limits["now"] = before
    raise_limit()
    assert limits["now"] == (after, before[1])
    [record] = caplog.records
    assert record.levelname == ("DEBUG" if before[0] == after else "INFO")
    assert f"at most {after}" in record.message


def test_a_system_that_refuses_is_told_of(
    limits: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    limits["error"] = ValueError("not allowed to raise maximum limit")
    raise_limit()
    assert limits["now"] == (1024, 4096)
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert "at most 1024 for each process, not 4096" in record.message


def test_workers_have_it_too() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = (
        "import resource, sys; from django_ws.server import __main__; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, (256, {hard})); sys.exit(__main__.main())"
    )
    application = "tests.integration.server.runws_site.asgi:application"
    with Runws(command=("-c", code, application)) as server:
        [worker] = server.ready
        assert resource.prlimit(worker, resource.RLIMIT_NOFILE) == (min(hard, MOST), hard)
        server.wait_for(f"at most {min(hard, MOST)} for each process (it was 256)")
