"""Django's, with more than the data of a session."""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.backends import db

saved_by: list[str] = []


class SessionStore(db.SessionStore):
    agent = ""

    def load(self) -> dict[str, Any]:
        self.agent = "a browser"
        return super().load()

    def save(self, must_create: bool = False) -> None:
        saved_by.append(self.agent)
        super().save(must_create)
