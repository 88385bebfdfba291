"""The counters in the admin, to look at: a change there would not reach the pages."""

from django.contrib import admin
from django.http import HttpRequest

from counter.models import Counter


@admin.register(Counter)
class CounterAdmin(admin.ModelAdmin):  # type: ignore[type-arg] # it takes none at run time
    list_display = ("key", "value", "version")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Counter | None = None) -> bool:
        return False
