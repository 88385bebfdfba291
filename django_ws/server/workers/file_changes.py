"""Watches files for ``--reload``, in a thread."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterable
from pathlib import Path

import uvicorn
from uvicorn.supervisors import ChangeReload

logger = logging.getLogger("uvicorn.error")


class Changes:
    """Changes of Python files below the current folder, as uvicorn's reloader finds them.

    ``woken`` is readable when there are some; ``take`` names them.
    """

    def __init__(self, application: str) -> None:
        config = uvicorn.Config(application, reload=True, log_config=None)
        # Only its way to find changes is used: it starts nothing.
        self._finder = ChangeReload(config, target=lambda sockets: None, sockets=[])
        self.woken, self._waking = socket.socketpair()
        self.woken.setblocking(False)
        self._found: set[str] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._find, name="changes", daemon=True)
        self._thread.start()
        folders = ", ".join(str(folder) for folder in config.reload_dirs)
        logger.info("Looking for changes in %s (%s)", folders, self._finder.reloader_name)

    def take(self) -> set[str]:
        """The files that have changed since the last call."""
        with self._lock:
            found, self._found = self._found, set()
            if found:
                self.woken.recv(4096)
        return found

    def close(self) -> None:
        self._finder.should_exit.set()
        self._thread.join()
        self.woken.close()
        self._waking.close()

    def _find(self) -> None:
        for files in self._finder:
            if files:
                if hasattr(self._finder, "mtimes"):  # without watchfiles
                    self._finder.mtimes = {}  # otherwise it would find the same again
                with self._lock:
                    self._found.update(_shown(files))
                    self._waking.send(b"\0")


def _shown(files: Iterable[Path]) -> set[str]:
    here = Path.cwd()
    return {str(file.relative_to(here) if file.is_relative_to(here) else file) for file in files}
