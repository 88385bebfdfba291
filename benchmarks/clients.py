"""Opens sockets and keeps them, each after its handshake and, mostly, one message each way."""

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks import frames
from benchmarks.server import Server

_AT_ONCE = 50


def connect(server: Server) -> socket.socket:
    """A connection without a handshake. The kernel takes it at once, the server need not."""
    client = socket.create_connection(("127.0.0.1", server.port), 20)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return client


def _accepted(client: socket.socket) -> None:
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        data = client.recv(4096)
        answer += data
        if not data or not frames.ACCEPTED.startswith(answer[: len(frames.ACCEPTED)]):
            raise RuntimeError(f"the handshake was answered {answer + client.recv(4096)!r}")


@contextmanager
def opened(server: Server, path: str, count: int) -> Iterator[list[socket.socket]]:
    """``count`` accepted sockets, opened some at a time."""
    request = frames.handshake(server.port, path)
    clients: list[socket.socket] = []
    try:
        for start in range(0, count, _AT_ONCE):
            batch = [connect(server) for _ in range(min(_AT_ONCE, count - start))]
            clients += batch
            for client in batch:
                client.sendall(request)
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
