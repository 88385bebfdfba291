"""A Django project of its own in a folder of its own, its commands and its uvicorn."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests import ROOT
from tests.support.servers import START_SECONDS, STOP_SECONDS, TROUBLE, Lines

COMMAND_SECONDS = 45.0


def environment(**more: str) -> dict[str, str]:
    """This process's, without the settings of the tests, and with django_ws to be found."""
    mine = {key: value for key, value in os.environ.items() if key != "DJANGO_SETTINGS_MODULE"}
    return {**mine, "PYTHONPATH": str(ROOT), **more}


def manage(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run ``manage.py``; the caller looks at the return code."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=folder,
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


class Uvicorn:
    """``uvicorn APPLICATION`` in the project's folder; ``with`` ends it and looks at its output."""

    def __init__(self, folder: Path, application: str, port: int = 0, **more: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", application, "--port", str(port)],
            cwd=folder,
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert self.process.stdout is not None
        self.output = Lines(self.process.stdout)
        # Port 0: the operating system chooses one, and uvicorn tells which.
        announced = re.compile(r"running on http://127\.0\.0\.1:(\d+)")
        if not self.output.wait_for(lambda lines: _any(announced, lines), START_SECONDS):
            self.stop()
            raise RuntimeError(f"uvicorn did not start:\n{self.printed}")
        found = announced.search(self.printed)
        assert found is not None
        self.port = int(found[1])

    @property
    def printed(self) -> str:
        return "\n".join(self.output.lines)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            self.output.close()

    def __enter__(self) -> Uvicorn:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()
        assert not TROUBLE.search(self.printed), self.printed


def _any(pattern: re.Pattern[str], lines: list[str]) -> bool:
    return any(pattern.search(line) for line in lines)
