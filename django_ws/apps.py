"""The Django app: registers the system checks, and hands on when a log-in ends."""

from django.apps import AppConfig


class DjangoWSConfig(AppConfig):
    """What ``"django_ws"`` in ``INSTALLED_APPS`` stands for."""

    name = "django_ws"
    verbose_name = "WebSockets"

    def ready(self) -> None:
        from django_ws import checks  # noqa: F401  (importing registers them)
        from django_ws.auth import signals

        signals.connect()
