"""What may be a topic, and the topics of users."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.conf import settings

from django_ws.exceptions import InvalidTopic

MAX_TOPIC_BYTES = 512
USER_PREFIX = "django_ws.user:"
MODEL_PREFIX = "django_ws.user."  # of those who are of another model than AUTH_USER_MODEL
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
    if topic.startswith((USER_PREFIX, MODEL_PREFIX)) and not isinstance(topic, UserTopic):
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

    Whoever is of another model than ``AUTH_USER_MODEL`` has a topic apart, with the model's label.
    ``disconnect(user_topic(user))`` ends all sockets of the user, subscribed or not. Raises
    ``ValueError`` for somebody who is not logged in or not saved.
    """
    if getattr(user, "pk", None) is None or not getattr(user, "is_authenticated", True):
        raise ValueError(f"user_topic({user!r}): only a saved user has a topic")
    label = _label_of(user)
    return UserTopic(f"{MODEL_PREFIX}{label}:{user.pk}" if label else f"{USER_PREFIX}{user.pk}")


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
