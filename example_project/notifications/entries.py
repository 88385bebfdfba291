"""What the admin has logged: as the pages are sent it, and to whom it may be shown."""

from collections.abc import Iterable
from typing import Any

from django.apps import apps
from django.contrib.admin.models import ADDITION, CHANGE, DELETION, LogEntry
from django.contrib.auth import get_permission_codename
from django.contrib.auth.models import User
from django.contrib.contenttypes.models import ContentType

from django_ws import broadcast_on_commit
from notifications.topics import ADMIN

RECENT = 20  # entries on opening

DONE = {ADDITION: "added", CHANGE: "changed", DELETION: "deleted"}

# The name of such an object is the secret itself: it must not travel, and be on no page.
SECRET_APPS = {"authtoken"}


def publish(entry: LogEntry) -> None:
    """Tell of an entry that was just logged, once that is committed."""
    if entry.content_type_id is not None:
        broadcast_on_commit(ADMIN, {"entry": as_sent(entry)})


def as_sent(entry: LogEntry) -> dict[str, Any]:
    """What the pages are sent. ``model`` says who may see it; the id tells one that comes twice.

    The admin's change message is left out: it names objects of other models, the inlines.
    """
    kind = ContentType.objects.get_for_id(entry.content_type_id or 0)
    return {
        "id": entry.pk,
        "at": entry.action_time,
        "who": entry.user.get_username(),
        "did": DONE[entry.action_flag],
        "model": f"{kind.app_label}.{kind.model}",
        "kind": kind.name,
        "what": "" if kind.app_label in SECRET_APPS else entry.object_repr,
    }


def viewable(user: User | None) -> dict[str, str]:
    """The models that the user may view: their labels, and what they are called.

    A user object keeps the permissions that it has read once: give one that is fresh.
    """
    if user is None:
        return {}
    return {
        model._meta.label_lower: str(model._meta.verbose_name_plural)
        for model in apps.get_models()
        if user.has_perm(f"{model._meta.app_label}.{get_permission_codename('view', model._meta)}")
    }


def recent(labels: Iterable[str]) -> list[dict[str, Any]]:
    """The last entries of these models, oldest first."""
    kinds = [ContentType.objects.get_by_natural_key(*label.split(".")) for label in labels]
    newest = LogEntry.objects.filter(content_type__in=kinds).select_related("user")
    return [as_sent(entry) for entry in reversed(newest.order_by("-id")[:RECENT])]
