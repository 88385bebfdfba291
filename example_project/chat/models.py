"""Rooms and their messages. Private messages are not stored."""

from __future__ import annotations

from typing import Any, ClassVar

from django.conf import settings
from django.db import models

NAME_LENGTH = 100  # characters
TEXT_LENGTH = 1000


class Room(models.Model):
    objects: ClassVar[models.Manager[Room]]

    name = models.CharField(max_length=NAME_LENGTH, unique=True)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def topic(self) -> str:
        # Not the name: a topic has at most 512 bytes, and a name what characters it likes.
        return topic_of(self.pk)


def topic_of(room_id: int) -> str:
    return f"chat:room:{room_id}"


class Message(models.Model):
    objects: ClassVar[models.Manager[Message]]
    room_id: int

    room = models.ForeignKey(Room, models.CASCADE, related_name="messages")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    text = models.CharField(max_length=TEXT_LENGTH)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.author}: {self.text[:40]}"

    def as_sent(self) -> dict[str, Any]:
        """What the pages are sent. The id tells a message that comes twice."""
        return {
            "id": self.pk,
            "room": self.room_id,
            "author": self.author.get_username(),
            "text": self.text,
            "at": self.created,
        }
