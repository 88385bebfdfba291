"""Checks and encodes what is to be published, before anything is sent."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from django_ws.close_codes import is_sendable
from django_ws.exceptions import EncodeError
from django_ws.pubsub.envelope import (
    address,
    connection_ids,
    content,
    disconnection,
    put_together,
)
from django_ws.pubsub.topics import (
    CONTROL_TOPIC,
    ConnectionTopic,
    UserTopic,
    check_topic,
    check_topics,
    user_topics,
)

Messages = list[tuple[str, bytes]]  # topics that hubs listen to, with envelopes
Exclude = str | Iterable[str] | None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One broadcast, or order to disconnect, to one topic or several."""

    topics: Sequence[str]
    content: bytes
    exclude: Sequence[str]  # ids of connections
    exclude_users: Sequence[str] = ()  # topics of users

    def messages(self) -> Messages:
        """One copy for each topic."""
        several = len(self.topics) > 1
        broadcast_id = secrets.token_hex(8) if several else ""
        common = address(self.exclude, self.exclude_users, broadcast_id=broadcast_id)
        envelope = put_together(self.content, common)
        return [
            (topic.loop_topic, self._to_one(topic, broadcast_id))
            if isinstance(topic, ConnectionTopic)
            else (topic, envelope)
            for topic in self.topics
        ]

    def _to_one(self, topic: ConnectionTopic, broadcast_id: str) -> bytes:
        to = topic.connection_id
        return put_together(
            self.content,
            address(self.exclude, self.exclude_users, broadcast_id=broadcast_id, to=to),
        )


class Disconnection(Outgoing):
    """To one topic. Every hub listens to the control topic, and finds a user's sockets by it:
    they need not listen to anything.
    """

    __slots__ = ()

    def messages(self) -> Messages:
        if isinstance(self.topics[0], UserTopic):
            return [(CONTROL_TOPIC, put_together(self.content, address(self.exclude)))]
        return Outgoing.messages(self)


def broadcast_of(
    topics: str | Iterable[str],
    message: Any,
    exclude: Exclude = None,
    exclude_users: Any = (),
) -> Outgoing:
    """Raises ``EncodeError``, ``InvalidTopic``, and ``ValueError`` for what cannot be excluded."""
    packed = content(message)
    return Outgoing(
        check_topics(topics), packed, connection_ids(exclude), user_topics(exclude_users)
    )


def broadcasts_of(
    pairs: Iterable[tuple[str | Iterable[str], Any]],
    exclude: Exclude = None,
    exclude_users: Any = (),
) -> list[Outgoing]:
    """As ``broadcast_of``, for (topics, message) pairs."""
    ids, users = connection_ids(exclude), user_topics(exclude_users)
    outgoing = []
    for index, pair in enumerate(pairs):
        try:
            topics, message = pair
        except (TypeError, ValueError):
            raise TypeError(
                f"broadcast_many(): item {index} is {pair!r:.60}: give pairs of a topic, or "
                "several, and a message"
            ) from None
        try:
            packed = content(message)
        except EncodeError as error:
            raise EncodeError(f"{error.path} of item {index}", error.reason) from error
        outgoing.append(Outgoing(check_topics(topics), packed, ids, users))
    return outgoing


def disconnection_of(topic: str, code: int, reason: str, exclude: Exclude) -> Disconnection:
    """Raises ``InvalidTopic``, ``TypeError``, and ``ValueError`` for what may not be sent."""
    if not is_sendable(code):
        raise ValueError(
            f"disconnect(code={code}): not a code that may be sent. Use 1000 to 1014 (but 1004 "
            "to 1006), or 3000 to 4999 for codes of your own."
        )
    if not isinstance(reason, str):
        raise TypeError(f"disconnect(reason={reason!r}): give a str")
    topics = [check_topic(topic)]
    packed = disconnection(topic, int(code), reason)
    return Disconnection(topics, packed, connection_ids(exclude))


# Whoever wants to see what goes out, for tests. Each says whether it shall be published.
Observer = Callable[[Outgoing, str], bool]
observers: list[Observer] = []


def messages_of(outgoing: Iterable[Outgoing], using: str) -> Messages:
    """What is to be published now, through this alias of ``WS_BROADCAST``."""
    messages: Messages = []
    for each in outgoing:
        is_published = True
        for observer in list(observers):
            is_published = observer(each, using) and is_published
        if is_published:
            messages += each.messages()
    return messages
