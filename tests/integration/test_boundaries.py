"""What comes from outside (paths, headers, threads, wrong calls), and what stays in memory."""

import subprocess
import sys

from tests import ROOT


def run_without_uvicorn(program: str) -> str:
    without = "import sys\nsys.modules['uvicorn'] = None\nimport django\ndjango.setup()\n"
    done = subprocess.run(
        [sys.executable, "-c", without + program],
        cwd=ROOT,
        env={"DJANGO_SETTINGS_MODULE": "tests.settings"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_the_test_client_needs_no_uvicorn() -> None:
    program = (
        "import asyncio\n"
        "import django_ws.testing\n"
        "from django_ws.testing import WebSocketClient\n"
        "async def main():\n"
        "    async with WebSocketClient('/echo/') as ws:\n"
        "        await ws.send('hello')\n"
        "        print(await ws.receive())\n"
        "asyncio.run(main())\n"
        "try:\n"
        "    django_ws.testing.WebSocketLiveServerTestCase\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error.name)\n"
    )
    assert run_without_uvicorn(program).split() == ["hello", "uvicorn"]
