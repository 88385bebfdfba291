"""A model of tokens such as a site may have beside Django REST framework's own."""

from django.conf import settings
from django.db import models


class DeviceToken(models.Model):
    """Several for each user; unlike REST framework's, the key is not the primary key."""

    key = models.CharField(max_length=64, unique=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="devices")

    def __str__(self) -> str:
        return f"token {self.pk}"
