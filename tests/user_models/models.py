"""Models that a site may have: of tokens beside Django REST framework's own, of sessions."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore as DatabaseStore
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import models


class DeviceToken(models.Model):
    """Several for each user; unlike REST framework's, the key is not the primary key."""

    key = models.CharField(max_length=64, unique=True)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="devices")

    def __str__(self) -> str:
        return f"token {self.pk}"


class OwnSession(AbstractBaseSession):
    """Sessions as a site keeps them that wants to know whose they are."""

    account = models.CharField(max_length=64, db_index=True, default="")

    @classmethod
    def get_session_store_class(cls) -> type[SessionStore]:
        return SessionStore

    def __str__(self) -> str:
        return f"session of {self.account}"


class ProxySession(OwnSession):
    """Another view of the same rows."""

    class Meta:
        proxy = True


class SessionStore(DatabaseStore):
    """The engine ``tests.user_models.models``."""

    @classmethod
    def get_model_class(cls) -> type[OwnSession]:
        return OwnSession

    def create_model_instance(self, data: dict[str, Any]) -> Any:
        session: Any = super().create_model_instance(data)
        session.account = data.get("_auth_user_id", "")
        return session
