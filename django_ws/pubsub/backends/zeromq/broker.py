"""The broker between the processes that use ``ZeroMQBackend``: it takes, acknowledges, forwards.

Start one for each ``LOCATION``: ``python -m django_ws.pubsub.backends.zeromq LOCATION``.
It binds two addresses: ``LOCATION`` itself, where it takes what is published, and one beside it,
where it gives that out (``.sub`` behind the path of ``ipc://``, the next port of ``tcp://``).

Publishers come to a ROUTER, not to an XSUB, for an XSUB can neither acknowledge nor be asked
whether the connection carries. Listeners come to an XPUB, which knows their subscriptions. A
``zmq.proxy`` between the two would drop without counting, or let one stuck listener stop all
others.
"""

from __future__ import annotations

import logging
import re
import signal
import socket
import struct
import sys
import time
from typing import Any

import zmq

logger = logging.getLogger("django.ws")

VERSION = 1
REQUEST = struct.Struct("!BQ")  # the version, the publisher's number for the request
ANSWER = struct.Struct("!Q")  # that number
PUBLICATION = 3  # frames: channel, token (empty but for probes), data
DROPS = struct.Struct("!Q")  # how often the broker began to drop, behind the token of a probe

HIGH_WATER_MARK = 1000  # messages that wait for each connection, in each direction
PATIENCE_SECONDS = 1.0  # a listener that is full holds up the others for so long,
IMPATIENCE_SECONDS = 10.0  # and then not again for so long: what it does not take is dropped
LOG_SECONDS = 10.0  # between two lines about what was dropped
MAX_IPC_BYTES = 107  # the system's limit for the path of a socket


def addresses(location: Any) -> tuple[str, str]:
    """Where the broker takes, and where it gives out. Raises ``ValueError`` for no address."""
    if isinstance(location, str):
        if (path := location.removeprefix("ipc://")) != location and path:
            if len(f"{path}.sub".encode()) > MAX_IPC_BYTES:
                raise ValueError(f"LOCATION: the path is too long for a socket: {path}")
            return location, f"{location}.sub"
        if (tcp := re.fullmatch(r"(tcp://.+:)(\d+)", location)) and 0 < int(tcp[2]) < 65535:
            return location, f"{tcp[1]}{int(tcp[2]) + 1}"
    # Not shown: it may be another server's, with a password in it.
    raise ValueError(
        "LOCATION is not an address for ZeroMQ: use ipc:///run/mysite/ws or "
        "tcp://127.0.0.1:5555 (the next port is used, too)"
    )


def set_up(zmq_socket: zmq.Socket[Any], high_water_mark: int) -> None:
    """What all sockets of the library have in common, on both sides."""
    zmq_socket.linger = 0  # what matters was acknowledged
    zmq_socket.rcvhwm = zmq_socket.sndhwm = high_water_mark
    zmq_socket.ipv6 = True
    zmq_socket.handshake_ivl = 5000
    # A peer that is frozen, or behind a dead network, is cut off after at most 15 s.
    zmq_socket.heartbeat_ivl = 5000
    zmq_socket.heartbeat_timeout = 10000
    zmq_socket.reconnect_ivl = 50
    zmq_socket.reconnect_ivl_max = 2000


def _check_free(address: str) -> None:
    """ZeroMQ would take an ``ipc://`` address away from a broker that serves there."""
    path = address.removeprefix("ipc://")
    if path != address and not path.startswith("@"):  # those have no file
        with socket.socket(socket.AF_UNIX) as visitor:
            if visitor.connect_ex(path) == 0:
                raise zmq.ZMQError(zmq.EADDRINUSE)


class Broker:
    """``run`` serves until ``stop``. Raises ``zmq.ZMQError`` if an address cannot be bound.

    For one process or thread; only ``stop`` may be called from others.
    """

    def __init__(self, location: str, high_water_mark: int = HIGH_WATER_MARK) -> None:
        self.location = location
        self.drops = 0  # how often a listener was found full
        self._patient_at = self._log_at = 0.0
        taken_at, given_at = addresses(location)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._xpub = self._context.socket(zmq.XPUB)
        self._stopped, self.stopping = socket.socketpair()
        self.stopping.setblocking(False)
        try:
            for bound in (self._router, self._xpub):
                set_up(bound, high_water_mark)
            self._xpub.xpub_nodrop = True
            self._xpub.sndtimeo = round(PATIENCE_SECONDS * 1000)
            _check_free(taken_at)
            self._xpub.bind(given_at)
            self._router.bind(taken_at)  # last: who can publish here is heard there
        except BaseException:
            self._close()
            raise

    def stop(self) -> None:
        """From any thread. ``run`` returns soon after."""
        self.stopping.send(b".")

    def run(self) -> None:
        poller = zmq.Poller()
        for readable in (self._stopped, self._router, self._xpub):
            poller.register(readable, zmq.POLLIN)
        try:
            while self._stopped.fileno() not in (ready := dict(poller.poll())):
                if self._xpub in ready:
                    self._read_subscriptions()
                if self._router in ready:
                    self._take()
        finally:
            self._close()

    def _close(self) -> None:
        self._context.destroy(linger=0)
        self._stopped.close()
        self.stopping.close()

    def _read_subscriptions(self) -> None:
        """The XPUB has noted them itself; unread they would fill the memory."""
        try:
            while True:
                self._xpub.recv(zmq.NOBLOCK)
        except zmq.Again:
            pass

    def _take(self) -> None:
        sender, *request = self._router.recv_multipart()
        self._answer(sender, request)

    def _answer(self, sender: bytes, request: list[bytes]) -> None:
        header, *frames = request or [b""]
        is_known = len(header) == REQUEST.size and header[0] == VERSION
        if not is_known or len(frames) % PUBLICATION:
            self._log("the broker at %s was sent what is no request of its version", self.location)
            return
        for begin in range(0, len(frames), PUBLICATION):
            self._forward(frames[begin : begin + PUBLICATION])
        answer = ANSWER.pack(REQUEST.unpack(header)[1])
        self._router.send_multipart([sender, answer])  # a ROUTER never waits: it drops

    def _forward(self, publication: list[bytes]) -> None:
        if publication[1]:
            publication[1] += DROPS.pack(self.drops)
        is_patient = time.monotonic() >= self._patient_at
        try:
            self._xpub.send_multipart(publication, 0 if is_patient else zmq.NOBLOCK)
        except zmq.Again:
            if is_patient:
                self._patient_at = time.monotonic() + IMPATIENCE_SECONDS
            # To all that are not full. The others ZeroMQ passes over, from now on without an
            # error, until they have read: what they lose is not counted, but that they do is.
            self._xpub.xpub_nodrop = False
            self._xpub.send_multipart(publication)
            self._xpub.xpub_nodrop = True
            self.drops += 1
            self._log(
                "the broker at %s drops broadcasts, for the %d. time: a listener does not read "
                "(its event loop is blocked, or it is too slow)",
                self.location,
                self.drops,
            )

    def _log(self, text: str, *args: object) -> None:
        now = time.monotonic()
        if now >= self._log_at:
            self._log_at = now + LOG_SECONDS
            logger.warning(text, *args)


def main(arguments: list[str]) -> None:
    """Serve in this process until SIGTERM or SIGINT."""
    if len(arguments) != 1:
        sys.exit("usage: python -m django_ws.pubsub.backends.zeromq LOCATION")

    logging.basicConfig(format="%(levelname)s %(message)s")
    try:
        broker = Broker(arguments[0])
    except ValueError as error:
        sys.exit(f"cannot serve: {error}")
    except zmq.ZMQError as error:
        sys.exit(f"cannot serve at {arguments[0]}: {error}")
    # A handler alone is not enough: it would not run before the next broadcast, where the signal
    # comes just before the wait.
    signal.set_wakeup_fd(broker.stopping.fileno())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    broker.run()
