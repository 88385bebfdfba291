"""The Django app of the notifications demo."""

from pages.demos import DemoConfig


class NotificationsConfig(DemoConfig):
    name = "notifications"
    title = "Notifications"
    summary = "What is done in the admin, at once, for those who may see it. On another port."
    shows = ("FirstMessageAuthMixin", "on_broadcast", "disconnect", "SesameAuthenticator")

    def ready(self) -> None:
        from notifications import signals  # noqa: F401 - connects the receivers
