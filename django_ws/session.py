"""The session of a connection: what it saves is merged into what pages have saved meanwhile.

A page reads its session, writes all of it back, and is done within a second. A connection has read
its session hours ago: to write all of that back would undo what pages have changed since. So only
the keys that the connection itself has changed are written, into the session as it is then.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, NoReturn, Self, cast

from asgiref.sync import sync_to_async
from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends import db, signed_cookies
from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.db import router, transaction
from django.utils import timezone

from django_ws.exceptions import SessionError

Data = dict[str, Any]

# For engines without a lock of their own: those that share one only wait for each other.
_locks = [threading.Lock() for _ in range(64)]


def connection_session(session: SessionBase) -> ConnectionSession:
    """The same object, which saves as a connection must from now on."""
    session.__class__ = _class_for(type(session))
    return cast(ConnectionSession, session)


@dataclass(frozen=True)
class Changes:
    """What has been done to a session's data: key by key, however deep in the value."""

    is_cleared: bool
    removed: frozenset[str]
    put: Mapping[str, Any]

    @classmethod
    def between(cls, before: Data, now: Data, noted: Collection[str], is_cleared: bool) -> Self:
        """``noted`` are keys that were set, perhaps to the value that they had."""
        put = {
            key: value
            for key, value in now.items()
            if key in noted or key not in before or _differ(before[key], value)
        }
        return cls(is_cleared, frozenset(before.keys() - now.keys()), put)

    def __bool__(self) -> bool:
        return bool(self.is_cleared or self.removed or self.put)

    def apply_to(self, data: Data) -> None:
        if self.is_cleared:
            data.clear()
        for key in self.removed:
            data.pop(key, None)
        data.update(self.put)


NONE = Changes(False, frozenset(), {})


class ConnectionSession(SessionBase):
    """In front of the site's session engine, whose methods it has.

    Reading gives the session as it was in the handshake, or when it was saved or refreshed last,
    with one's own changes. ``save()`` and ``asave()`` write the keys that were set, removed or
    changed inside, whatever ``modified`` says, and leave the others as pages have left them. They
    raise ``SessionError`` where what is saved could reach nobody, and Django's ``UpdateError``
    where the session is gone. Whatever would need a new cookie (``cycle_key()``, ``login()``)
    raises ``SessionError``. ``flush()`` works, and logs out.

    For one thread at a time, but for changes made while ``asave()`` is awaited: they stay, for
    the next save.
    """

    engine: ClassVar[type[SessionBase]]

    # Django's own, which its stubs leave out.
    _session: Data
    _session_cache: Data
    _aget_session: Callable[[], Awaitable[Data]]

    _read: bytes | None = None  # what was read last, pickled: a fourth of the objects' memory
    _noted: frozenset[str] = frozenset()  # keys that were set since
    _is_cleared = False
    _is_loading = False

    def pack(self) -> None:
        """Keep what was read as bytes alone, until it is asked for again."""
        if self._read is not None:
            vars(self).pop("_session_cache", None)

    def refresh(self) -> None:
        """Read the session again, for what pages have changed. Unsaved changes are dropped."""
        now = self._current() if self.session_key is not None else None
        if now is None:
            self._session_key = None
        self._noted, self._is_cleared = frozenset(), False
        self._keep({} if now is None else _data_of(now), NONE)

    async def arefresh(self) -> None:
        """As ``refresh``, in async hooks."""
        await sync_to_async(self.refresh)()

    # Reading, once

    def load(self) -> Data:
        if self._read is None:
            with self._loading():
                self._read = pickle.dumps(super().load())
        return self._unpacked()

    async def aload(self) -> Data:
        if self._read is None:
            with self._loading():
                self._read = pickle.dumps(await super().aload())
        return self._unpacked()

    @contextmanager
    def _loading(self) -> Iterator[None]:
        """Some engines make a new session in the place of one that is no more."""
        self._is_loading = True
        try:
            yield
        finally:
            self._is_loading = False

    def _unpacked(self) -> Data:
        return pickle.loads(self._read) if self._read is not None else {}

    # Changing: what comparing could not find

    def __setitem__(self, key: str, value: Any) -> None:
        self._refuse_log_in(key)
        super().__setitem__(key, value)
        self._note(key)

    async def aset(self, key: str, value: Any) -> None:
        self._refuse_log_in(key)
        await super().aset(key, value)
        self._note(key)

    def update(self, dict_: Mapping[str, Any]) -> None:  # type: ignore[override]
        given = dict(dict_)
        super().update(given)
        self._note(*given)

    async def aupdate(self, dict_: Mapping[str, Any]) -> None:  # type: ignore[override]
        given = dict(dict_)
        await super().aupdate(given)
        self._note(*given)

    def clear(self) -> None:
        super().clear()
        self._is_cleared = True

    def _note(self, *keys: str) -> None:
        self._noted |= {*keys}

    # Saving

    def save(self, must_create: bool = False) -> None:
        if must_create:
            self._refuse_new_key("save(must_create=True)")
        self._refuse_where_nobody_is_reached("save()")
        # A copy: a task may change more while this waits for the engine.
        then: Data = pickle.loads(pickle.dumps(self._session))
        noted, self._noted = self._noted, frozenset()
        is_cleared, self._is_cleared = self._is_cleared, False
        try:
            saved = self._merge(Changes.between(self._unpacked(), then, noted, is_cleared))
        except BaseException:
            self._noted |= noted
            self._is_cleared |= is_cleared
            raise
        self._keep(saved, Changes.between(then, self._session, self._noted, self._is_cleared))

    async def asave(self, must_create: bool = False) -> None:
        await self._aget_session()
        await sync_to_async(self.save)(must_create)

    def _merge(self, changes: Changes) -> Data:
        """Write them into the session as it is now, and give what it is then."""
        with self._locked() as now:
            if now is None:
                raise UpdateError
            data = _data_of(now)
            changes.apply_to(data)
            now.save()
            return data

    def _keep(self, read: Data, since: Changes) -> None:
        """From now on this is what was read, and those are the changes that are not saved."""
        self._read = pickle.dumps(read)
        data = self._unpacked()  # an engine may keep the other one
        for key, value in self._session.items():  # a hook may hold these very objects
            if key in data and not _differ(data[key], value):
                data[key] = value
        since.apply_to(data)
        self._session_cache = data
        self.modified = bool(since)

    # What the engine has now

    @contextmanager
    def _locked(self) -> Iterator[SessionBase | None]:
        """The session as it is, which nobody else saves meanwhile, as far as the engine can."""
        if issubclass(self.engine, db.SessionStore):
            with transaction.atomic(using=router.db_for_write(self.engine.get_model_class())):
                yield self._current(lock=True)
        else:
            with _locks[hash(self.session_key) % len(_locks)]:
                yield self._current()

    def _current(self, *, lock: bool = False) -> SessionBase | None:
        """A session of the engine's own with what is stored now; None where it is gone."""
        session = object.__new__(self.engine)
        vars(session).update(vars(self))  # an engine may keep more about it
        vars(session).pop("_session_cache", None)
        if isinstance(session, db.SessionStore):
            data = self._row(session, lock)
            if data is None:
                return None
            vars(session)["_session_cache"] = data
            return session
        vars(session)["create"] = _do_nothing  # in the place of one that has expired
        key = session.session_key
        _data_of(session)
        return session if session.session_key == key else None

    def _row(self, session: db.SessionStore, lock: bool) -> Data | None:
        """Not from a copy of the database, and not from the cache: both may be behind."""
        using = router.db_for_write(session.model)
        rows = session.model.objects.using(using).filter(
            session_key=session.session_key, expire_date__gt=timezone.now()
        )
        if lock:
            # Not every database has select_for_update(), and in a transaction not every other
            # SELECT sees what others have committed meanwhile.
            rows.update(session_key=session.session_key)
            rows = rows.select_for_update()
        row = next(iter(rows), None)
        return None if row is None else session.decode(row.session_data)

    # What a connection cannot do

    def create(self) -> None:
        if not self._is_loading:
            self._refuse_new_key("create()")

    async def acreate(self) -> None:
        self.create()

    def cycle_key(self) -> None:
        self._refuse_new_key("cycle_key()")

    async def acycle_key(self) -> None:
        self._refuse_new_key("acycle_key()")

    def delete(self, session_key: str | None = None) -> None:
        self._refuse_to_leave_the_cookie()
        super().delete(session_key)

    async def adelete(self, session_key: str | None = None) -> None:
        self._refuse_to_leave_the_cookie()
        await super().adelete(session_key)

    def _refuse_where_nobody_is_reached(self, what: str) -> None:
        if self._is_in_cookie:
            raise SessionError(
                f"{what}: with the session engine signed_cookies the session is the browser's "
                "cookie, and an open WebSocket cannot send one: nobody would find what is saved. "
                "Save it in a view, or keep sessions on the server (SESSION_ENGINE)."
            )
        if self.session_key is None:
            raise SessionError(
                f"{what}: the handshake brought no cookie of a session that exists, and an open "
                "WebSocket cannot send one: nobody would find what is saved. Save something in "
                "the session of the page that connects, before it does."
            )

    def _refuse_to_leave_the_cookie(self) -> None:
        if self._is_in_cookie:
            raise SessionError(
                "flush(): with the session engine signed_cookies the session is the browser's "
                "cookie, and an open WebSocket cannot delete that: the browser would stay logged "
                "in. Log out in a view, or keep sessions on the server (SESSION_ENGINE)."
            )

    def _refuse_log_in(self, key: str) -> None:
        if key == SESSION_KEY and self.session_key is None:
            self._refuse_new_key("login()")

    def _refuse_new_key(self, what: str) -> NoReturn:
        raise SessionError(
            f"{what}: the session would need a new key, and an open WebSocket cannot send the "
            "cookie with it to the browser, which would lose its session. Do it in a view; the "
            "page connects again after it."
        )

    @property
    def _is_in_cookie(self) -> bool:
        return issubclass(self.engine, signed_cookies.SessionStore)


@cache
def _class_for(engine: type[SessionBase]) -> type[ConnectionSession]:
    names = {"engine": engine, "__qualname__": engine.__qualname__}  # engines sign with that name
    return type(engine.__name__, (ConnectionSession, engine), names)


def _data_of(session: SessionBase) -> Data:
    data: Data = session._get_session()  # type: ignore[attr-defined]
    return data


def _differ(one: Any, other: Any) -> bool:
    if one is other or one == other:
        return False
    # Objects that compare by identity.
    return pickle.dumps(one) != pickle.dumps(other)


def _do_nothing() -> None: ...
