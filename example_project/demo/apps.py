"""The admin of the project: the app of Django, with a site that tells of all it does."""

from django.contrib.admin.apps import AdminConfig


class DemoAdminConfig(AdminConfig):
    default_site = "notifications.site.NotifyingAdminSite"
