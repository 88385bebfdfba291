"""The entry point: http, websocket and lifespan in one application."""

import logging
from typing import Any

import pytest
from asgiref.testing import ApplicationCommunicator
from pytest_django import Settings

from django_ws import WebSocketHandler, get_websocket_application, ws_reverse
from django_ws.testing import HandshakeRejected, WebSocketClient
from django_ws.types import ASGIApplication, Event, Receive, Scope, Send
from tests.support.altered import with_scope
from tests.support.routes import path

LIFESPAN = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}


class WhereHandler(WebSocketHandler):
    async def on_open(self) -> None:
        request = self.request
        await self.send([request.path, request.path_info, ws_reverse("where")])


urlpatterns = [path("where/", WhereHandler, name="where")]


@pytest.fixture(autouse=True)
def routes(settings: Settings) -> None:
    settings.ROOT_WS_URLCONF = __name__


def communicate(application: ASGIApplication, scope: Scope) -> Any:
    return ApplicationCommunicator(application, scope)  # type: ignore[no-untyped-call]


async def get(application: ASGIApplication, url: str) -> tuple[int, bytes]:
    """One HTTP GET through an ASGI application: status and body."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": url,
        "raw_path": url.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"testserver")],
        "client": ("127.0.0.1", 50000),
        "server": ("testserver", 80),
    }
    communicator = communicate(application, scope)
    await communicator.send_input({"type": "http.request", "body": b"", "more_body": False})
    start = await communicator.receive_output(5)
    body = await communicator.receive_output(5)
    await communicator.wait(5)
    return start["status"], body["body"]


async def hello_app(scope: Scope, receive: Receive, send: Send) -> None:
    """An HTTP application that knows nothing of lifespan, as Django's own."""
    if scope["type"] != "http":
        raise ValueError(f"only http, not {scope['type']}")
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b"hello from http_app"})


# http


async def test_http_goes_to_django() -> None:
    assert await get(get_websocket_application(), "/") == (200, b"hello from Django")


async def test_http_goes_to_http_app_where_one_is_given() -> None:
    application = get_websocket_application(http_app=hello_app)
    assert await get(application, "/") == (299, b"hello from http_app")


async def test_http_app_leaves_websockets_to_the_routes() -> None:
    application = get_websocket_application(http_app=hello_app)
    async with WebSocketClient("/where/", application=application) as ws:
        assert await ws.receive() == ["/where/", "/where/", "/where/"]


# websocket


async def test_client_that_left_before_the_connect_event_is_answered_nothing() -> None:
    scope = {"type": "websocket", "path": "/where/", "headers": []}
    communicator = communicate(get_websocket_application(), scope)
    await communicator.send_input({"type": "websocket.disconnect", "code": 1006})
    await communicator.wait(5)
    assert communicator.output_queue.empty()


async def test_one_application_serves_several_connections() -> None:
    application = get_websocket_application()
    async with (
        WebSocketClient("/where/", application=application) as one,
        WebSocketClient("/where/", application=application) as two,
    ):
        assert await one.receive() == await two.receive()


async def test_root_path_is_taken_off_before_the_routes_and_put_before_reversed_urls() -> None:
    application = with_scope(root_path="/site", path="/site/where/")
    async with WebSocketClient("/", application=application) as ws:
        assert await ws.receive() == ["/site/where/", "/where/", "/site/where/"]


async def test_path_that_only_begins_like_the_root_path_does_not_match() -> None:
    application = with_scope(root_path="/site", path="/sitewhere/")
    with pytest.raises(HandshakeRejected, match="404"):
        await WebSocketClient("/", application=application).__aenter__()


async def test_path_equal_to_the_root_path_is_the_root() -> None:
    application = with_scope(root_path="/site", path="/site")
    with pytest.raises(HandshakeRejected, match="404"):
        await WebSocketClient("/", application=application).__aenter__()


@pytest.mark.parametrize("script_name", ["/site", "/site/"])
@pytest.mark.parametrize("seen_by_server", ["/site/where/", "/where/"])
async def test_force_script_name_is_respected(
    settings: Settings, script_name: str, seen_by_server: str
) -> None:
    settings.FORCE_SCRIPT_NAME = script_name
    async with WebSocketClient(seen_by_server) as ws:
        assert (await ws.receive())[1:] == ["/where/", "/site/where/"]


async def test_prefix_of_one_connection_is_not_that_of_the_next() -> None:
    prefixed = with_scope(root_path="/site", path="/site/where/")
    async with WebSocketClient("/", application=prefixed), WebSocketClient("/where/") as ws:
        assert await ws.receive() == ["/where/", "/where/", "/where/"]


# lifespan


async def lifespan_events(application: ASGIApplication) -> list[str]:
    """What the application answers to start-up and shutdown."""
    communicator = communicate(application, dict(LIFESPAN))
    answers = []
    for event in ("startup", "shutdown"):
        await communicator.send_input({"type": f"lifespan.{event}"})
        answers.append((await communicator.receive_output(5))["type"])
    await communicator.wait(5)
    return answers


COMPLETE = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_lifespan_is_answered() -> None:
    assert await lifespan_events(get_websocket_application()) == COMPLETE


async def raises_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("no lifespan here")


async def raises_after_reading(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    raise RuntimeError("not an http.request")


async def returns_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    return


async def returns_after_reading(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()


@pytest.mark.parametrize(
    "http_app", [raises_at_once, raises_after_reading, returns_at_once, returns_after_reading]
)
async def test_lifespan_is_answered_for_an_http_app_without_one(http_app: ASGIApplication) -> None:
    assert await lifespan_events(get_websocket_application(http_app)) == COMPLETE


async def test_why_an_http_app_takes_no_part_is_a_debug_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    application = get_websocket_application(raises_at_once)
    with caplog.at_level(logging.DEBUG, "django.ws"):
        await lifespan_events(application)
    [record] = [record for record in caplog.records if record.name == "django.ws"]
    assert record.levelname == "DEBUG"
    assert "no lifespan here" in record.getMessage()


async def test_http_app_with_a_lifespan_takes_part_in_it() -> None:
    seen: list[str] = []

    async def http_app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["pool"] = "open"
        for _ in range(2):
            event = await receive()
            seen.append(event["type"])
            await send({"type": f"{event['type']}.complete"})

    assert await lifespan_events(get_websocket_application(http_app)) == COMPLETE
    assert seen == ["lifespan.startup", "lifespan.shutdown"]


async def test_failed_startup_of_http_app_reaches_the_server() -> None:
    async def http_app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no disk"})

    communicator = communicate(get_websocket_application(http_app), dict(LIFESPAN))
    await communicator.send_input({"type": "lifespan.startup"})
    answer: Event = await communicator.receive_output(5)
    await communicator.wait(5)
    assert answer == {"type": "lifespan.startup.failed", "message": "no disk"}


async def test_exception_of_http_app_after_its_startup_reaches_the_server() -> None:
    async def http_app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        raise RuntimeError("the pool is gone")

    communicator = communicate(get_websocket_application(http_app), dict(LIFESPAN))
    await communicator.send_input({"type": "lifespan.startup"})
    await communicator.receive_output(5)
    with pytest.raises(RuntimeError, match="the pool is gone"):
        await communicator.wait(5)


async def test_server_without_lifespan_serves_all_the_same() -> None:
    application = get_websocket_application()
    assert (await get(application, "/"))[0] == 200
    async with WebSocketClient("/where/", application=application) as ws:
        assert await ws.receive() == ["/where/", "/where/", "/where/"]
