"""Opens sockets and keeps them, each after its handshake and, mostly, one message each way."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from benchmarks import frames
from benchmarks.server import Server

_AT_ONCE = 50


def connect(server: Server, receive_buffer: int = 0) -> socket.socket:
    """A connection without a handshake. The kernel takes it at once, the server need not."""
    client = socket.socket()
    client.settimeout(20)
    if receive_buffer:  # before connecting, or the window is open already
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    client.connect(("127.0.0.1", server.port))
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def _accepted(client: socket.socket) -> None:
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        data = client.recv(4096)
        answer += data
        if not data or not frames.ACCEPTED.startswith(answer[: len(frames.ACCEPTED)]):
            raise RuntimeError(f"the handshake was answered {answer + client.recv(4096)!r}")


def opened(server: Server, path: str, count: int) -> AbstractContextManager[list[socket.socket]]:
    """``count`` accepted sockets, opened some at a time."""
    return opened_at(server, [path] * count)


@contextmanager
def opened_at(
    server: Server, paths: Sequence[str], receive_buffer: int = 0, *, deflate: bool = False
) -> Iterator[list[socket.socket]]:
    """An accepted socket for each of the paths, opened some at a time."""
    clients: list[socket.socket] = []
    try:
        for start in range(0, len(paths), _AT_ONCE):
            some = paths[start : start + _AT_ONCE]
            batch = [connect(server, receive_buffer) for _ in some]
            clients += batch
            for client, path in zip(batch, some, strict=True):
                client.sendall(frames.handshake(server.port, path, deflate))
            for client in batch:
                _accepted(client)
        yield clients
    finally:
        for client in clients:
            client.close()


def one_message_each(clients: Sequence[socket.socket], message: frames.Message) -> bytes:
    """One message each way on every socket. Gives the answer's frame, the same on all of them."""
    frame = frames.masked(message.text)
    answers: set[bytes] = set()
    for start in range(0, len(clients), _AT_ONCE):
        batch = clients[start : start + _AT_ONCE]
        for client in batch:
            client.sendall(frame)
        answers.update(client.recv(4096) for client in batch)
    answer = answers.pop()
    if answers or not message.same(frames.unframed(answer)):
        raise RuntimeError(f"not an echo: {answer!r}, {answers!r}")
    return answer


def learn_answer(server: Server, message: frames.Message) -> bytes:
    """The frame with which this server answers the message."""
    with opened(server, message.path, 1) as clients:
        return one_message_each(clients, message)
