"""Rooms and messages in the admin. A message that is added or deleted there is so on the pages."""

from django.contrib import admin
from django.http import HttpRequest

from chat.models import Message, Room


@admin.register(Room)
class RoomAdmin(admin.ModelAdmin):  # type: ignore[type-arg] # it takes none at run time
    list_display = ("name", "created")
    search_fields = ("name",)
    readonly_fields = ("created",)

    # Renaming would need to be told to every page that shows the name.
    def has_change_permission(self, request: HttpRequest, obj: Room | None = None) -> bool:
        return False


@admin.register(Message)
class MessageAdmin(admin.ModelAdmin):  # type: ignore[type-arg] # it takes none at run time
    list_display = ("text", "author", "room", "created")
    list_filter = ("room",)
    list_select_related = ("author", "room")
    search_fields = ("text", "author__username")
    readonly_fields = ("created",)

    # Pages know a message by its id and take it for the same when it comes again.
    def has_change_permission(self, request: HttpRequest, obj: Message | None = None) -> bool:
        return False
