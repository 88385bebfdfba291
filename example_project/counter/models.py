"""The counters, and the one way to change them."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.auth.base_user import AbstractBaseUser
from django.contrib.auth.models import AnonymousUser
from django.db import models, transaction
from django.db.models import F

from django_ws import broadcast_on_commit


def key_of(user: AbstractBaseUser | AnonymousUser) -> str:
    """The key of a user's counter; all who are not logged in share one."""
    return f"counter:user:{user.pk}" if user.is_authenticated else "counter:visitors"


class Counter(models.Model):
    """A counter without a row stands at zero. Its key is the topic of its tabs too."""

    objects: ClassVar[models.Manager[Counter]]

    key = models.CharField(max_length=100, primary_key=True)
    value = models.PositiveBigIntegerField(default=0)
    # Grows with each change. Two processes may broadcast their changes in another order than
    # they made them: by this number a page knows which value is the newest.
    version = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.key}: {self.value}"

    @classmethod
    def read(cls, key: str) -> Counter:
        return cls.objects.filter(pk=key).first() or cls(pk=key)

    @classmethod
    def increment(cls, key: str) -> None:
        cls._change(key, F("value") + 1)

    @classmethod
    def reset(cls, key: str) -> None:
        cls._change(key, 0)

    @classmethod
    def _change(cls, key: str, value: Any) -> None:
        """Change the value in the database, not in Python: no concurrent change is lost."""
        with transaction.atomic():
            cls.objects.get_or_create(pk=key)
            # This locks the row until the commit, so what is read next is our own change.
            cls.objects.filter(pk=key).update(value=value, version=F("version") + 1)
            broadcast_on_commit(key, cls.read(key).state())

    def state(self) -> dict[str, int]:
        """What the pages are sent."""
        return {"value": self.value, "version": self.version}
