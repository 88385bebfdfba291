"""What changes in the database is broadcast from here, whoever changed it: the chat, the admin
or the shell. (The shell reaches the pages only through a backend between processes.)"""

from typing import Any

from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from chat.models import Message, Room, topic_of
from django_ws import broadcast_on_commit

ROOMS = "chat:rooms"  # the topic of all pages: which rooms there are


@receiver(post_save, sender=Room)
def room_saved(instance: Room, created: bool, **kwargs: Any) -> None:
    if created:
        broadcast_on_commit(ROOMS, {"added": instance.name})


@receiver(post_delete, sender=Room)
def room_deleted(instance: Room, **kwargs: Any) -> None:
    broadcast_on_commit(ROOMS, {"removed": instance.name})


@receiver(post_save, sender=Message)
def message_saved(instance: Message, created: bool, **kwargs: Any) -> None:
    if created:
        broadcast_on_commit(topic_of(instance.room_id), {"message": instance.as_sent()})


@receiver(post_delete, sender=Message)
def message_deleted(instance: Message, **kwargs: Any) -> None:
    broadcast_on_commit(topic_of(instance.room_id), {"deleted": instance.pk})
