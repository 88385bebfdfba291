"""Numbers each message of a publisher, so that one that comes too late is recognised.

A server that was frozen goes on with what lies in its sockets: also with messages that their
publisher has given up long ago, and after which it has published newer ones.
"""

from __future__ import annotations

import logging
import os
import struct
import threading

from django_ws.logs.throttled import ThrottledLog

logger = logging.getLogger("django.ws")

_late = ThrottledLog(logger, logging.WARNING, "broadcasts that came too late")

MESSAGE = b"\x01"  # neither begins an envelope
GAP = b"\x02"  # no message: something published to the topic may not have arrived

# The kind; the publisher; the number of its call; the oldest call that had not ended by then.
HEAD = struct.Struct("!c8sQQ")
_pack, _unpack = HEAD.pack, HEAD.unpack
_SIZE = HEAD.size


class Call:
    """One call of publish, from ``with`` on: gives the head for each of its messages."""

    __slots__ = ("_number", "_sender")

    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def __enter__(self) -> bytes:
        sender = self._sender
        with sender.lock:
            sender.last = self._number = number = sender.last + 1
            sender.running[number] = None
            oldest = next(iter(sender.running))
        return _pack(MESSAGE, sender.id, number, oldest)

    def __exit__(self, *exc_info: object) -> None:
        with self._sender.lock:
            del self._sender.running[self._number]


class Sender:
    """Numbers the calls of one publisher. For any thread, but not for a forked child."""

    def __init__(self) -> None:
        self.id = os.urandom(8)
        self.lock = threading.Lock()
        self.last = 0
        self.running: dict[int, None] = {}  # the oldest first

    def call(self) -> Call:
        return Call(self)


def order_of_gap(head: bytes) -> bytes:
    """What is published to a topic in place of a message, so that each listener tells a gap."""
    return GAP + head[1:]


class Receiver:
    """Reads what one server sends, in its order.

    A message is late when a newer one has come before it: one of the same publisher whose call
    began after that of this message had ended. By then this one had either been taken, and is
    before the newer one, or its publisher had given it up. Calls that ran at the same time, in two
    threads for example, have no order.
    """

    MAX_SENDERS = 10_000  # remembered; each process has one or two

    def __init__(self, server: str) -> None:
        self._server = server
        self._oldest: dict[bytes, int] = {}  # by sender: no older call may follow
        self._head = b""  # of the last message: those of one call share it

    def read(self, data: bytes) -> bytes | None:
        """The message; None where a gap is to be told in its place.

        What has no head was published by something else, and is given as it is.

        Hot path: once for each message.
        """
        head = data[:_SIZE]
        if head == self._head:
            return data[_SIZE:]
        if head[:1] not in (MESSAGE, GAP) or len(head) < _SIZE:
            return data
        kind, sender, number, oldest = _unpack(head)
        known = self._oldest.get(sender, 0)
        if oldest > known:
            if not known:
                self._make_room()
            self._oldest[sender] = oldest
        elif number < known:
            _late.log(
                self._server,
                "A broadcast from %s was dropped: it came after newer ones of its publisher. A gap "
                "is told in its place. The server had stood still, or was not the only one.",
                self._server,
            )
            return None
        if kind == GAP:
            return None
        self._head = head
        return data[_SIZE:]

    def _make_room(self) -> None:
        if len(self._oldest) >= self.MAX_SENDERS:  # forget the half that came first
            senders = list(self._oldest)
            for sender in senders[: len(senders) // 2]:
                del self._oldest[sender]
