"""Notices when session rows are deleted: by ``flush()``, one by one, or many at once.

A receiver of ``post_delete`` would make Django load all sessions that are deleted together, one
object for each: ``clearsessions`` deletes perhaps a million. So the statements that the ORM sends
tell: nothing is loaded, and nothing more is asked of the database. Raw SQL is not heard.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from django.apps import apps
from django.db import connections
from django.db.backends.signals import connection_created

from django_ws.auth.orders import call_on_commit, order_on_commit, publish
from django_ws.auth.session_identity import session_identity
from django_ws.pubsub.envelope import seal_check
from django_ws.pubsub.hub.user_index import EVERYBODY

logger = logging.getLogger("django.ws")

# As Django compiles it: MySQL names the table twice where there are joins. A statement of the
# test runner that empties tables ends with a semicolon, and is none of these.
_DELETE = re.compile(r"DELETE (?:\S+ )?FROM (?P<table>\S+)(?: WHERE (?P<which>.+))?", re.DOTALL)


def listen() -> None:
    """From now on, where the site has sessions in a database. Calling it again does nothing."""
    if _models():
        connection_created.connect(_look_at, dispatch_uid="django_ws.session_rows")
        for connection in connections.all(initialized_only=True):
            _look_at(connection=connection)


def _models() -> list[Any]:
    """Those whose own table has the keys: no proxies, and of a model and its child the first."""
    from django.contrib.sessions.base_session import AbstractBaseSession  # once apps are ready

    return [
        model
        for model in apps.get_models()
        if issubclass(model, AbstractBaseSession)
        and any(field.name == "session_key" for field in model._meta.local_fields)
    ]


def _look_at(*, connection: Any, **kwargs: Any) -> None:
    if _note_deleted not in connection.execute_wrappers:
        # First: what `with connection.execute_wrapper()` takes back, at its end, is the last.
        connection.execute_wrappers.insert(0, _note_deleted)


def _note_deleted(
    execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]
) -> Any:
    """Every statement of the site comes through here: whatever is no DELETE must cost nothing."""
    result = execute(sql, params, many, context)
    if isinstance(sql, str) and sql.startswith("DELETE"):
        try:
            _deleted(sql, params, context)
        except Exception:  # the rows are gone all the same
            logger.exception("Sockets stay open until their log-in is checked again")
    return result


def _deleted(sql: str, params: Any, context: dict[str, Any]) -> None:
    connection = context["connection"]
    statement = _DELETE.fullmatch(sql)
    if statement is None or context["cursor"].rowcount == 0:
        return
    for model in _models():
        table = connection.ops.quote_name(model._meta.db_table)
        if statement["table"] == table:
            column = connection.ops.quote_name(model._meta.get_field("session_key").column)
            if statement["which"] in (f"{table}.{column} IN (%s)", f"{table}.{column} = %s"):
                # Its row is the truth about a session: who looks finds out.
                order_on_commit(seal_check(session_identity(params[0])), connection.alias)
            else:
                _check_all(connection)


class _CheckOfAll:
    """Asked for by each statement of a transaction that deletes several, and done once."""

    def __init__(self) -> None:
        self.is_done = False

    def __call__(self) -> None:
        if not self.is_done:
            self.is_done = True
            publish(seal_check(EVERYBODY))


_checks: WeakKeyDictionary[Any, _CheckOfAll] = WeakKeyDictionary()


def _check_all(connection: Any) -> None:
    """Nobody knows which: every connection's log-in is looked at, many with one query."""
    check = _checks.get(connection)
    if check is None or check.is_done:
        check = _checks[connection] = _CheckOfAll()
    # By each of them: what a savepoint takes back asks for nothing.
    call_on_commit(check, connection.alias)
