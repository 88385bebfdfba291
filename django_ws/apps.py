"""The Django app: registers the system checks and connects the signal receivers."""

from django.apps import AppConfig


class DjangoWSConfig(AppConfig):
    """What ``"django_ws"`` in ``INSTALLED_APPS`` stands for."""

    name = "django_ws"
    verbose_name = "WebSockets"

    def ready(self) -> None:
        from django_ws import checks, missed_upgrades
        from django_ws.auth import signals

        _ = checks  # importing registers them
        signals.connect()
        missed_upgrades.connect()
