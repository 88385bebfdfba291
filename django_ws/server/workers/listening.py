"""The listening sockets: bound once, by the supervisor, for all workers."""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^\[\]]+)\]|(?P<host>[^:\[\]]*)):(?P<port>\d{1,5})")
SOCKET_MODE = 0o666  # as of gunicorn and uvicorn: who may come in, the folder says


class BindError(Exception):
    """An address that is none, or cannot be bound. The text names it, the cause and the cure."""


class Listening:
    """Sockets that listen. ``close`` ends them, and removes the files of unix sockets."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self._files: dict[Path, int] = {}  # by inode: another server may have replaced them

    def open(self, addresses: Iterable[str], backlog: int) -> None:
        """All or none. Raises ``BindError``."""
        try:
            for address in addresses:
                self._open(address, backlog)
        except OSError as error:
            self.close()
            reason = error.strerror or str(error)
            raise BindError(f"cannot listen on {address}: {reason}{_cure(error)}") from error
        except BindError:
            self.close()
            raise

    def _open(self, address: str, backlog: int) -> None:
        path = address.removeprefix("unix:")
        if path != address and path:
            self._open_unix(Path(path).absolute(), backlog)
            return
        found = ADDRESS.fullmatch(address)
        if not found or int(found["port"]) > 65535:
            raise BindError(
                f"{address!r} is no address: give HOST:PORT, [IPV6]:PORT, :PORT or unix:PATH"
            )
        host, port = found["ipv6"] or found["host"], int(found["port"])
        self.sockets += _open_tcp(host or "0.0.0.0", port, backlog)

    def _open_unix(self, path: Path, backlog: int) -> None:
        if path.exists():
            _remove_left_over(path)
        listener = socket.socket(socket.AF_UNIX)
        self.sockets.append(listener)
        listener.bind(str(path))
        self._files[path] = path.stat().st_ino
        path.chmod(SOCKET_MODE)
        listener.listen(backlog)

    def close(self) -> None:
        for listener in self.sockets:
            listener.close()
        for path, inode in self._files.items():
            if path.exists() and path.stat().st_ino == inode:
                path.unlink()
        self.sockets.clear()
        self._files.clear()

    def shown(self, scheme: str) -> Sequence[str]:
        """The addresses for the log, with the ports that the system chose."""
        return [_shown(listener, scheme) for listener in self.sockets]


def _open_tcp(host: str, port: int, backlog: int) -> list[socket.socket]:
    """One for each address of a name; what this machine does not have (IPv6) is left out."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    for family, address in dict.fromkeys((each[0], each[4]) for each in found):
        both = host == "::" and socket.has_dualstack_ipv6()
        try:
            opened.append(
                socket.create_server(address, family=family, backlog=backlog, dualstack_ipv6=both)
            )
        except OSError as error:
            is_other_left = len(opened) > 0 or address != found[-1][4]
            if error.errno == errno.EADDRNOTAVAIL and is_other_left:
                continue
            for each in opened:
                each.close()
            raise
    return opened


def _remove_left_over(path: Path) -> None:
    """The file of a server that was killed; not that of one that serves, nor anything else."""
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise BindError(f"cannot listen on unix:{path}: there is a file that is no socket")
    with socket.socket(socket.AF_UNIX) as visitor:
        visitor.setblocking(False)
        refused = visitor.connect_ex(str(path))
    if refused != errno.ECONNREFUSED:
        raise BindError(f"cannot listen on unix:{path}: another server listens there")
    path.unlink()


def _cure(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return ". Another server listens there: stop it, or take another port"
        case errno.EACCES:
            return ". Ports below 1024 and foreign folders are for those who may"
        case _:
            return ""


def _shown(listener: socket.socket, scheme: str) -> str:
    name = listener.getsockname()
    if listener.family == getattr(socket, "AF_UNIX", None):
        return f"unix:{os.fsdecode(name)}"
    host = f"[{name[0]}]" if listener.family == socket.AF_INET6 else name[0]
    return f"{scheme}://{host}:{name[1]}"
