"""Unit tests open no socket and start no process: what does belongs to ``tests/integration``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

FORBIDDEN = {"socket.bind", "socket.connect", "subprocess.Popen", "os.fork", "os.posix_spawn"}

_found: list[str] = []


def _look(event: str, args: tuple[Any, ...]) -> None:
    if event in FORBIDDEN:
        _found.append(f"{event}{args[1:]}")


sys.addaudithook(_look)  # for good: Python takes none away


@pytest.fixture(autouse=True)
def nothing_leaves_the_process() -> Iterator[None]:
    _found.clear()
    yield
    found, _found[:] = list(_found), []
    assert not found, f"Move this test to tests/integration: {found}"
