"""How many connections there may be: in this process, of one user, from one address.

In this process each is counted from its handshake on, while that waits for its turn as well,
and for its user or address from when that is known; until its application has returned, however
that comes about. Those that are being refused count nowhere.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from threading import Lock

from django_ws import conf
from django_ws.close_codes import CloseCode
from django_ws.connection.connection import Connection
from django_ws.logs.printable import printable
from django_ws.logs.throttled import ThrottledLog
from django_ws.pubsub.topics import user_topic
from django_ws.request import WebSocketRequest

logger = logging.getLogger("django.ws.request")

UNKNOWN = "unknown"
KNOW_THEM = (
    ". All that come without an address count as one: if they come through a proxy and a Unix "
    'socket, set WS_TRUSTED_PROXIES = ["unix"], and let the proxy send X-Forwarded-For'
)

_refusals = ThrottledLog(logger, logging.WARNING, "connections refused for a limit of their number")


class Limits:
    """The connections of this process. Safe in every thread: it may have several event loops."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = 0
        self._counted_as: dict[Connection, str] = {}  # of those that are counted for one
        self._counts: dict[str, int] = {}  # for each user or address, never 0
        self._refused: dict[str, int] = {}  # for each setting

    # In the process

    def is_full(self, connection: Connection, request: WebSocketRequest) -> bool:
        """Whether WS_MAX_CONNECTIONS leaves no room; then the handshake is refused with 503."""
        limit = conf.get().ws_max_connections
        if limit is None or self._count < limit:
            return False
        self._warn("WS_MAX_CONNECTIONS", limit, connection, request, 503, "this process")
        connection.refuse(503, HTTPStatus.SERVICE_UNAVAILABLE.phrase)
        return True

    def enter(self) -> None:
        with self._lock:
            self._count += 1

    def leave(self, connection: Connection) -> None:
        """What ``enter`` and ``admit`` counted is no more."""
        with self._lock:
            self._count -= 1
            self._take_back(connection)

    # Of one user or address

    def admit(self, connection: Connection, request: WebSocketRequest) -> None:
        """Count it for its user, or for its address; where that has too many, end it.

        Called when the user is known, and again should that change. An open connection is
        closed with 4429, a handshake refused with 429. All whose address is not known count as
        one: nobody gets past the limit by a way that tells no address.
        """
        config = conf.get()
        user = getattr(request, "user", None)
        if user is not None and user.is_authenticated and user.pk is not None:
            name, limit = "WS_MAX_CONNECTIONS_PER_USER", config.ws_max_connections_per_user
            key, who = user_topic(user), f"user {printable(str(user.pk))}"
        else:
            name, limit = "WS_MAX_CONNECTIONS_PER_ADDRESS", config.ws_max_connections_per_address
            key = "" if limit is None else _address(request.client_address)
            who = f"address {key}"
        with self._lock:
            self._take_back(connection)
            if limit is None:
                return
            count = self._counts.get(key, 0)
            if count < limit:
                self._counted_as[connection] = key
                self._counts[key] = count + 1
                return
        self._warn(name, limit, connection, request, 429, who)
        connection.close(CloseCode.RATE_LIMITED, "too many connections")

    def _take_back(self, connection: Connection) -> None:
        key = self._counted_as.pop(connection, None)
        if key is not None:
            self._counts[key] -= 1
            if not self._counts[key]:
                del self._counts[key]

    # The log

    def _warn(
        self,
        name: str,
        limit: int,
        connection: Connection,
        request: WebSocketRequest,
        status: int,
        who: str,
    ) -> None:
        with self._lock:
            refused = self._refused[name] = self._refused.get(name, 0) + 1
        _refusals.log(
            name,
            "WebSocket %s refused with %d: %s has as many connections as %s allows, %d "
            "(client %s; %d refused so far)%s",
            connection.path,
            status,
            who,
            name,
            limit,
            request.client_address or "unknown",
            refused,
            KNOW_THEM if who == f"address {UNKNOWN}" else "",
        )


limits = Limits()


def _address(address: str | None) -> str:
    """What counts as one address: of IPv6 the network /64, which is what one customer is given."""
    if address is None:
        return UNKNOWN
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address):
        return f"{IPv6Address(int(parsed) >> 64 << 64)}/64"
    return address
