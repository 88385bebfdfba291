"""Pages: what they leave behind in their threads."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.core.asgi import get_asgi_application
from django.db import connections
from django.db.backends.signals import connection_created
from django.db.backends.sqlite3.base import DatabaseWrapper
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path
from pytest_django import Settings

from django_ws.asgi import WebSocketApplication

pytestmark = pytest.mark.django_db(transaction=True)


class Left:
    """Connections to the database that are open in the threads of pages."""

    opened = 0
    closed = 0


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Iterator[Left]:
    seen = Left()
    close = DatabaseWrapper._close  # type: ignore[attr-defined]
    lock = threading.Lock()

    def note_opened(**kwargs: Any) -> None:
        with lock:
            seen.opened += 1

    def note_closed(wrapper: Any) -> None:
        if wrapper.connection is not None:
            with lock:
                seen.closed += 1
        close(wrapper)

    connection_created.connect(note_opened)
    monkeypatch.setattr(DatabaseWrapper, "_close", note_closed)
    yield seen
    connection_created.disconnect(note_opened)


def count(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(User.objects.count()))


async def acount(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(await User.objects.acount()))


async def nothing(request: HttpRequest) -> HttpResponse:
    return HttpResponse("no query")


def failing(request: HttpRequest) -> HttpResponse:
    User.objects.count()
    raise ZeroDivisionError


async def streaming(request: HttpRequest) -> StreamingHttpResponse:
    async def parts() -> AsyncIterator[str]:
        for _ in range(3):
            yield str(await User.objects.acount())

    return StreamingHttpResponse(parts())


async def same_thread(request: HttpRequest) -> HttpResponse:
    names = {await sync_to_async(lambda: threading.current_thread().name)() for _ in range(5)}
    return HttpResponse(str(len(names)))


urlpatterns = [
    path("count/", count),
    path("acount/", acount),
    path("nothing/", nothing),
    path("failing/", failing),
    path("streaming/", streaming),
    path("same-thread/", same_thread),
]


async def page(url: str, application: Any = None) -> tuple[int, bytes]:
    """One request, as a server makes it."""
    events: list[Any] = []
    requests: list[Any] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if not requests:
            await asyncio.Event().wait()
        return requests.pop()

    async def send(event: Any) -> None:
        events.append(event)

    scope = {
        "type": "http",
        "method": "GET",
        "path": url,
        "query_string": b"",
        "headers": [(b"host", b"testserver")],
    }
    await (application or WebSocketApplication())(scope, receive, send)
    body = b"".join(event.get("body", b"") for event in events[1:])
    return events[0]["status"], body


@pytest.fixture(autouse=True)
def urls(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.ROOT_URLCONF = __name__
    monkeypatch.setitem(connections["default"].settings_dict, "CONN_MAX_AGE", 60)


@pytest.mark.parametrize("http_app", [None, get_asgi_application], ids=["ours", "given"])
@pytest.mark.parametrize(
    ("url", "status", "body"),
    [
        ("/count/", 200, b"0"),
        ("/acount/", 200, b"0"),
        ("/streaming/", 200, b"000"),
        ("/failing/", 500, None),
    ],
)
async def test_a_page_leaves_no_database_connection_behind(
    url: str, status: int, body: bytes | None, http_app: Any, left: Left
) -> None:
    application = WebSocketApplication(http_app() if http_app is not None else None)
    for _ in range(5):
        answer = await page(url, application)
        assert answer[0] == status
        assert body is None or answer[1] == body
    assert left.opened == left.closed == 5


async def test_where_django_has_closed_it_nothing_is_left_to_do(
    left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections["default"].settings_dict, "CONN_MAX_AGE", 0)
    assert await page("/count/") == (200, b"0")
    assert left.opened == left.closed == 1


async def test_a_page_without_queries_opens_no_connection_for_this(left: Left) -> None:
    assert await page("/nothing/") == (200, b"no query")
    assert left.opened == 0


async def test_all_sync_code_of_a_page_runs_in_one_thread() -> None:
    assert await page("/same-thread/") == (200, b"1")


async def test_a_page_that_is_cancelled_leaves_none_either(
    left: Left, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()

    async def hangs(scope: Any, receive: Any, send: Any) -> None:
        await User.objects.acount()
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(page("/", WebSocketApplication(hangs)))
    await begun.wait()
    assert (left.opened, left.closed) == (1, 0)
    task.cancel()
    await asyncio.wait([task])
    assert (left.opened, left.closed) == (1, 1)


async def test_an_application_that_is_not_djangos_is_served_as_it_is() -> None:
    seen = []

    async def other(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["path"])
        seen.append(threading.active_count())
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    threads = threading.active_count()
    assert await page("/x", WebSocketApplication(other)) == (204, b"")
    assert seen == ["/x", threads]
    assert threading.active_count() == threads
