"""Bounded threads for sync hooks and the ORM, on a real database on disk."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pytest_django import Settings

from tests import ROOT

pytestmark = pytest.mark.django_db(transaction=True)


class Meeting:
    """What the hooks of one test share."""

    barrier: ClassVar[threading.Barrier]
    started: ClassVar[threading.Semaphore]
    go_on: ClassVar[threading.Event]
    threads: ClassVar[set[str]]
    steps: ClassVar[list[Any]]


@pytest.fixture(autouse=True)
def meeting(settings: Settings) -> None:
    settings.ROOT_WS_URLCONF = __name__
    settings.WS_MIDDLEWARE = []
    Meeting.started = threading.Semaphore(0)
    Meeting.go_on = threading.Event()
    Meeting.threads = set()
    Meeting.steps = []


FORK = """
import asyncio, os, sys, threading
from django.conf import settings
settings.configure(SECRET_KEY="x", ROOT_WS_URLCONF=__name__, ALLOWED_HOSTS=["testserver"])
from django.urls import path
from django_ws import WebSocketHandler, get_websocket_application
from django_ws.testing import WebSocketClient

class Sync(WebSocketHandler):
    def on_message(self, message):
        self.send(f"{message} in {threading.current_thread().name.partition('_')[0]}")

urlpatterns = [path("sync/", Sync)]
application = get_websocket_application()

async def main(message):
    async with WebSocketClient("/sync/", application=application, timeout=5) as ws:
        await ws.send(message)
        print(await ws.receive(), flush=True)

asyncio.run(main("parent"))
child = os.fork()
if child:
    os.waitpid(child, 0)
asyncio.run(main("parent again" if child else "child"))
"""


def test_forked_process_has_threads_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "project.py").write_text(FORK)
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", "import project"],
        cwd=ROOT,  # where coverage keeps its data
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "parent in django",
        "child in django",
        "parent again in django",
    ]


HELD = """
import os, sys, threading, time
from django.conf import settings
settings.configure(SECRET_KEY="x", ROOT_WS_URLCONF="none")
import django
django.setup()
from django_ws.threads import pool

held, forked = threading.Event(), threading.Event()

def hold():
    with pool._pool_lock:
        held.set()
        forked.wait(30)

threading.Thread(target=hold).start()
held.wait(30)
child = os.fork()
if child:
    forked.set()
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
ran = pool.InOrder().submit(threading.current_thread).result(20)
os._exit(0 if ran.name.startswith("django_ws") else 2)
"""


def test_fork_while_a_thread_begins_its_first_call_leaves_no_lock_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", HELD],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
