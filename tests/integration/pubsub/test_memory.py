"""The backend for one process: what it does beyond the contract."""

import subprocess
import sys

FORKING = """
import asyncio, os, time
from django_ws.pubsub.backends import memory
from django_ws.pubsub.backends.memory import MemoryBackend, MemoryPublisher

async def main():
    backend = MemoryBackend(None, "", {})
    await backend.connect()
    await backend.subscribe(["room"])
    with memory._bus().lock:  # as if another thread published just now
        child = os.fork()
        if not child:
            MemoryPublisher(None, "", {}).publish([("room", b"child")])
            os._exit(7 if not backend._waiting else 1)
    _, status = os.waitpid(child, 0)
    MemoryPublisher(None, "", {}).publish([("room", b"parent")])
    async for received in backend.stream():
        print(os.waitstatus_to_exitcode(status), received)
        await backend.close()

asyncio.run(main())
"""


def test_a_forked_child_starts_afresh() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORKING], capture_output=True, text=True, timeout=30
    )
    assert done.stdout.strip() == "7 ('room', b'parent')", done.stderr
