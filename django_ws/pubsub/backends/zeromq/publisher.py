"""Publishes through ZeroMQ from sync code, in any thread."""

from __future__ import annotations

import os
import struct
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any

import zmq

from django_ws.exceptions import BroadcastError
from django_ws.pubsub.backends import base
from django_ws.pubsub.backends.base import SyncPublisher, channel_of
from django_ws.pubsub.backends.breaker import Breaker, NotTried
from django_ws.pubsub.backends.sequence import Sender
from django_ws.pubsub.backends.zeromq import broker

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]

LENGTH = struct.Struct("!I")  # bytes of the channel
MAX_IDLE = 4  # connections that a sync publisher keeps
MAX_HIGH_WATER_MARK = 2**31 - 1  # an int in C


def sized_channel_of(prefix: str, topic: str) -> bytes:
    """ZeroMQ compares beginnings: with the length in front, none is another's beginning."""
    channel = channel_of(prefix, topic)
    return LENGTH.pack(len(channel)) + channel


def check(location: Any, options: Mapping[str, Any]) -> tuple[str, str]:
    """The broker's two addresses. Raises ``ValueError`` for what cannot be used."""
    if unknown := options.keys() - {"high_water_mark", "publish_timeout"}:
        raise ValueError(
            f"OPTIONS for ZeroMQ: unknown {', '.join(sorted(map(repr, unknown)))}. They may have "
            "high_water_mark and publish_timeout."
        )
    mark = options.get("high_water_mark", broker.HIGH_WATER_MARK)
    if type(mark) is not int or not 1 <= mark <= MAX_HIGH_WATER_MARK:
        raise ValueError(
            f"OPTIONS for ZeroMQ: high_water_mark is {mark!r}. Give a number of messages, for "
            f"example {broker.HIGH_WATER_MARK}."
        )
    return broker.addresses(location)


def request(number: int, publications: Iterable[Sequence[bytes]]) -> list[bytes]:
    header = broker.REQUEST.pack(broker.VERSION, number)
    return [header, *(frame for publication in publications for frame in publication)]


def publications_of(
    prefix: str, head: bytes, messages: Sequence[tuple[str, bytes]]
) -> list[tuple[bytes, bytes, bytes]]:
    return [(sized_channel_of(prefix, topic), b"", head + data) for topic, data in messages]


def hand_over(socket: Socket, frames: list[bytes], seconds: float) -> None:
    """Send a request, and wait for its answer. Raises ``TimeoutError``."""
    end = time.monotonic() + seconds
    for event in (zmq.POLLOUT, zmq.POLLIN):
        if not socket.poll(max(0, round((end - time.monotonic()) * 1000)), event):
            raise TimeoutError
        if event == zmq.POLLOUT:
            socket.send_multipart(frames, zmq.NOBLOCK)
        else:
            socket.recv()


class _Inherited(zmq.Socket[bytes]):
    """A forked child may inherit it, and must neither use it nor be warned of it at its end."""

    def __del__(self) -> None:
        self.close()  # does nothing there


def dealer(context: Context, location: str, options: Mapping[str, Any]) -> Socket:
    """A connection that publishes: to the broker, and acknowledgements back."""
    socket = context.socket(zmq.DEALER, socket_class=_Inherited)
    try:
        set_up(socket, options)
        socket.immediate = True  # nothing waits for a broker that may come hours later
        socket.connect(broker.addresses(location)[0])
    except BaseException:
        socket.close()  # otherwise the end of the context would wait for it
        raise
    return socket


def set_up(socket: Socket, options: Mapping[str, Any]) -> None:
    broker.set_up(socket, options.get("high_water_mark", broker.HIGH_WATER_MARK))


def not_taken(location: Any, seconds: float) -> BroadcastError:
    return BroadcastError(
        "broadcast", str(location), f"no broker took it in {seconds:g} s: is one running there?"
    )


class _Pool:
    """The connections of one process."""

    def __init__(self, server: str) -> None:
        self.breaker = Breaker(server)
        self.sender = Sender()
        self.lock = threading.Lock()
        self.context: Context = zmq.Context()
        self.idle: list[Socket] = []
        self.numbers = count(1)
        self.is_closed = False

    def take(self) -> Socket | None:
        with self.lock:
            return self.idle.pop() if self.idle else None

    def give_back(self, socket: Socket) -> None:
        with self.lock:
            if self.is_closed or len(self.idle) == MAX_IDLE:
                socket.close()
            else:
                self.idle.append(socket)

    def close(self) -> None:
        with self.lock:
            self.is_closed = True
            for socket in self.idle:
                socket.close()
            self.idle.clear()
        self.context.term()  # who publishes just now gets an error and closes the last ones


class ZeroMQPublisher(SyncPublisher):
    """Each ``publish`` has a connection for itself, and returns when the broker has answered."""

    publish_seconds = base.PUBLISH_SECONDS

    def __init__(self, location: Any, prefix: str, options: Mapping[str, Any]) -> None:
        super().__init__(location, prefix, options)
        check(location, options)
        self._seconds = base.publish_seconds_of(options, self.publish_seconds)
        self._pools: dict[int, _Pool] = {}  # by process: ZeroMQ does not survive a fork
        self._at_exit = weakref.finalize(self, _close_own, self._pools)

    def publish(self, messages: Sequence[tuple[str, bytes]]) -> None:
        if not messages:
            return
        pool = self._pools.get(os.getpid()) or self._new_pool()
        seconds = self._seconds
        try:
            is_probe = pool.breaker.admit()
            socket = pool.take() or dealer(pool.context, self.location, self.options)
            try:
                if is_probe:
                    seconds = Breaker.PROBE_SECONDS
                    hand_over(socket, request(next(pool.numbers), ()), seconds)
                    seconds = self._seconds
                with pool.sender.call() as head:
                    publications = publications_of(self.prefix, head, messages)
                    frames = request(next(pool.numbers), publications)
                    hand_over(socket, frames, self._seconds)
            except BaseException:
                socket.close()  # a late answer would confuse the next one
                raise
            pool.give_back(socket)
        except TimeoutError as error:
            failed = not_taken(self.location, seconds)
            pool.breaker.open(failed.reason, error)
            raise failed from error
        except (NotTried, zmq.ZMQError) as error:
            raise BroadcastError("broadcast", str(self.location), str(error)) from error
        pool.breaker.close()

    def _new_pool(self) -> _Pool:
        made = _Pool(str(self.location))
        pool = self._pools.setdefault(os.getpid(), made)
        if pool is not made:  # another thread was faster
            made.close()
        return pool

    def close(self) -> None:
        _close_own(self._pools)


def _close_own(pools: dict[int, _Pool]) -> None:
    pool = pools.pop(os.getpid(), None)
    if pool:
        pool.close()
