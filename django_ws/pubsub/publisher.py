"""Publisher: broadcasts from a process without Django."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self

from django_ws.conf import DEFAULT_PREFIX
from django_ws.pubsub.backends.base import SyncPublisher
from django_ws.pubsub.outgoing import broadcast_of, messages_of

PUBLISHER = "a Publisher"  # stands in the place of an alias of WS_BROADCAST


class Publisher:
    """Broadcasts to the sockets of a Django site, without its settings.

    ``location``, ``prefix`` and ``options`` are ``LOCATION``, ``PREFIX`` and ``OPTIONS`` of the
    site's ``WS_BROADCAST``; ``backend`` is the publisher class of another backend than Redis.
    For any thread; a forked process may go on with it. ``close()`` gives the connections back.

        Publisher("redis://127.0.0.1:6379/0").broadcast("room:42", {"text": "hi"})
    """

    def __init__(
        self,
        location: Any,
        *,
        prefix: str = DEFAULT_PREFIX,
        options: Mapping[str, Any] | None = None,
        backend: type[SyncPublisher] | None = None,
    ) -> None:
        publisher = backend or _redis_publisher()
        self._publisher = publisher.for_location(location, prefix, options or {})

    def broadcast(
        self,
        topics: str | Iterable[str],
        message: Any,
        *,
        exclude: str | Iterable[str] | None = None,
        exclude_users: Any = (),
    ) -> None:
        """As ``django_ws.broadcast``. Raises ``EncodeError``, ``InvalidTopic``, ``ValueError``
        and ``BroadcastError``.
        """
        outgoing = broadcast_of(topics, message, exclude, exclude_users)
        self._publisher.publish(messages_of([outgoing], PUBLISHER))

    def close(self) -> None:
        """Give all connections back."""
        self._publisher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _redis_publisher() -> type[SyncPublisher]:
    from django_ws.pubsub.backends.redis import RedisPublisher

    return RedisPublisher
