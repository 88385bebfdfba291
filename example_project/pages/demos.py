"""The list of demos: every installed app whose AppConfig is a DemoConfig."""

from collections.abc import Iterable

from django.apps import AppConfig, apps
from django.http import HttpRequest
from django.urls import reverse


class DemoConfig(AppConfig):
    """Derive from it, and the demo is in the index and in the navigation of every page.

    The app's page is its URL named ``label:page``.
    """

    # An apps.py that imports this class has two, and Django would not know which to take.
    default = False

    title: str
    summary: str
    shows: Iterable[str] = ()  # the parts of the library to be seen at work

    def __init_subclass__(cls) -> None:
        cls.default = True

    @property
    def url(self) -> str:
        return reverse(f"{self.label}:page")


def context(request: HttpRequest) -> dict[str, list[DemoConfig]]:
    """The context processor: ``demos`` in every template."""
    return {"demos": [app for app in apps.get_app_configs() if isinstance(app, DemoConfig)]}
