"""What the pages are told, whoever did it: the admin, the shell or a view."""

from typing import Any

from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group, Permission, User
from django.contrib.auth.signals import user_logged_out
from django.db import transaction
from django.db.models.signals import m2m_changed, post_delete, post_save
from django.dispatch import receiver

from django_ws import CloseCode, broadcast_on_commit, disconnect
from notifications.entries import publish
from notifications.topics import ADMIN, sockets_of

DECISIVE = {"is_superuser", "is_active"}  # fields of a user


@receiver(post_save, sender=LogEntry)
def entry_logged(instance: LogEntry, created: bool, **kwargs: Any) -> None:
    if created:
        publish(instance)


# Permissions. The handlers are told that they have changed, and read them again. (To disconnect
# the sockets would be less code, see PermissionRequiredMixin.topic_permissions; but then every
# page comes back with a new token and a new handshake, for a change of which it may not even be
# concerned, and in between it misses what is done.)


@receiver(m2m_changed, sender=User.user_permissions.through)
@receiver(m2m_changed, sender=User.groups.through)
@receiver(m2m_changed, sender=Group.permissions.through)
def permissions_changed(instance: Any, action: str, **kwargs: Any) -> None:
    if action in ("post_add", "post_remove", "post_clear"):
        # The other side of the relation may be meant, permission.user_set.add(bob), or a group.
        tell([instance.pk] if isinstance(instance, User) else None)


@receiver(post_delete, sender=Group)
@receiver(post_delete, sender=Permission)
def source_deleted(**kwargs: Any) -> None:
    tell(None)


@receiver(post_save, sender=User)
def user_saved(
    instance: User, created: bool, update_fields: frozenset[str] | None, **kwargs: Any
) -> None:
    if not created and (update_fields is None or DECISIVE & update_fields):
        tell([instance.pk])


def tell(users: list[int] | None) -> None:
    """The permissions of these users have changed; None: anybody's may have."""
    broadcast_on_commit(ADMIN, {"permissions_of": users})


# Log-out


@receiver(user_logged_out)
def logged_out(user: User | None, **kwargs: Any) -> None:
    """End the sockets of the user, those of all browsers.

    django_ws ends what the session had logged in. These had a token, which does not tell from
    which session it came; for another connection the site gives no token any more.
    """
    if user is None:
        return
    topic, reason = sockets_of(user), "the log-in has ended"

    def end() -> None:
        disconnect(topic, code=CloseCode.LOGIN_ENDED, reason=reason)

    transaction.on_commit(end, robust=True)
