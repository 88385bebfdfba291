"""What Django asks of an engine, and no method that is async."""

from __future__ import annotations

from typing import Any

from django.contrib.sessions.backends.base import CreateError, SessionBase, UpdateError

rows: dict[str, str] = {}


class SessionStore(SessionBase):
    def exists(self, session_key: str) -> bool:
        return session_key in rows

    def create(self) -> None:
        self._session_key: str | None = self._get_new_session_key()  # type: ignore[attr-defined]
        self.save(must_create=True)
        self.modified = True

    def save(self, must_create: bool = False) -> None:
        if self.session_key is None:
            return self.create()
        if must_create is (self.session_key in rows):
            raise CreateError if must_create else UpdateError
        data: Any = self._get_session(no_load=must_create)  # type: ignore[attr-defined]
        rows[self.session_key] = self.encode(data)
        return None

    def delete(self, session_key: str | None = None) -> None:
        rows.pop(session_key or self.session_key or "", None)

    def load(self) -> dict[str, Any]:
        if self.session_key not in rows:
            self._session_key = None
            return {}
        return self.decode(rows[self.session_key])
