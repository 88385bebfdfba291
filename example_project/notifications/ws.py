"""The handler of the notifications demo."""

from collections.abc import Mapping
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.models import User

from django_ws import WebSocketHandler
from django_ws.auth import FirstMessageAuthMixin
from django_ws.auth.tokens import SesameAuthenticator
from notifications.entries import recent, viewable
from notifications.topics import ADMIN, sockets_of
from notifications.views import TOKEN_SCOPE


class NotificationsHandler(FirstMessageAuthMixin, WebSocketHandler):
    """Tells what is done in the admin to those who may view such objects.

    The page sends ``{"token": ...}`` first, and nothing after that. It is sent who it is, then
    ``{"may_view": names, "recent": entries}``, now and whenever the permissions have changed,
    and one ``{"entry": ...}`` after the other.
    """

    first_message_authenticators = [SesameAuthenticator(scope=TOKEN_SCOPE)]
    max_message_size = 1024  # bytes
    may_view: Mapping[str, str] = {}

    def get_topics(self) -> list[str]:
        return [ADMIN, sockets_of(self.request.user)]

    def on_open(self) -> None:
        # The topics are joined already. What comes meanwhile waits until this has returned, and
        # what comes twice, as recent and as new, the page knows by its id.
        self.start_ping(interval=20)
        self.send({"you": self.request.user.get_username()})
        self.show()

    async def on_broadcast(self, topic: str, message: Any) -> None:
        match message:
            case {"entry": {"model": label}} if label in self.may_view:
                await self.send(message)
            case {"permissions_of": users} if users is None or self.request.user.pk in users:
                await sync_to_async(self.show)()

    def on_broadcast_gap(self, topics: frozenset[str]) -> None:
        self.show()  # it may have been a change of permissions that was missed

    def show(self) -> None:
        """Read the permissions, and send all that the page may show now."""
        # The user of the request would remember the permissions of that time.
        self.may_view = viewable(User.objects.filter(pk=self.request.user.pk or 0).first())
        names = sorted(set(self.may_view.values()))
        self.send({"may_view": names, "recent": recent(self.may_view)})
