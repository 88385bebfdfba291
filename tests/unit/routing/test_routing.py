"""From a path to the handler and its arguments, and from a name back to the path."""

import logging
from pathlib import Path
from typing import Any, cast

import pytest
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.template import Context, Template, TemplateSyntaxError
from django.test import RequestFactory
from django.urls import NoReverseMatch, include, register_converter
from django.views import View
from pytest_django import Settings

from django_ws import WebSocketHandler, ws_reverse, ws_url
from django_ws.testing import HandshakeRejected, WebSocketClient
from django_ws.types import Receive, Scope, Send
from tests.support.routes import path, re_path


class HexConverter:
    regex = "[0-9a-f]+"

    def to_python(self, value: str) -> int:
        return int(value, 16)

    def to_url(self, value: int) -> str:
        return format(value, "x")


register_converter(HexConverter, "hex")


class EchoRoute(WebSocketHandler):
    """Tells the client what the route has given."""

    async def on_open(self) -> None:
        match = self.request.resolver_match
        assert match is not None
        await self.send(
            {
                "args": list(self.args),
                "kwargs": self.kwargs,
                "name": match.view_name,
                "route": match.route,
            }
        )


class OtherHandler(WebSocketHandler):
    async def on_open(self) -> None:
        await self.send("other")


async def any_asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": repr(scope["url_route"])})
    await send({"type": "websocket.close", "code": 4321})


async def failing_app(scope: Scope, receive: Receive, send: Send) -> None:
    raise LookupError("of the application")


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse("a page")


class NoHandler:
    """A class, but not a handler."""


inner = (
    [path("<slug:room>/", EchoRoute, name="room"), path("<slug:room>/side/", OtherHandler)],
    "chat",
)
urlpatterns = [
    path("plain/", EchoRoute, name="plain"),
    path("number/<int:number>/<hex:colour>/", EchoRoute, name="number"),
    path("extra/", EchoRoute, {"extra": True}, name="extra"),
    re_path(r"^year/(?P<year>[0-9]{4})/$", EchoRoute, name="year"),
    re_path(r"^unnamed/([a-z]+)/([0-9]+)/$", EchoRoute, name="unnamed"),
    path("chat/", include(inner)),
    path("other-chat/", include(inner, namespace="other")),
    path("no-slash", EchoRoute, name="no-slash"),
    path("both", OtherHandler),
    path("both/", EchoRoute, name="both"),
    path("app/<int:number>/", any_asgi_app, name="app"),
    path("wrong/", NoHandler, name="wrong"),
    path("view/", page),
    path("view-class/", View.as_view()),
    path("decorated/", login_required(cast(Any, OtherHandler))),
    path("failing-app/", failing_app),
    path("", EchoRoute, name="root"),
]


@pytest.fixture(autouse=True)
def routes(settings: Settings) -> None:
    settings.ROOT_WS_URLCONF = __name__


async def first_message(url: str) -> Any:
    async with WebSocketClient(url) as ws:
        return await ws.receive()


async def refusal(url: str) -> HandshakeRejected:
    with pytest.raises(HandshakeRejected) as refused:
        await WebSocketClient(url).__aenter__()
    return refused.value


# From the path to the handler


@pytest.mark.parametrize(
    ("url", "args", "kwargs", "name"),
    [
        ("/", [], {}, "root"),
        ("/plain/", [], {}, "plain"),
        ("/plain/?page=2", [], {}, "plain"),
        ("/number/7/ff/", [], {"number": 7, "colour": 255}, "number"),
        ("/extra/", [], {"extra": True}, "extra"),
        ("/year/2031/", [], {"year": "2031"}, "year"),
        ("/unnamed/abc/42/", ["abc", "42"], {}, "unnamed"),
        ("/chat/lobby/", [], {"room": "lobby"}, "chat:room"),
        ("/other-chat/lobby/", [], {"room": "lobby"}, "other:room"),
        ("/no-slash", [], {}, "no-slash"),
    ],
)
async def test_route_gives_args_kwargs_and_match(
    url: str, args: list[str], kwargs: dict[str, Any], name: str
) -> None:
    answer = await first_message(url)
    del answer["route"]
    assert answer == {"args": args, "kwargs": kwargs, "name": name}


async def test_resolver_match_knows_the_whole_route_of_an_include() -> None:
    assert (await first_message("/chat/lobby/"))["route"] == "chat/<slug:room>/"


async def test_second_route_of_an_include_is_found() -> None:
    assert await first_message("/chat/lobby/side/") == "other"


async def test_any_asgi_application_can_be_a_route() -> None:
    async with WebSocketClient("/app/3/") as ws:
        assert await ws.receive_data() == repr({"args": (), "kwargs": {"number": 3}})
        assert await ws.wait_closed() == 4321


# APPEND_SLASH


async def test_missing_trailing_slash_is_appended() -> None:
    assert (await first_message("/plain"))["name"] == "plain"


async def test_path_that_matches_as_it_is_gets_no_slash() -> None:
    assert await first_message("/both") == "other"


async def test_no_slash_is_appended_with_append_slash_off(settings: Settings) -> None:
    assert (await first_message("/plain"))["name"] == "plain"
    settings.APPEND_SLASH = False
    assert (await refusal("/plain")).status == 404


@pytest.mark.parametrize("url", ["/nowhere", "/nowhere/", "/no-slash/", "/number/x/ff/", "/app"])
async def test_path_without_a_route_is_refused_with_404(url: str) -> None:
    assert (await refusal(url)).status == 404


# 404


async def test_404_says_nothing_more_without_debug() -> None:
    assert (await refusal("/nowhere/")).reason == "Not Found"


async def test_404_lists_the_tried_routes_with_debug(settings: Settings) -> None:
    settings.DEBUG = True
    reason = (await refusal("/nowhere/")).reason
    assert reason.startswith("No WebSocket route matches '/nowhere/'.")
    assert "\nnumber/<int:number>/<hex:colour>/\n" in reason
    assert "\nother-chat/<slug:room>/\n" not in reason  # its prefix did not match
    assert "\n^year/(?P<year>[0-9]{4})/$\n" in reason


async def test_404_tells_of_routes_that_begin_with_a_slash(settings: Settings) -> None:
    settings.DEBUG = True
    assert "begin without a slash" not in (await refusal("/nowhere/")).reason
    settings.ROOT_WS_URLCONF = "tests.ws_urls_slash"
    reason = (await refusal("/ws/echo/")).reason
    assert reason.endswith(
        "\n/ws/echo/\n\nRoutes begin without a slash: remove it from those that have one.\n"
    )


async def test_404_lists_the_routes_tried_inside_an_include(settings: Settings) -> None:
    settings.DEBUG = True
    assert "\nchat/<slug:room>/side/\n" in (await refusal("/chat/no slug/")).reason


async def test_404_is_one_info_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "django.ws.request"):
        await refusal("/nowhere/")
    [record] = [record for record in caplog.records if record.name.startswith("django")]
    assert (record.levelname, record.exc_info) == ("INFO", None)
    assert record.getMessage() == (
        "WebSocket /nowhere/ refused with 404: no route (client 127.0.0.1)"
    )


async def test_404_of_an_urlconf_without_routes_is_told_with_debug(settings: Settings) -> None:
    settings.DEBUG = True
    settings.ROOT_WS_URLCONF = "tests.ws_urls_empty"
    assert (await refusal("/nowhere/")).status == 404


# Wrong targets


async def test_class_that_is_no_handler_is_named_with_the_cure() -> None:
    cause = (await refusal("/wrong/")).__cause__
    assert isinstance(cause, ImproperlyConfigured)
    assert f"{__name__}: the route 'wrong/' leads to the class {__name__}.NoHandler" in str(cause)
    assert "Name a WebSocketHandler class" in str(cause)


@pytest.mark.parametrize("url", ["/view/", "/view-class/"])
async def test_django_view_is_named_with_the_cure(url: str) -> None:
    cause = (await refusal(url)).__cause__
    assert isinstance(cause, ImproperlyConfigured)
    assert "a Django view" in str(cause)
    assert "write a WebSocketHandler class" in str(cause)


async def test_decorated_handler_is_named_with_the_cure() -> None:
    cause = (await refusal("/decorated/")).__cause__
    assert isinstance(cause, ImproperlyConfigured)
    assert "wraps the handler class OtherHandler" in str(cause)
    assert "Name the handler class itself" in str(cause)


async def test_failing_asgi_application_raises_its_own_exception() -> None:
    cause = (await refusal("/failing-app/")).__cause__
    assert repr(cause) == "LookupError('of the application')"


async def test_missing_routes_fail_the_handshake_with_the_cure(settings: Settings) -> None:
    settings.ROOT_WS_URLCONF = "tests.no_such_module"
    refused = await refusal("/plain/")
    assert refused.status == 500
    assert isinstance(refused.__cause__, ImproperlyConfigured)
    assert "ROOT_WS_URLCONF: there is no module 'tests.no_such_module'" in str(refused.__cause__)
    assert "urlpatterns = [" in str(refused.__cause__)
    assert isinstance(refused.__cause__.__cause__, ModuleNotFoundError)


async def test_handler_that_is_called_in_the_route_is_told_with_the_cure(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ws_urls_with_a_call.py").write_text(
        "from django_ws import WebSocketHandler\nurlpatterns = [WebSocketHandler()]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings.ROOT_WS_URLCONF = "ws_urls_with_a_call"
    for _ in range(2):  # a failure is not kept
        cause = (await refusal("/plain/")).__cause__
        assert isinstance(cause, ImproperlyConfigured)
        assert "ws_urls_with_a_call.py, line 2" in str(cause)
        assert 'without calling it: path("ws/chat/", ChatHandler' in str(cause)


# From the name to the path


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "url"),
    [
        ("plain", None, None, "/plain/"),
        ("number", [7, 255], None, "/number/7/ff/"),
        ("number", None, {"number": 7, "colour": 255}, "/number/7/ff/"),
        ("year", None, {"year": 2031}, "/year/2031/"),
        ("unnamed", ["abc", 42], None, "/unnamed/abc/42/"),
        ("chat:room", None, {"room": "lobby"}, "/chat/lobby/"),
        ("other:room", ["lobby"], None, "/other-chat/lobby/"),
        ("app", [3], None, "/app/3/"),
        ("root", None, None, "/"),
    ],
)
def test_ws_reverse_gives_the_path(
    name: str, args: list[Any] | None, kwargs: dict[str, Any] | None, url: str
) -> None:
    assert ws_reverse(name, args=args, kwargs=kwargs) == url


def test_ws_reverse_of_an_unknown_name_raises() -> None:
    with pytest.raises(NoReverseMatch):
        ws_reverse("nowhere")


def test_ws_reverse_looks_at_websocket_routes_alone() -> None:
    with pytest.raises(NoReverseMatch):
        ws_reverse("index")  # a page


@pytest.mark.parametrize(("secure", "scheme"), [(False, "ws"), (True, "wss")])
def test_ws_url_takes_scheme_and_host_of_the_request(secure: bool, scheme: str) -> None:
    request = RequestFactory().get("/", secure=secure, headers={"host": "localhost:8443"})
    url = ws_url(request, "chat:room", kwargs={"room": "lobby"})
    assert url == f"{scheme}://localhost:8443/chat/lobby/"


def test_ws_url_takes_positional_arguments_of_the_route() -> None:
    assert ws_url(RequestFactory().get("/"), "app", args=[3]) == "ws://testserver/app/3/"


# The template tag


def render(source: str, **context: Any) -> str:
    return Template("{% load django_ws %}" + source).render(Context(context))


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ('{% ws_url "plain" %}', "ws://testserver/plain/"),
        ('{% ws_url "chat:room" room="lobby" %}', "ws://testserver/chat/lobby/"),
        ('{% ws_url "app" 3 %}', "ws://testserver/app/3/"),
        ('{% ws_url "app" number as url %}[{{ url }}]', "[ws://testserver/app/4/]"),
    ],
)
def test_template_tag_gives_the_url(source: str, url: str) -> None:
    assert render(source, request=RequestFactory().get("/"), number=4) == url


def test_template_tag_gives_wss_on_a_secure_page() -> None:
    request = RequestFactory().get("/", secure=True)
    assert render('{% ws_url "plain" %}', request=request) == "wss://testserver/plain/"


def test_template_tag_without_the_request_says_how_to_get_it() -> None:
    with pytest.raises(TemplateSyntaxError, match=r"context_processors\.request"):
        render('{% ws_url "plain" %}')


# ROOT_WS_URLCONF


async def test_routes_stand_beside_the_root_urls_by_default(settings: Settings) -> None:
    del settings.ROOT_WS_URLCONF
    assert settings.ROOT_URLCONF == "tests.urls"
    assert ws_reverse("echo") == "/echo/"  # of tests.ws_urls


async def test_routes_of_a_root_urls_without_a_package_are_ws_urls(settings: Settings) -> None:
    del settings.ROOT_WS_URLCONF
    settings.ROOT_URLCONF = "urls"
    with pytest.raises(ImproperlyConfigured, match="no WebSocket routes yet: no module 'ws_urls'"):
        ws_reverse("echo")


async def test_routes_with_neither_setting_name_both(settings: Settings) -> None:
    del settings.ROOT_WS_URLCONF
    del settings.ROOT_URLCONF
    with pytest.raises(ImproperlyConfigured, match=r"ROOT_WS_URLCONF.*ROOT_URLCONF.*ws_urls"):
        ws_reverse("echo")


async def test_each_path_finds_its_route_when_more_come_than_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("django_ws.routing.resolve.MAX_STATIC_MATCHES", 1)
    for url, name in [
        ("/", "root"),
        ("/plain/", "plain"),
        ("/no-slash", "no-slash"),
        ("/plain/", "plain"),
        ("/", "root"),
    ]:
        assert (await first_message(url))["name"] == name
