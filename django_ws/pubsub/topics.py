"""What may be a topic, and the topics of users."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django_ws.exceptions import InvalidTopic

MAX_TOPIC_BYTES = 512
USER_PREFIX = "django_ws.user:"
CONTROL_TOPIC = "\0control"  # every hub listens to it; no user's topic may begin so


class UserTopic(str):
    """A topic that ``user_topic`` has made."""

    __slots__ = ()


def check_topic(topic: object) -> str:
    """The topic itself. Raises ``InvalidTopic`` for what is none."""
    if not isinstance(topic, str):
        raise InvalidTopic(topic, "a topic is a str")
    if not topic:
        raise InvalidTopic(topic, "it is empty")
    if topic.startswith(CONTROL_TOPIC[0]):
        raise InvalidTopic(topic, "a NUL at the beginning is reserved")
    if topic.startswith(USER_PREFIX) and not isinstance(topic, UserTopic):
        # A room may be called as its visitors like, and must not become a user's own topic.
        raise InvalidTopic(topic, f"{USER_PREFIX!r} is reserved: use user_topic(user)")
    try:
        size = len(topic.encode())
    except UnicodeEncodeError:
        raise InvalidTopic(topic, "it cannot be encoded as UTF-8") from None
    if size > MAX_TOPIC_BYTES:
        raise InvalidTopic(topic, f"{size} bytes of UTF-8, {MAX_TOPIC_BYTES} allowed")
    return topic


def check_topics(topics: str | Iterable[str]) -> list[str]:
    """One topic or several, as a list. Raises ``InvalidTopic``."""
    if isinstance(topics, str):
        return [check_topic(topics)]
    if isinstance(topics, bytes) or not isinstance(topics, Iterable):
        raise InvalidTopic(topics, "give a str, or several in a list")
    return list(dict.fromkeys(check_topic(topic) for topic in topics))


def user_topic(user: Any) -> str:
    """The topic of all sockets of one user whose handlers subscribe to it.

    ``disconnect(user_topic(user))`` ends all sockets of the user, subscribed or not. Raises
    ``ValueError`` for somebody who is not logged in or not saved.
    """
    if getattr(user, "pk", None) is None or not getattr(user, "is_authenticated", True):
        raise ValueError(f"user_topic({user!r}): only a saved user has a topic")
    return UserTopic(f"{USER_PREFIX}{user.pk}")
