"""Broadcasts that may have gone to a server that was no longer the master."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from django_ws.pubsub.backends.redis_cluster.slots import Node


class Unsettled:
    """The topics of such broadcasts, until it is known. For any thread.

    Where it turns out to have been another server than that of the listeners, these are told a
    gap.
    """

    MAX_TOPICS = 10_000

    def __init__(self) -> None:
        self._topics: dict[str, Node] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._topics)

    def add(self, topics: Iterable[str], server: Node) -> bool:
        """False where there are too many: then nothing is added."""
        with self._lock:
            more = dict.fromkeys(topics, server)
            if len(self._topics.keys() | more.keys()) > self.MAX_TOPICS:
                return False
            # Whatever an older server has taken stays with it.
            self._topics = {**more, **self._topics}
            return True

    def missed(self, server: Node) -> list[str]:
        """The topics that others than this server, which is the right one, have taken."""
        with self._lock:
            self._topics = {t: other for t, other in self._topics.items() if other != server}
            return list(self._topics)

    def settle(self, topics: Iterable[str]) -> None:
        """Their listeners will tell the gap."""
        with self._lock:
            for topic in topics:
                self._topics.pop(topic, None)
