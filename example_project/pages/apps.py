"""The Django app of the shared pages."""

from django.apps import AppConfig


class PagesConfig(AppConfig):
    name = "pages"
