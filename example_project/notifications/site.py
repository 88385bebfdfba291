"""The admin site that tells of deletions, too."""

from typing import Any

from django.contrib.admin import AdminSite, ModelAdmin

from notifications.entries import publish


class NotifyingDeletions:
    """Mixed into every ModelAdmin.

    "Delete selected" logs several deletions with ``bulk_create``, which sends no ``post_save``.
    """

    def log_deletions(self, request: Any, queryset: Any) -> Any:
        entries = super().log_deletions(request, queryset)  # type: ignore[misc]
        if len(entries) > 1:  # one alone was saved, with the signal
            for entry in entries:
                publish(entry)
        return entries


class NotifyingAdminSite(AdminSite):
    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        base = admin_class or ModelAdmin
        names = {"__module__": base.__module__}
        notifying = type(base.__name__, (NotifyingDeletions, base), names)
        super().register(model_or_iterable, notifying, **options)
