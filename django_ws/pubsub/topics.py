"""Valid topic names, and the topics of users and of single connections."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.apps import apps
from django.conf import settings

from django_ws.exceptions import InvalidTopic

MAX_TOPIC_BYTES = 512
USER_PREFIX = "django_ws.user:"
MODEL_PREFIX = "django_ws.user."  # of those who are of another model than AUTH_USER_MODEL
CONNECTION_PREFIX = "django_ws.connection:"
CONTROL_TOPIC = "\0control"  # every hub listens to it; no user's topic may begin so
LOOP_PREFIX = "\0loop:"  # and to the one topic of its event loop, for single connections

TOKEN_DIGITS = 16  # of an event loop: with them the id of each of its connections begins
CONNECTION_ID = re.compile(r"[0-9a-f]{32}")


class UserTopic(str):
    """A topic that ``user_topic`` has made."""

    __slots__ = ()


class ConnectionTopic(str):
    """A topic that ``connection_topic`` has made."""

    __slots__ = ()

    @property
    def connection_id(self) -> str:
        return self.removeprefix(CONNECTION_PREFIX)

    @property
    def loop_topic(self) -> str:
        """Where broadcasts to it are published: the hubs of the connection's loop listen to it."""
        return LOOP_PREFIX + self.connection_id[:TOKEN_DIGITS]


def check_topic(topic: object) -> str:
    """The topic itself. Raises ``InvalidTopic`` for what is none."""
    if not isinstance(topic, str):
        raise InvalidTopic(topic, "a topic is a str")
    if not topic:
        raise InvalidTopic(topic, "it is empty")
    if topic.startswith(CONTROL_TOPIC[0]):
        raise InvalidTopic(topic, "a NUL at the beginning is reserved")
    # A room may be called as its visitors like, and must not become somebody's own topic.
    if topic.startswith((USER_PREFIX, MODEL_PREFIX)) and not isinstance(topic, UserTopic):
        raise InvalidTopic(topic, f"{USER_PREFIX!r} is reserved: use user_topic(user)")
    if topic.startswith(CONNECTION_PREFIX) and not isinstance(topic, ConnectionTopic):
        raise InvalidTopic(topic, f"{CONNECTION_PREFIX!r} is reserved: use connection_topic(id)")
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


def check_topics_to_join(topics: str | Iterable[str]) -> list[str]:
    """As ``check_topics``, for those that a connection asks to join."""
    checked = check_topics(topics)
    for topic in checked:
        if isinstance(topic, ConnectionTopic):
            raise InvalidTopic(topic, "each connection has joined its own by itself, and no other")
    return checked


def user_topic(user: Any) -> str:
    """The topic of all sockets of one user whose handlers subscribe to it.

    ``user`` is the user, or the primary key of a user of the site: an ``int``, ``str`` or
    ``UUID``. Whoever is of another model than ``AUTH_USER_MODEL`` has a topic apart, with the
    model's label. ``disconnect(user_topic(user))`` ends all sockets of the user, subscribed or
    not. Raises ``ValueError`` for somebody who is not logged in or not saved.
    """
    if isinstance(user, int | str | UUID) and not isinstance(user, bool):
        key: Any = user
    else:
        key = getattr(user, "pk", None)
        if not getattr(user, "is_authenticated", True):
            key = None
    if key is None or key == "":
        raise ValueError(f"user_topic({user!r}): only a saved user has a topic. Give it, or its id")
    label = _label_of(user)
    return UserTopic(f"{MODEL_PREFIX}{label}:{key}" if label else f"{USER_PREFIX}{key}")


def _label_of(user: Any) -> str:
    """The label of its model, unless that is AUTH_USER_MODEL, or a proxy or a child of it.

    A device and a user may have the same primary key.
    """
    concrete = getattr(getattr(user, "_meta", None), "concrete_model", None)
    if not isinstance(concrete, type):
        return ""  # of no model: it stands for a user of the site
    try:
        users = apps.get_model(settings.AUTH_USER_MODEL)
    except LookupError:  # the site has none
        pass
    else:
        if issubclass(concrete, users._meta.concrete_model):
            return ""
    label: str = user._meta.concrete_model._meta.label_lower
    return label


def user_topics(users: Any) -> list[str]:
    """The topics of several users or ids, or of one. Raises ``ValueError`` as ``user_topic``."""
    # A lazy user has all methods, __iter__ among them.
    if isinstance(users, str) or hasattr(users, "pk") or not isinstance(users, Iterable):
        users = [users]
    return list(dict.fromkeys(user_topic(user) for user in users))


def connection_topic(connection_id: str) -> str:
    """The topic of one connection, by its id (``handler.id``).

    The connection has joined it from the start, by itself: ``broadcast`` and ``disconnect``
    reach it in whichever process it is, and do nothing when it is gone. No other connection
    can join it. Raises ``ValueError`` for what cannot be an id.
    """
    if not isinstance(connection_id, str) or not CONNECTION_ID.fullmatch(connection_id):
        raise ValueError(
            f"connection_topic({connection_id!r:.60}): give the id of a connection (handler.id)"
        )
    return ConnectionTopic(f"{CONNECTION_PREFIX}{connection_id}")
