"""What a wrong WS_BROADCAST says, and where; and the publishers of a process that forks."""

from __future__ import annotations

import subprocess
import sys

FORKING = """
import os, threading, django
from django.conf import settings
settings.configure(ROOT_URLCONF="urls", WS_BROADCAST={"default": {
    "BACKEND": "django_ws.pubsub.backends.memory.MemoryBackend"}})
django.setup()
from django_ws import broadcast
from django_ws.pubsub.hub import registry

held, done = threading.Event(), threading.Event()

def hold():
    with registry._lock:  # as by a thread that makes a publisher just now
        held.set()
        done.wait(20)

holding = threading.Thread(target=hold)
holding.start()
held.wait(20)
child = os.fork()
if not child:
    broadcast("room", 1)
    os._exit(7)
try:
    for _ in range(1000):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            print(os.waitstatus_to_exitcode(status))
            break
        done.wait(0.01)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        print("it hangs")
finally:
    done.set()
    holding.join()
"""


def test_a_child_forked_while_a_publisher_is_made_can_broadcast() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING], capture_output=True, text=True, timeout=50
    )
    assert (done.stdout, done.stderr) == ("7\n", "")
