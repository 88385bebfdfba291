"""``manage.py createdemousers``: the users alice, who may use the admin, and bob.

Both have the password "demo".
"""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError

NAMES = ("alice", "bob")
ADMINS = ("alice",)
PASSWORD = "demo"


class Command(BaseCommand):
    help = 'Creates the users alice and bob with the password "demo". Only with DEBUG.'

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError(
                "DEBUG is off: users whose password everybody knows are for DEBUG alone."
            )
        for name in NAMES:
            is_admin = name in ADMINS
            user, created = User.objects.get_or_create(username=name)
            if created or not user.check_password(PASSWORD) or user.is_superuser != is_admin:
                user.is_staff = user.is_superuser = is_admin
                user.set_password(PASSWORD)
                user.save()
                self.stdout.write(f"{name}: log in with the password {PASSWORD!r}")
            else:
                self.stdout.write(f"{name}: is there already")
