"""Unit tests open no socket and start no process: what does belongs to ``tests/integration``."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

FORBIDDEN = {
    "os.fork", "os.posix_spawn", "os.system", "socket.bind", "socket.connect", "subprocess.Popen",
}  # fmt: skip

_found: list[str] = []
_strangers: set[int] = set()  # threads that other tests have left


def _look(event: str, args: tuple[Any, ...]) -> None:
    if event in FORBIDDEN and threading.get_ident() not in _strangers:
        _found.append(f"{event}{args[1:]}")


sys.addaudithook(_look)  # for good: Python takes none away


@pytest.fixture(scope="module", autouse=True)
def only_this_module_counts() -> None:
    _strangers.clear()
    here = threading.current_thread()
    _strangers.update(each.ident or 0 for each in threading.enumerate() if each is not here)
    _found.clear()


@pytest.fixture(autouse=True)
def nothing_leaves_the_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def spawn(*args: Any) -> None:  # which Python's audit events do not have
        _found.append("multiprocessing")
        raise AssertionError("a unit test starts no process")

    monkeypatch.setattr("multiprocessing.util.spawnv_passfds", spawn)
    yield
    found, _found[:] = list(_found), []
    assert not found, f"Move this test to tests/integration: {found}"
