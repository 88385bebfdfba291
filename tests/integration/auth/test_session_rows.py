"""Sessions whose rows are deleted are told of, and deleting many is as fast as without us."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.core.management import call_command
from django.db import OperationalError, connection, connections, transaction
from django.db.models.signals import post_delete
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils.timezone import now
from pytest_django import Settings

from django_ws.auth import orders, session_rows
from django_ws.auth.session_identity import session_identity
from django_ws.pubsub.envelope import CHECK, DISCONNECT, Broadcast
from django_ws.pubsub.hub.user_index import EVERYBODY
from django_ws.pubsub.topics import CONTROL_TOPIC
from tests.user_models.models import OwnSession, ProxySession
from tests.user_models.models import SessionStore as OwnStore

pytestmark = pytest.mark.django_db(transaction=True)

MANY = 100_000


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whose connections the processes are told to check; DISCONNECT before whose to close."""
    heard: list[Any] = []

    def hear(order: bytes) -> None:
        broadcast = Broadcast(CONTROL_TOPIC, order)
        if broadcast.kind == CHECK:
            heard.append(broadcast.message())
        else:
            heard.append((DISCONNECT, broadcast.message()[0]))

    monkeypatch.setattr(orders, "_publish_here", hear)
    return heard


def new_sessions(count: int, store: Any = SessionStore) -> list[str]:
    keys = []
    for number in range(count):
        session = store()
        session["number"] = number
        session.save()
        keys.append(str(session.session_key))
    return keys


@contextmanager
def statements() -> Iterator[list[str]]:
    """What the database was told, without what begins and ends transactions."""
    found: list[str] = []
    with CaptureQueriesContext(connection) as queries:
        yield found
    verbs = [query["sql"].split()[0] for query in queries]
    found += [verb for verb in verbs if verb in ("SELECT", "DELETE")]


@pytest.mark.parametrize("how", ["flush", "delete", "instance", "queryset", "proxy"])
@pytest.mark.parametrize("store", [SessionStore, OwnStore], ids=["Django's", "own"])
def test_one_session_is_told_of(how: str, store: Any, told: list[Any]) -> None:
    [key, _] = new_sessions(2, store)
    match how:
        case "flush":
            store(key).flush()
        case "delete":
            store(key).delete()
        case "instance":
            store.get_model_class().objects.get(pk=key).delete()
        case "queryset":
            store.get_model_class().objects.filter(session_key=key).delete()
        case "proxy":
            store, [key] = OwnStore, new_sessions(1, OwnStore)
            ProxySession.objects.get(pk=key).delete()
    assert told == [session_identity(key)]


def test_many_at_once_have_all_log_ins_checked_and_nothing_is_loaded(told: list[Any]) -> None:
    new_sessions(3)
    with statements() as sent:
        Session.objects.filter(session_key__gt="").delete()
    assert (told, sent) == ([EVERYBODY], ["DELETE"])
    new_sessions(3)
    with statements() as sent:
        Session.objects.all().delete()
    assert (told, sent) == ([EVERYBODY] * 2, ["DELETE"])


def test_who_deletes_nothing_is_not_told_of(told: list[Any]) -> None:
    SessionStore("a" * 32).delete()
    Session.objects.filter(pk="a" * 32).delete()
    Session.objects.all().delete()
    call_command("clearsessions")
    User.objects.all().delete()
    assert told == []


def test_a_hundred_thousand_expired_sessions_are_cleared_in_one_statement(told: list[Any]) -> None:
    expired = now() - timedelta(days=1)
    Session.objects.bulk_create(
        (Session(f"{n:032}", "x" * 200, expired) for n in range(MANY)), batch_size=5000
    )
    [kept] = new_sessions(1)
    tracemalloc.start()
    try:
        with statements() as sent:
            call_command("clearsessions")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sent == ["DELETE"]
    assert peak < 2**20  # a row is more than 200 bytes
    assert told == [EVERYBODY]
    assert list(Session.objects.values_list("pk", flat=True)) == [kept]


def test_a_receiver_of_the_sites_own_has_them_deleted_in_many_statements(told: list[Any]) -> None:
    """Then Django loads them, and deletes a hundred at a time, in one transaction."""
    new_sessions(250)
    seen: list[Any] = []

    def receive(**kwargs: Any) -> None:
        seen.append(kwargs["instance"])

    post_delete.connect(receive, sender=Session)
    try:
        with statements() as sent:
            Session.objects.all().delete()
    finally:
        post_delete.disconnect(receive, sender=Session)
    assert (len(seen), sent) == (250, ["SELECT", *["DELETE"] * 3])
    assert told == [EVERYBODY]


# Transactions


def test_it_is_told_when_the_transaction_commits(told: list[Any]) -> None:
    one, other = new_sessions(2)
    with transaction.atomic():
        SessionStore(one).delete()
        Session.objects.exclude(pk="").delete()
        assert told == []
    assert told == [session_identity(one), EVERYBODY]
    assert other not in str(told)


def test_what_is_rolled_back_is_not_told(told: list[Any]) -> None:
    keys = new_sessions(2)
    with transaction.atomic():
        SessionStore(keys[0]).delete()
        Session.objects.all().delete()
        transaction.set_rollback(True)
    assert told == []
    assert Session.objects.count() == 2


def test_what_a_savepoint_takes_back_hides_nothing_else(told: list[Any]) -> None:
    new_sessions(2)
    with transaction.atomic():
        with transaction.atomic():
            Session.objects.all().delete()
            transaction.set_rollback(True)
        Session.objects.all().delete()
    with transaction.atomic():
        new_sessions(1)
        Session.objects.all().delete()
    assert told == [EVERYBODY] * 2


@pytest.mark.parametrize("in_atomic", [False, True])
def test_without_autocommit_it_is_told_as_far_as_django_knows(
    in_atomic: bool, told: list[Any]
) -> None:
    """A queryset deletes in a transaction of its own, one row does not."""
    [key] = new_sessions(1)
    transaction.set_autocommit(False)
    try:
        if in_atomic:
            Session.objects.filter(pk=key).delete()
            assert told == []
        else:
            SessionStore(key).delete()
            assert told == [session_identity(key)]
        transaction.commit()
    finally:
        transaction.set_autocommit(True)
    assert told == [session_identity(key)]


# What is none of it


def test_a_test_runner_that_empties_the_tables_tells_nobody(told: list[Any]) -> None:
    new_sessions(1)
    call_command("flush", interactive=False, verbosity=0)
    assert (told, Session.objects.count()) == ([], 0)


def test_other_tables_tell_nobody(told: list[Any]) -> None:
    user = User.objects.create_user("alice")
    User.groups.through.objects.all().delete()
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE another (session_key text)")
        try:
            cursor.execute("INSERT INTO another VALUES (1)")
            cursor.execute('DELETE FROM "another"')
        finally:
            cursor.execute("DROP TABLE another")
    assert told == []
    assert user.pk


def test_statements_that_are_no_text_pass(told: list[Any]) -> None:
    """As psycopg's composed ones."""
    statement, context = object(), {"connection": connection}
    sent = session_rows._note_deleted(lambda *given: given, statement, (), False, context)
    assert sent == (statement, (), False, context)


def test_an_error_of_the_database_is_its_own(told: list[Any]) -> None:
    new_sessions(1)
    with pytest.raises(OperationalError, match="no such column"), connection.cursor() as cursor:
        cursor.execute('DELETE FROM "django_session" WHERE a_column = 1')
    assert told == []


@pytest.mark.parametrize("many", [False, True])
def test_sessions_are_deleted_though_it_cannot_be_told(
    many: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: Any) -> None:
        raise LookupError("a defect")

    monkeypatch.setattr(session_rows, "_check_all" if many else "order_on_commit", fail)
    keys = new_sessions(2)
    if many:
        Session.objects.all().delete()
    else:
        SessionStore(keys[0]).delete()
    assert Session.objects.count() == (0 if many else 1)
    assert "Sockets stay open until their log-in is checked again" in caplog.text


# Where it listens


def test_every_connection_is_heard_once(settings: Settings) -> None:
    for _ in range(2):
        session_rows.listen()
        connection.close()
        connection.ensure_connection()
    assert connection.execute_wrappers.count(session_rows._note_deleted) == 1


def test_a_wrapper_of_the_sites_own_is_taken_back_though_it_opened_the_connection(
    told: list[Any],
) -> None:
    """Django takes back the last one in the list, whichever that is."""
    heard: list[str] = []

    def own(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        heard.append(sql)
        return execute(sql, params, many, context)

    [key] = new_sessions(1)
    connection.close()
    connections["default"].execute_wrappers.clear()  # as of a thread that has not asked yet
    with connection.execute_wrapper(own):
        Session.objects.exists()
    assert connection.execute_wrappers == [session_rows._note_deleted]
    assert heard
    heard.clear()
    SessionStore(key).delete()
    assert (heard, told) == ([], [session_identity(key)])


def test_a_site_without_sessions_in_the_database_is_left_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.INSTALLED_APPS = [
        name for name in settings.INSTALLED_APPS
        if name not in ("django.contrib.sessions", "tests.user_models.apps.AuthTestsConfig")
    ]  # fmt: skip
    monkeypatch.setattr(connections["default"], "execute_wrappers", [])
    session_rows.listen()
    assert connection.execute_wrappers == []


def test_models_of_the_sites_own_count() -> None:
    assert set(session_rows._models()) == {Session, OwnSession}


# Another log-in in the same browser


def request_with(cookie: str | None, key: str | None, **more: Any) -> Any:
    request: Any = RequestFactory().get("/")
    if cookie is not None:
        request.COOKIES["sessionid"] = cookie
    request.session = SessionStore(key)
    for name, value in more.items():
        setattr(request, name, value)
    return request


@pytest.mark.parametrize(
    ("cookie", "key", "is_told"),
    [
        ("a" * 32, "b" * 32, True),
        ("a" * 32, None, True),
        ("a" * 32, "a" * 32, False),
        (None, "b" * 32, False),
        ("", "b" * 32, False),
    ],
)
def test_a_log_in_ends_that_of_the_cookie_before_it(
    cookie: str | None, key: str | None, is_told: bool, told: list[Any]
) -> None:
    alice = User.objects.create_user("alice")
    user_logged_in.send(sender=User, request=request_with(cookie, key), user=alice)
    expected = [(DISCONNECT, session_identity("a" * 32))] if is_told else []
    assert [each for each in told if isinstance(each, tuple)] == expected


def test_a_log_in_without_a_session_ends_none(told: list[Any]) -> None:
    """As by a token, on a site whose cookie comes along."""
    alice = User.objects.create_user("alice")
    request = request_with("a" * 32, None)
    del request.session
    for each in (request, None):
        user_logged_in.send(sender=User, request=each, user=alice)
    assert not [each for each in told if isinstance(each, tuple)]


def test_a_cookie_that_cannot_be_encoded_stops_no_log_in(told: list[Any]) -> None:
    alice = User.objects.create_user("alice")
    request = request_with("\ud800" * 32, "b" * 32)
    user_logged_in.send(sender=User, request=request, user=alice)
    assert len([each for each in told if isinstance(each, tuple)]) == 1


def test_a_browser_that_logs_in_again_keeps_its_log_in(told: list[Any]) -> None:
    browser, alice = Client(), User.objects.create_user("alice")
    browser.force_login(alice)
    told.clear()
    browser.force_login(alice)
    assert told == []
