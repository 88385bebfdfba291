"""``manage.py check``: each mistake gives its id, the place and the cure; nothing right does."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any, cast

import pytest
from channels.auth import AuthMiddlewareStack
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.middleware import BaseMiddleware
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import OriginValidator
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application
from django.core.checks import CheckMessage, run_checks
from django.core.handlers.asgi import ASGIHandler
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from django_ws import WebSocketHandler
from django_ws.checks.wrappers import serves_ours
from django_ws.middleware import AuthMiddleware
from tests import ROOT
from tests.asgi import application as site
from tests.support.routes import path

HERE = __name__
ABSENT: Any = object()  # instead of a setting's value: the setting is not there

# What the settings of the cases name.

django_application = get_asgi_application()
static_files_of_django = ASGIStaticFilesHandler(django_application)
# Typed for Django's application alone, but any ASGI application works.
static_files_of_ours = ASGIStaticFilesHandler(cast(ASGIHandler, site))
channels_without_ours = ProtocolTypeRouter(
    {"http": django_application, "websocket": OriginValidator(URLRouter([]), ["*"])}
)
channels_for_http = ProtocolTypeRouter({"http": django_application})
channels_around_ours = ProtocolTypeRouter({"http": django_application, "websocket": site})


class OwnWrapper:
    """As projects write theirs; ``slots`` and other names too."""

    __slots__ = ("next",)

    def __init__(self, application: Any) -> None:
        self.next = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.next(scope, receive, send)


class Cyclic:
    """Holds itself, and is no application of ours."""

    def __init__(self) -> None:
        self.inner = self

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


def within_channels(application: Any) -> Any:
    return ProtocolTypeRouter({"http": django_application, "websocket": application})


def in_closure(application: Any) -> Any:
    async def wrapper(scope: Any, receive: Any, send: Any) -> None:
        await application(scope, receive, send)

    return wrapper


class Consumer(AsyncWebsocketConsumer): ...


class OwnChannelsMiddleware(BaseMiddleware):
    """As a project writes it."""


channels_middleware_around_ours = within_channels(AuthMiddlewareStack(OriginValidator(site, ["*"])))
channels_routes_to_ours = within_channels(
    AuthMiddlewareStack(URLRouter([path("old/", Consumer.as_asgi()), path("", site)]))
)
own_wrappers_around_ours = within_channels(
    BaseMiddleware(OwnWrapper(in_closure(partial(OwnWrapper(in_closure(site)).__call__))))
)
in_a_table = within_channels(BaseMiddleware(partial(OwnWrapper, {"ws": [site]})))
only_consumers = within_channels(AuthMiddlewareStack(URLRouter([path("", Consumer.as_asgi())])))
handlers_in_their_routes = within_channels(
    OwnChannelsMiddleware(URLRouter([path("", WebSocketHandler)]))
)
unknown_within_channels = within_channels(AuthMiddlewareStack(OwnWrapper(django_application)))
cyclic_within_channels = within_channels(BaseMiddleware(Cyclic()))
very_deep: Any = django_application
for _ in range(1001):
    very_deep = BaseMiddleware(very_deep)


async def wrapped_application(scope: Any, receive: Any, send: Any) -> None:
    await site(scope, receive, send)


class Middleware:
    def __init__(self, func: Callable[[Any], Awaitable[None]]) -> None:
        self.func = func

    async def __call__(self, ws: Any) -> None:
        await self.func(ws)


class InheritingMiddleware(Middleware): ...


def factory(func: Callable[[Any], Awaitable[None]]) -> Callable[[Any], Awaitable[None]]:
    return func


async def no_factory(ws: Any) -> None: ...


def factory_of_two(func: Any, options: Any) -> None: ...


def http_factory(get_response: Any) -> Any:
    return get_response


class WithoutCall:
    def __init__(self, func: Any) -> None: ...


class SyncMiddleware(WithoutCall):
    def __call__(self, ws: Any) -> None: ...


class ChannelsMiddleware(WithoutCall):
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class OwnAuthMiddleware(AuthMiddleware): ...


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("nobody may look at this")


HEADER = """\
import functools
from django.contrib.auth.decorators import login_required
from django.contrib.syndication.views import Feed
from django.http import HttpResponse
from django.urls import include, path, re_path
from django.views import View
from channels.generic.websocket import AsyncWebsocketConsumer
from django_ws import WebSocketHandler
from django_ws.codecs import *
"""


@dataclass
class Case:
    """A project: its settings, and what stands in its ws_urls.py below the imports."""

    name: str
    id: str = ""  # of the one message; "" where all is well
    says: tuple[str, ...] = ()  # words of message and hint
    settings: dict[str, Any] = field(default_factory=dict)
    routes: str = "urlpatterns = []"
    deploy: bool = False
    without: tuple[str, ...] = ()  # modules that are not installed


def setting(name: str, value: Any, id: str, *says: str, **more: Any) -> Case:  # noqa: A002
    return Case(f"{name} {id}", id, says, {name: value}, **more)


def middleware(name: str, id: str, *says: str, **settings: Any) -> Case:  # noqa: A002
    path = name if "." in name else f"{HERE}.{name}"
    return Case(name, id, says, {"WS_MIDDLEWARE": [path], **settings})


def target(expression: str, id: str, *says: str, before: str = "") -> Case:  # noqa: A002
    routes = f'{dedent(before)}\nurlpatterns = [path("ws/<room>/", {expression})]'
    return Case(f"{expression}-{before.strip()[:60]}", id, says, routes=routes)


def handler(body: str, id: str, *says: str) -> Case:  # noqa: A002
    lines = "\n".join(f"    {line}" for line in dedent(body).strip().splitlines())
    routes = f"class Chat(WebSocketHandler):\n{lines}\nurlpatterns = [path('ws/', Chat)]"
    return Case(body.strip(), id, says, routes=routes)


SETTINGS = [
    setting("WS_MAX_MESSAGE_SIZE", "1 MiB", "E001", "WS_MAX_MESSAGE_SIZE: '1 MiB' is not", "bytes"),
    setting("WS_SEND_BUFFER", 0, "E001", "WS_SEND_BUFFER", "bytes"),
    setting("WS_PING_INTERVAL", "59", "E001", "WS_PING_INTERVAL", "seconds"),
    setting("WS_CONNECT_TIMEOUT", -1, "E001", "WS_CONNECT_TIMEOUT", "seconds"),
    setting("WS_RATE_LIMIT", "20", "E001", "WS_RATE_LIMIT: '20' is not a rate", "'20/s'"),
    setting("WS_MAX_CONNECTIONS", 0, "E001", "WS_MAX_CONNECTIONS: 0 is not", "connections"),
    setting("WS_TRUSTED_PROXIES", ["a"], "E001", "WS_TRUSTED_PROXIES: 'a' is neither", "fd00::/8"),
    setting("WS_CLOSE_TIMEOUT", None, "E001", "WS_CLOSE_TIMEOUT", "seconds"),
    setting("WS_SYNC_THREADS", True, "E001", "WS_SYNC_THREADS", "threads"),
    setting("WS_MIDDLEWARE", "a.B", "E001", "WS_MIDDLEWARE", "List dotted paths"),
    setting("WS_ALLOWED_ORIGINS", ["example.com"], "E001", "WS_ALLOWED_ORIGINS", "https://"),
    setting("WS_ALLOWED_ORIGINS", "*", "E001", "List origins", deploy=True),
    setting("ROOT_WS_URLCONF", None, "E001", "ROOT_WS_URLCONF", "mysite.ws_urls"),
    Case(
        "no ROOT_URLCONF",
        "E001",
        ("neither it nor ROOT_URLCONF is set",),
        {"ROOT_WS_URLCONF": ABSENT, "ROOT_URLCONF": ABSENT},
    ),
    setting(
        "WS_MAX_CONNECTION", 5, "W001", "WS_MAX_CONNECTION:", "Rename it to WS_MAX_CONNECTIONS"
    ),
    setting("WS_ALLOWED_ORIGIN", [], "W001", "WS_ALLOWED_ORIGINS"),
    setting("ROOT_WS_URLCONFIG", "a", "W001", "Rename it to ROOT_WS_URLCONF."),
    setting("WS_BROADCAST", "localhost", "E001", "WS_BROADCAST", "redis://127.0.0.1:6379/0"),
    setting("WS_BROADCAST", {"default": {"BACKEND": "no.Such"}}, "E015", "no.Such", "docs/"),
    setting("WS_BROADCAST", ABSENT, "W010", "one process", "redis://", deploy=True),
    setting("WS_BROADCAST", ABSENT, ""),
    setting("WS_GREETING_OF_THIS_PROJECT", "hi", ""),
    setting("AWS_MIDDLEWARES", "hi", ""),
    setting("WS_SEND_BUFFER", Unshowable, "E001", "WS_SEND_BUFFER"),
]

MIDDLEWARE = [
    middleware("Middleware", ""),
    middleware("InheritingMiddleware", ""),
    middleware("factory", ""),
    middleware("builtins.max", ""),  # has no signature: the benefit of the doubt
    middleware("OwnAuthMiddleware", ""),
    middleware("nowhere.Auth", "E002", "WS_MIDDLEWARE[0]", "'nowhere.Auth'", "ModuleNotFoundError"),
    middleware("absent", "E002", "absent", "Check the dotted path"),
    middleware(
        "django.contrib.sessions.middleware.SessionMiddleware",
        "E003",
        "a middleware for HTTP requests",
        "Remove it from WS_MIDDLEWARE",
    ),
    middleware("http_factory", "E003", "a middleware for HTTP requests"),
    middleware("HERE", "E003", "neither a class nor a function", "async def __call__(self, ws)"),
    middleware("no_factory", "E003", "is a coroutine function"),
    middleware("factory_of_two", "E003", "does not take one argument"),
    middleware("WithoutCall", "E003", "has no __call__"),
    middleware("SyncMiddleware", "E003", "not async def"),
    middleware("ChannelsMiddleware", "E003", "one argument, ws"),
    middleware(
        "OwnAuthMiddleware",
        "E004",
        "needs django.contrib.auth and django.contrib.sessions in INSTALLED_APPS",
        INSTALLED_APPS=["django_ws"],
    ),
    middleware(
        "django_ws.middleware.AuthMiddleware",
        "",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django_ws"],
        SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    ),
    middleware(
        "django_ws.middleware.TokenAuthMiddleware",
        "E004",
        "TokenAuthMiddleware needs django.contrib.auth in INSTALLED_APPS",
        INSTALLED_APPS=["django_ws"],
    ),
    middleware(
        "django_ws.middleware.TokenAuthMiddleware",
        "E004",
        "WS_MIDDLEWARE[0]",
        "add 'rest_framework.authtoken' to INSTALLED_APPS",
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django_ws"],
    ),
    middleware("django_ws.middleware.TokenAuthMiddleware", ""),
    middleware(
        "django_ws.middleware.JWTAuthMiddleware",
        "E004",
        "is not a key for RS256",
        WS_JWT={"key": "x", "algorithms": ["RS256"]},
    ),
    Case("no middleware, no tickets", "E002", settings={"WS_MIDDLEWARE": ["no.Such"]}, deploy=True),
    *(
        Case(
            f"tickets in {cache}",
            found,
            ("CACHES['default']", "two processes") if found else (),
            {
                "WS_MIDDLEWARE": ["django_ws.middleware.TicketAuthMiddleware"],
                "CACHES": {"default": {"BACKEND": f"django.core.cache.backends.{cache}"}},
            },
            deploy=True,
        )
        for cache, found in [
            ("locmem.LocMemCache", "W011"),
            ("dummy.DummyCache", "W011"),
            ("db.DatabaseCache", ""),
        ]
    ),
]

VIEWS = """
    def page(request, room): ...
    class Page(View):
        async def get(self, request, room): ...
    class News(Feed): ...
    class Chat(WebSocketHandler):
        async def on_message(self, message): ...
    class Unprepared(Chat):
        def __init__(self): ...
"""

ROUTES = [
    target("Chat", "", before=VIEWS),
    target("WebSocketHandler", ""),
    target("app", "", before="async def app(scope, receive, send): ..."),
    target("lambda scope, receive, send: None", ""),
    target("functools.partial(app, 1)", "", before="async def app(n, scope, receive, send): ..."),
    target("Consumer.as_asgi()", "", before="class Consumer(AsyncWebsocketConsumer): ..."),
    target("app", "", before="from tests.asgi import application as app"),
    target("max", ""),  # has no signature: the benefit of the doubt
    target(
        "page", "E008", "the route 'ws/<room>/'", "page, a Django view", "urls.py", before=VIEWS
    ),
    target("login_required(page)", "E008", "a Django view", before=VIEWS),
    target("Page.as_view()", "E008", ".Page, a Django view", before=VIEWS),
    target("Page", "E008", ".Page, a Django view", before=VIEWS),
    target("News()", "E008", "a Django view", before=VIEWS),
    target(
        "HttpResponse", "E008", "the class django.http.response.HttpResponse", "Name a WebSocketH"
    ),
    target("AsyncWebsocketConsumer", "E008", "Write AsyncWebsocketConsumer.as_asgi()."),
    target("lambda scope: None", "E008", "does not take scope, receive and send"),
    target("lambda: None", "E008", "does not take scope, receive and send"),
    target("Chat.on_message", "E008", "does not take scope, receive and send", before=VIEWS),
    target("login_required(Chat)", "E009", "wraps the handler class Chat", "Name", before=VIEWS),
    target("functools.partial(Chat)", "E009", "wraps the handler class Chat", before=VIEWS),
    target("Unprepared().on_message", "E009", "instance of Unprepared", before=VIEWS),
    target("functools.partial(Unprepared().on_message)", "E009", "instance of Unpr", before=VIEWS),
    target(
        "app",
        "",
        before="""
            async def app(scope, receive, send): ...
            app.__wrapped__ = app
        """,
    ),
    target(
        "Chat()", "E006", "TypeError", "ws_urls_of_case.py, line", "without calling", before=VIEWS
    ),
    target("Unprepared()", "E006", "view must be a callable", "without calling", before=VIEWS),
    target("Chat.as_view()", "E006", "AttributeError", "without calling", before=VIEWS),
    Case("broken", "E006", ("No module named 'nowhere'",), routes="import nowhere.at_all"),
    Case("attribute", "E006", ("AttributeError", "Correct"), routes="functools.nothing"),
    Case("type", "E006", ("TypeError", "Correct"), routes="len(5)"),
    Case("syntax", "E006", ("SyntaxError", "ws_urls_of_case.py, line"), routes="urlpatterns = ["),
    Case("patterns", "E007", ("ws_urls_of_case has no list urlpatterns",), routes=""),
    Case(
        "patterns of an include",
        "E007",
        ("included at 'ws/'", "has no list urlpatterns"),
        routes="urlpatterns = [path('ws/', include('django_ws.close_codes'))]",
    ),
    Case(
        "in an include",
        "E008",
        ("the route 'ws/^chat/$'",),
        routes="urlpatterns = [path('ws/', include(([re_path('^chat/$', dict)], 'chat')))]",
    ),
    Case(
        "including itself",
        "E008",
        ("the route 'int/'",),
        routes="urlpatterns = [path('self/', include(__name__)), path('int/', int)]",
    ),
    Case("no pattern", "urls.E004", ("5",), routes="urlpatterns = [5]"),
    Case("slash", "urls.W002", ("/ws/",), routes="urlpatterns = [path('/ws/', WebSocketHandler)]"),
    Case("dollar", "urls.W001", ("$",), routes="urlpatterns = [re_path('ws/$', include([]))]"),
    setting("ROOT_WS_URLCONF", "nowhere.ws_urls", "E005", "'nowhere.ws_urls'", "startws"),
    Case(
        "no routes yet",
        "W002",
        ("no module 'nowhere.ws_urls'", "python manage.py startws APP"),
        {"ROOT_WS_URLCONF": ABSENT, "ROOT_URLCONF": "nowhere.urls"},
    ),
]

HANDLERS = [
    handler("async def on_connect(self): ...", ""),
    handler("def on_message(self, message, *, more=None): ...", ""),
    handler("def on_message(self, *args): ...", ""),
    handler("@staticmethod\nasync def on_message(message): ...", ""),
    handler("@classmethod\nasync def on_close(cls): ...", ""),
    handler("on_message = functools.partialmethod(print)", ""),
    handler("on_message = functools.partial(print)", ""),
    handler("on_task_error = print", ""),
    handler("on_open = max", ""),  # has no signature: the benefit of the doubt
    handler(
        """
        def with_user(function):
            @functools.wraps(function)
            async def hook(self, message):
                await function(self, message, self.request.user)
            return hook
        @with_user
        async def on_message(self, message, user): ...
        """,
        "",
    ),
    handler(
        "async def on_connect(self, request): ...",
        "E010",
        "ws_urls_of_case.Chat.on_connect",
        "self",
    ),
    handler(
        "def on_message(self): ...", "E010", "gets: self, message", "on_message(self, message)"
    ),
    handler("async def on_close(self, code): ...", "E010", "async def on_close(self)"),
    handler("async def on_error(): ...", "E010", "async def on_error(self, error)"),
    handler("@staticmethod\ndef on_bytes(self, data): ...", "E010", "gets: data."),
    handler("@staticmethod\ndef on_open(self): ...", "E010", "gets: nothing."),
    handler(
        "on_open = None", "E011", "Chat.on_open is None, not a method", "async def on_open(self)"
    ),
    handler("@property\ndef on_message(self): ...", "E011", "not a method"),
    handler("def on_open(self): yield", "E011", "contains a yield", "await self.send"),
    handler("async def on_open(self): yield", "E011", "contains a yield"),
    handler(
        "async def may_subscribe(self, topic): ...",
        "E011",
        "is async def",
        "Write def may_subscribe",
    ),
    handler("async def unit_of_work(self): ...", "E011", "is async def"),
    handler("def unit_of_work(self): ...", ""),
    handler("accept_headers = [('X-Version', '2')]", ""),
    handler("accept_headers = ['X-Version: 2']", "E012", "'X-Version: 2' is not a pair of str"),
    handler(
        "async def on_mesage(self, message): ...",
        "W003",
        "Chat.on_mesage",
        "Rename it to on_message",
    ),
    handler("async def on_disconnect(self): ...", "W003", "Rename it to on_close"),
    handler("async def on_broadcast(self, topic, message): ...", ""),
    handler("async def on_payment_of_an_order(self): ...", ""),
    handler("def __init__(self): ...", "E013", "Chat.__init__", "super().__init__"),
    handler("def __init__(self, *args, **kwargs): ...", ""),
    handler("codec = TextCodec()", ""),
    handler("codec = TextCodec", "E012", "Chat.codec: TextCodec is a class", "JSONCodec()"),
    handler("codec = 'json'", "E012", "no method decode", "codec = JSONCodec()"),
    handler("codec = None", "E012", "no method encode and no decode"),
    handler("@property\ndef codec(self): ...", ""),
    handler("codec = print", "E012", "no method encode and no decode"),
    handler("subprotocols = ['chat.v1', 'graphql-ws']", ""),
    handler("subprotocols = 'chat.v1'", "E012", "Chat.subprotocols: 'chat.v1' is not a list"),
    handler("subprotocols = {'chat.v1'}", "E012", "is not a list"),
    handler("subprotocols = ['chat v1']", "E012", "'chat v1' is not a name"),
    handler("subprotocols = ['']", "E012", "'' is not a name"),
    handler("subprotocols = [5]", "E012", "5 is not a name"),
    handler("rate_limit = '20/s'", ""),
    handler("rate_limit = False", ""),
    handler("rate_limit = None", ""),
    handler("rate_limit = property(lambda self: '20/s')", ""),
    handler("rate_limit = '20'", "E012", "Chat.rate_limit: '20' is not a rate", "20/s"),
    handler("rate_limit = 20", "E012", "Chat.rate_limit: 20 is not a rate"),
    handler("idle_timeout = 0.5", ""),
    handler("idle_timeout = 0", "E012", "Chat.idle_timeout: 0 is not", "seconds"),
    handler("idle_timeout = '60'", "E012", "Chat.idle_timeout: '60' is not"),
    handler("def on_rate_limited(self): ...", ""),
    handler("def on_rate_limited(self, message): ...", "E010", "on_rate_limited"),
    handler("def on_rate_limit(self): ...", "W003", "on_rate_limited is meant"),
    handler("max_message_size = 5", ""),
    handler("max_message_size = 0", "E012", "Chat.max_message_size: 0", "bytes"),
    handler("max_message_size = True", "E012", "Chat.max_message_size: True"),
    handler("max_message_size = '1 MB'", "E012", "Chat.max_message_size: '1 MB'"),
    handler("send_overflow = 'drop_newest'", ""),
    handler(
        "send_overflow = 'drop'", "E012", "'drop' is none of 'close', 'drop_oldest', 'drop_newest'"
    ),
    handler("reject_with = 'close'", ""),
    handler("reject_with = 403", "E012", "Chat.reject_with: 403 is none of 'http', 'close'"),
]

NAMES = [
    # Overridden
    *(
        handler(f"def {name}(self, *args): ...", "W020", f"Chat.{name} overrides", "another name")
        for name in ("send", "close", "id", "tasks", "subscriptions", "start_task")
    ),
    handler("kwargs = {}", "W020", "Chat.kwargs overrides", "another name"),
    handler("closed = False", "W020", "Chat.closed overrides"),
    handler("subprotocol = 'chat'", "W020", "subprotocols is meant?", "Rename it to subprotocols"),
    handler("_connection = None", "E020", "Chat._connection overrides", "another name"),
    handler("def _run(self): ...", "E020", "Chat._run overrides"),
    handler("def run(self): ...\ndef hooks(self): ...\n_user = None", ""),
    handler("request: dict", ""),
    handler("topics = ['a']\nusing = 'default'\nPROCESS_CANCEL_ERRORS = True", ""),
    handler("concurrent_broadcasts = True\nfirst_message_seconds = 5", ""),
    # Assigned
    handler(
        "async def on_connect(self):\n    self.tasks = {}",
        "E020",
        "Chat.on_connect sets self.tasks (line 12)",
        "raises AttributeError",
        "another name",
    ),
    handler("def on_open(this): this.id = 5", "E020", "sets self.id (line 11)"),
    handler("def on_open(self): self._life = None", "E020", "self._life", "the library needs"),
    handler("def on_open(self): self.send = print", "W020", "sets self.send", "every handler has"),
    handler("def on_open(self): self.kwargs = {}", "W020", "sets self.kwargs"),
    handler("def on_open(self):\n    self.id, self.x = 1, 2", "E020", "self.id"),
    handler("def on_open(self):\n    for self.id in []: pass", "E020", "self.id"),
    handler("def on_open(self):\n    del self.id", "E020", "self.id"),
    handler("def on_open(self):\n    self.id = 1\n    self.id = 2", "E020", "(line 12)"),
    handler(
        "def on_open(self):\n    def inner():\n        self.id += 1\n    inner()",
        "E020",
        "(line 13)",
    ),
    handler("@property\ndef mine(self):\n    self.id = 5", "E020", "Chat.mine sets"),
    handler("@functools.cached_property\ndef mine(self):\n    self.id = 5", "E020", "Chat.mine"),
    handler("@classmethod\ndef mine(cls):\n    cls.id = 5", "E020", "Chat.mine"),
    handler("mine = functools.partialmethod(lambda self: None)", ""),
    handler(
        """
        def noting(function):
            @functools.wraps(function)
            async def hook(self):
                await function(self)
            return hook
        @noting
        async def on_open(self):
            self.id = 5
        """,
        "E020",
        "Chat.on_open sets self.id (line 18)",
    ),
    handler(
        '''
        async def on_open(self):
            """Its text
begins at the left."""
            self.id = 5
        ''',
        "E020",
        "self.id",
    ),
    handler("async def on_open(self):\n    self.id: int", ""),
    handler("tasks = None\ndef on_open(self): self.tasks = {}", "W020", "Chat.tasks overrides"),
    handler("async def on_open(self):\n    other = self\n    other.id = 5", ""),
    handler("async def on_open(self):\n    self.request.user = None", ""),
    handler("async def on_open(self):\n    self.codec = TextCodec()\n    self.topics = []", ""),
    handler("def wrong(): x.id = 5", ""),
    # Nothing can be seen without a source.
    handler("exec('def on_open(self): self.id = 5')", ""),
    handler("x = (lambda self:\n    5)", ""),
    handler("def on_open(self): self.id = 5\non_open.__wrapped__ = on_open", ""),
    handler("def on_open(self): ...\non_open.__wrapped__ = print", ""),
    handler("on_open = eval('lambda self: setattr(self, 1)')", ""),
    Case(
        "a class that several inherit from is told of once",
        "W020",
        ("ws_urls_of_case.Base.send",),
        routes="class Base(WebSocketHandler):\n    def send(self): ...\n"
        "class A(Base): ...\nclass B(Base): ...\n"
        "urlpatterns = [path('a/', A), path('b/', B)]",
    ),
    Case(
        "behind WebSocketHandler it is not used",
        routes="class Other:\n    def send(self): ...\n"
        "class Chat(WebSocketHandler, Other): ...\nurlpatterns = [path('a/', Chat)]",
    ),
    # authorize() in the place of another one
    *(
        Case(
            f"authorize that {name}",
            found,
            ("Chat.authorize takes the place of LoginRequiredMixin.authorize", "super()")
            if found
            else (),
            routes="from django_ws.auth import LoginRequiredMixin\n"
            "class Chat(LoginRequiredMixin, WebSocketHandler):\n"
            f"    async def authorize(self): {body}\n"
            "urlpatterns = [path('a/', Chat)]",
        )
        for name, body, found in [
            ("forgets the one below", "return True", "W025"),
            ("asks the one below", "return await super().authorize()", ""),
        ]
    ),
    handler("async def authorize(self): return True", ""),
]

CONSUMERS = [
    handler("async def connect(self): ...", "E021", "Chat is a WebSocketHandler", "on_connect"),
    handler("def connect(self, *, group=None): ...", "E021", "(connect)", "on_connect"),
    handler("@staticmethod\ndef connect(): ...", "E021", "(connect)"),
    handler("async def receive(self, text_data=None, bytes_data=None): ...", "E021", "on_message"),
    handler("async def receive(self, **kwargs): ...", "E021", "on_message(self, message)"),
    handler("async def receive_json(self, content, **kwargs): ...", "E021", "on_message"),
    handler("async def disconnect(self, code): ...", "E021", "on_close(self)", "self.close_code"),
    handler("async def websocket_connect(self, message): ...", "E021", "on_connect(self)"),
    handler("async def websocket_receive(self, message): ...", "E021", "on_message"),
    handler("async def websocket_disconnect(self, message): ...", "E021", "on_close"),
    handler("groups = ['news']", "E021", "(groups)", "topics = [...]"),
    handler(
        "groups = ['news']\nasync def connect(self): ...\nasync def disconnect(self, code): ...",
        "E021",
        "(connect, disconnect, groups)",
        "connect: on_connect",
        "disconnect: on_close",
        "groups: topics",
    ),
    # Methods of one's own with another form
    handler("async def connect(self, host): ...", ""),
    handler("async def receive(self): ...", ""),
    handler("receive = max", ""),  # has no signature: the benefit of the doubt
    handler("async def disconnect(self): ...", ""),
    handler("connect = None\ngroups = property(list)", ""),
    Case(
        "in a class of Channels",
        "E021",
        ("connect, receive, disconnect",),
        routes="class Chat(WebSocketHandler, AsyncWebsocketConsumer): ...\n"
        "urlpatterns = [path('ws/', Chat)]",
    ),
    handler(
        "async def chat_message(self, event): ...", "W021", "Chat.chat_message", "on_broadcast"
    ),
    handler("def chat_message(self, event): ...", "W021", "Chat.chat_message"),
    handler("async def chat_message(self, event, more): ...", ""),
    handler("async def chat_message(self, message): ...", ""),
    handler("async def on_bytes(self, event): ...", ""),
    handler("handle = functools.partial(print)", ""),
    handler(
        "async def handle(self, event): ...\nasync def on_message(self, m): await self.handle(m)",
        "",
    ),
    handler("def encode_json(cls, content): ...", "W021", "Chat.encode_json", "encode(message)"),
    handler("def decode_json(cls, text): ...", "W021", "Chat.decode_json", "decode(data)"),
]

APPLICATIONS = [
    setting("ASGI_APPLICATION", ABSENT, "W004", "not set", "'tests.asgi.application'"),
    Case(
        "ASGI_APPLICATION beside a urls.py without package",
        "W004",
        ("= 'asgi.application'",),
        {"ASGI_APPLICATION": None, "ROOT_URLCONF": "urls"},
    ),
    setting("ASGI_APPLICATION", f"{HERE}.absent", "W005", "absent", "get_websocket_application()"),
    setting("ASGI_APPLICATION", 5, "W005", "cannot import 5"),
    setting("ASGI_APPLICATION", f"{HERE}.django_application", "W006", "ASGIHandler", "asgi.py"),
    setting("ASGI_APPLICATION", f"{HERE}.static_files_of_django", "W006", "ASGIStaticFilesHandler"),
    setting("ASGI_APPLICATION", f"{HERE}.static_files_of_ours", ""),
    setting("ASGI_APPLICATION", f"{HERE}.channels_without_ours", "W006", "ProtocolTypeRouter"),
    setting("ASGI_APPLICATION", f"{HERE}.channels_for_http", "W006", "ProtocolTypeRouter"),
    setting("ASGI_APPLICATION", f"{HERE}.channels_around_ours", ""),
    setting("ASGI_APPLICATION", f"{HERE}.wrapped_application", ""),
    setting("ASGI_APPLICATION", f"{HERE}.channels_middleware_around_ours", ""),
    setting("ASGI_APPLICATION", f"{HERE}.channels_routes_to_ours", ""),
    setting("ASGI_APPLICATION", f"{HERE}.own_wrappers_around_ours", ""),
    setting("ASGI_APPLICATION", f"{HERE}.in_a_table", ""),
    setting("ASGI_APPLICATION", f"{HERE}.only_consumers", "W006", "ProtocolTypeRouter"),
    setting("ASGI_APPLICATION", f"{HERE}.handlers_in_their_routes", "W006", "ProtocolTypeRouter"),
    setting("ASGI_APPLICATION", f"{HERE}.unknown_within_channels", ""),
    setting("ASGI_APPLICATION", f"{HERE}.cyclic_within_channels", ""),
    setting("ASGI_APPLICATION", f"{HERE}.very_deep", ""),
]

SERVERS = [
    Case("websockets", without=("wsproto",)),
    Case("wsproto", without=("websockets",)),
    Case(
        "neither", "W007", ('pip install "django-ws[server]"',), without=("websockets", "wsproto")
    ),
    Case("daphne", without=("websockets", "wsproto", "uvicorn")),
    Case("no server", "W007", without=("websockets", "wsproto", "uvicorn", "daphne", "granian")),
    *(
        Case(
            f"runserver of {', '.join(apps)}",
            found,
            ('"django_ws" stands below "django.contrib.staticfiles"', "Move", "to the top"),
            {"INSTALLED_APPS": [*apps, "django.contrib.auth", "django.contrib.contenttypes"]},
        )
        for apps, found in [
            (["django.contrib.staticfiles", "django_ws"], "W012"),
            (["django_ws", "django.contrib.staticfiles"], ""),
            (["daphne", "django.contrib.staticfiles", "django_ws"], ""),
            (["django_ws"], ""),
            ([], ""),
        ]
    ),
]

ORIGINS = [
    setting("WS_ALLOWED_ORIGINS", ["*"], ""),
    setting("WS_ALLOWED_ORIGINS", ["*"], "W008", "any page on the web", "List", deploy=True),
    setting("WS_ALLOWED_ORIGINS", ["http://a.b"], "W009", "'http://a.b'", "https", deploy=True),
    setting("WS_ALLOWED_ORIGINS", ["https://a.b"], "", deploy=True),
    setting("WS_ALLOWED_ORIGINS", None, "", deploy=True),
    setting("WS_ALLOWED_ORIGINS", ["https://*.a.b", "capacitor://localhost"], "", deploy=True),
    setting("WS_ALLOWED_ORIGINS", ["null", "ionic://"], ""),
    setting("WS_ALLOWED_ORIGINS", ["null"], "W022", "'null' may open sockets", deploy=True),
    setting("WS_ALLOWED_ORIGINS", ["file://"], "W022", "token or ticket", "log-in", deploy=True),
    setting("CSRF_TRUSTED_ORIGINS", ["file://"], "W022", "'file://' may", "Remove", deploy=True),
    *(
        setting("WS_ALLOWED_ORIGINS", [listed], "E022", f"contains {listed!r}", *says)
        for listed, *says in [
            ("wss://a.b", "not of the socket", "write 'https://a.b'"),
            ("ws://a.b:8000", "write 'http://a.b:8000'"),
            ("https://müller.de:8443", "write 'https://xn--mller-kva.de:8443'"),
            ("https://m\u00fcller..de", "in its ASCII form."),
            ("https://*", "a * stands at the beginning, with a dot"),
            ("https://*.", "'https://*.example.com'"),
            ("https://*example.com", "with a dot behind it"),
            ("https://app.*.com", "with a dot behind it"),
            ("https://user@a.b", "it is no origin: write scheme, host"),
            ("https://a.b:port", "it is no origin"),
            (" https://a.b", "it is no origin"),
        ]
    ),
    *(
        setting("CSRF_TRUSTED_ORIGINS", [listed], "W023", f"contains {listed!r}", *says)
        for listed, *says in [
            ("https://a.b/", "no slash at its end: write 'https://a.b'"),
            ("https://a.b/page", "write 'https://a.b'"),
            ("wss://a.b", "write 'https://a.b'"),
        ]
    ),
    setting("CSRF_TRUSTED_ORIGINS", ["a.b"], ""),  # Django tells
    setting("CSRF_TRUSTED_ORIGINS", None, ""),
    setting("SECURE_PROXY_SSL_HEADER", ("HTTP_X_FORWARDED_PROTO", "https"), ""),
    *(
        setting("SECURE_PROXY_SSL_HEADER", value, "E023", "500", "HTTP_X_FORWARDED_PROTO")
        for value in ("HTTP_X_FORWARDED_PROTO", ("A", "b", "c"), ("A", 5), 5)
    ),
]

LIMITS = [
    *(
        Case(
            f"per address, trusted {trusted}",
            found,
            ("behind a proxy all anonymous", '"unix"') if found else (),
            {"WS_MAX_CONNECTIONS_PER_ADDRESS": limit, "WS_TRUSTED_PROXIES": trusted},
            deploy=True,
        )
        for limit, trusted, found in [
            (5, [], "W024"),
            (5, ["10.0.0.1"], ""),
            (5, ["unix"], ""),
            (None, [], ""),
        ]
    ),
    setting("WS_MAX_CONNECTIONS_PER_ADDRESS", 5, ""),
    setting("WS_MAX_CONNECTIONS_PER_ADDRESS", 0, "E001", "connections", deploy=True),
]

UNFORESEEN = [
    Case(
        "raises in repr()",
        "E014",
        ("check_settings", "nobody may look at this", "test_checks.py, line"),
        {"WS_SEND_BUFFER": Unshowable()},
    ),
]

CASES = [
    *SETTINGS,
    *MIDDLEWARE,
    *ROUTES,
    *HANDLERS,
    *NAMES,
    *CONSUMERS,
    *APPLICATIONS,
    *SERVERS,
    *ORIGINS,
    *LIMITS,
    *UNFORESEEN,
]


@pytest.fixture
def check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> Iterator[Callable[[Case], list[CheckMessage]]]:
    """Make the project of a case and run the checks of this library over it."""
    module = "ws_urls_of_case"

    def run(case: Case) -> list[CheckMessage]:
        (tmp_path / f"{module}.py").write_text(f"{HEADER}{case.routes}\n")
        monkeypatch.syspath_prepend(tmp_path)
        needed = {"ROOT_WS_URLCONF": module, "WS_BROADCAST": "redis://127.0.0.1"}
        for name, value in {**needed, **case.settings}.items():
            if value is ABSENT:
                delattr(settings, name)
            else:
                setattr(settings, name, value)
        for name in case.without:
            monkeypatch.setitem(sys.modules, name, None)
        return run_checks(tags=["django_ws"], include_deployment_checks=case.deploy)

    yield run
    sys.modules.pop(module, None)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_a_mistake_gives_one_message_with_id_place_and_cure(
    case: Case, check: Callable[[Case], list[CheckMessage]]
) -> None:
    messages = check(case)

    ids = [message.id for message in messages]
    assert ids == ([case.id if "." in case.id else f"django_ws.{case.id}"] if case.id else [])
    for message in messages:
        text = f"{message.msg} {message.hint}"
        assert [words for words in case.says if words not in text] == []
        assert message.hint or str(message.id).startswith("urls.")


@pytest.mark.parametrize(
    ("application", "found"),
    [
        (site, True),
        (wrapped_application, True),
        (channels_middleware_around_ours, True),
        (channels_routes_to_ours, True),
        (own_wrappers_around_ours, True),
        (in_a_table, True),
        (static_files_of_ours, True),
        (django_application, False),
        (only_consumers, False),
        (handlers_in_their_routes, False),
        (channels_for_http, False),
        (unknown_within_channels, None),
        (cyclic_within_channels, None),
        (very_deep, None),
        (None, None),
    ],
    ids=range(15),
)
def test_the_application_is_found_inside_of_others(application: Any, found: bool | None) -> None:
    assert serves_ours(application) is found


def test_all_mistakes_are_reported_and_not_only_the_first(
    check: Callable[[Case], list[CheckMessage]],
) -> None:
    case = Case(
        "many",
        settings={
            "WS_SEND_BUFFER": 0,
            "WS_PING_INTERVAL": 0,
            "WS_MIDDLEWARE": ["a.B", f"{HERE}.Middleware", "c.D"],
        },
        routes=dedent(
            """
            class Chat(WebSocketHandler):
                codec = None
                reject_with = None
                async def on_connect(self, request): ...
                async def on_close(self, code): ...
            urlpatterns = [path("a/", Chat), path("b/", Chat), path("c/", dict), path("d/", int)]
            """
        ),
    )
    assert sorted(str(message.id).removeprefix("django_ws.") for message in check(case)) == [
        *("E001", "E001", "E002", "E002"),
        *("E008", "E008", "E010", "E010", "E012", "E012"),
    ]


@pytest.mark.parametrize(
    ("asgi", "expected", "words"),
    [
        (None, ["W004"], []),
        ("import nowhere", ["W004", "W005"], ["cannot import 'unnamed.asgi.application'"]),
        (
            "application = type.as_asgi()",
            ["W004", "W005"],
            ["AttributeError: type object 'type' has no attribute 'as_asgi'", "asgi.py", "line 1"],
        ),
        (
            (
                "from django.core.asgi import get_asgi_application\n"
                "application = get_asgi_application()"
            ),
            ["W004", "W006"],
            ["unnamed.asgi.application is a django.core.handlers.asgi.ASGIHandler"],
        ),
        ("from tests.asgi import application", ["W004"], []),
    ],
    ids=["missing", "broken", "broken inside", "of Django", "ours"],
)
def test_asgi_py_is_looked_at_where_no_setting_names_it(
    asgi: str | None,
    expected: list[str],
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    check: Callable[[Case], list[CheckMessage]],
) -> None:
    package = tmp_path / "unnamed"
    package.mkdir()
    (package / "__init__.py").touch()
    if asgi is not None:
        (package / "asgi.py").write_text(asgi)
    for name in ("unnamed", "unnamed.asgi"):  # so that they are forgotten afterwards
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        del sys.modules[name]
    messages = check(
        Case("unnamed", settings={"ASGI_APPLICATION": ABSENT, "ROOT_URLCONF": "unnamed.urls"})
    )
    assert [message.id for message in messages] == [f"django_ws.{id}" for id in expected]  # noqa: A001
    text = " ".join(message.msg for message in messages)
    assert [word for word in words if word not in text] == []


def test_manage_py_check_fails_on_an_error_and_shows_place_and_cure(settings: Any) -> None:
    settings.WS_SEND_BUFFER = "1 MiB"
    with pytest.raises(SystemCheckError) as raised:
        call_command("check", stdout=StringIO(), stderr=StringIO())
    assert "(django_ws.E001) WS_SEND_BUFFER: '1 MiB'" in str(raised.value)
    assert "HINT: Give bytes, for example 1024 * 1024." in str(raised.value)


def test_manage_py_check_is_silent_where_all_is_well() -> None:
    output, errors = StringIO(), StringIO()
    call_command("check", "--tag", "django_ws", stdout=output, stderr=errors)
    assert (output.getvalue(), errors.getvalue()) == (
        "System check identified no issues (0 silenced).\n",
        "",
    )


def test_check_deploy_warns_about_origins_under_the_tag_security(settings: Any) -> None:
    settings.WS_ALLOWED_ORIGINS = ["*"]
    errors = StringIO()
    call_command("check", "--deploy", "--tag", "security", stdout=StringIO(), stderr=errors)
    assert "(django_ws.W008)" in errors.getvalue()


def test_the_page_of_the_docs_lists_every_id() -> None:
    docs = (ROOT / "docs" / "checks.md").read_text()
    own = {case.id for case in CASES if case.id and "." not in case.id}
    assert {name for name in own if f"| `django_ws.{name}` |" not in docs} == set()
    assert docs.count("| `django_ws.") == len(own)
