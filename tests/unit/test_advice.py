"""Advice works: what the hints of the checks and the texts of errors say is done, and is enough."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from django.core.checks import CheckMessage
from django.urls import clear_url_caches

from django_ws import conf, get_websocket_application
from django_ws.checks.attributes import ATTRIBUTES
from django_ws.checks.handlers import PLAIN
from django_ws.codecs import JSONCodec
from django_ws.lifecycle.hooks import HOOKS
from tests import ROOT
from tests.unit.checks.test_checks import ABSENT, HEADER, Case, check  # noqa: F401  (check is a fixture)

Check = Callable[[Case], list[CheckMessage]]
MINE = "tests.unit.checks.test_checks"


# Settings: the example in each cure can be used

EXAMPLES: dict[str, list[Any]] = {
    "ROOT_WS_URLCONF": ["mysite.ws_urls"],
    "WS_MIDDLEWARE": [["a.dotted.Path", "another.dotted.Path"]],
    "WS_ALLOWED_ORIGINS": [["https://example.com"]],
    "WS_MAX_MESSAGE_SIZE": [1024 * 1024],
    "WS_SEND_BUFFER": [1024 * 1024],
    "WS_SEND_TIMEOUT": [10],
    "WS_PING_INTERVAL": [59],
    "WS_CONNECT_TIMEOUT": [10],
    "WS_MAX_HANDSHAKES": [200],
    "WS_CLOSE_TIMEOUT": [10],
    "WS_DRAIN_SECONDS": [10, 0],
    "WS_BROADCAST": [
        "redis://127.0.0.1:6379/0",
        {"default": {"BACKEND": "a.B", "LOCATION": "x", "PREFIX": "y", "OPTIONS": {}}},
    ],
    "WS_MAX_TOPICS": [100],
    "WS_AUTH_RECHECK": [60],
    "WS_RATE_LIMIT": ["20/s", "600/m", "10000/h", None],
    "WS_MAX_CONNECTIONS": [1000, None],
    "WS_MAX_CONNECTIONS_PER_USER": [1000, None],
    "WS_MAX_CONNECTIONS_PER_ADDRESS": [1000, None],
    "WS_TRUSTED_PROXIES": [["10.0.0.5", "10.1.0.0/16", "fd00::/8"], ["unix"]],
    "WS_TOKEN_IN_URL": [True],
    "WS_JWT": [
        {
            "key": "PUBLIC_KEY",
            "algorithms": ["ES256"],
            "audience": "mysite",
            "issuer": "https://login.example.com",
            "user_claim": "sub",
            "user_field": "pk",
            "leeway": 5,
        }
    ],
    "WS_SYNC_THREADS": [8],
}


def words(value: Any) -> Iterator[str]:
    """What of an example must stand in the cure: all that is no name invented here."""
    match value:
        case dict():
            for key, item in value.items():
                yield key
                yield from words(item) if key in ("algorithms", "audience", "issuer") else ()
        case list():
            for item in value:
                yield from words(item)
        case int() if value % 1024 == 0 and value:
            yield "1024 * 1024"
        case _:
            yield str(value)


def test_every_setting_has_an_example() -> None:
    assert set(EXAMPLES) == set(conf.SETTINGS)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_in_the_cure_of_a_setting_can_be_used(name: str) -> None:
    cure = conf.SETTINGS[name].cure
    for example in EXAMPLES[name]:
        conf.SETTINGS[name].parse(example)
        if name != "WS_MIDDLEWARE":  # whose cure has none
            assert [word for word in words(example) if word not in cure] == []


# Hooks: the line that the hint shows can be written


def handler(body: str) -> str:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    return f"class Chat(WebSocketHandler):\n{lines}\nurlpatterns = [path('ws/', Chat)]"


def hint(messages: list[CheckMessage]) -> str:
    [message] = messages
    return str(message.hint)


WRONG = ["async def {}(self, a, b, c, d): ...", "{} = None", "async def {}(self): yield"]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", HOOKS)
def test_the_first_line_that_the_hint_shows_can_be_written(
    name: str,
    wrong: str,
    check: Check,  # noqa: F811
) -> None:
    body = wrong.format(name)
    if name in PLAIN:
        body = body.replace("async ", "")
    said = hint(check(Case("wrong", routes=handler(body))))
    if "yield" in wrong:
        arguments = ", ".join(("self", *HOOKS[name]))
        if "contextmanager" in said:
            line = f"import contextlib\n@contextlib.contextmanager\ndef {name}({arguments}): yield"
        else:
            assert said.endswith("instead of yield.")
            line = f"{'def' if name in PLAIN else 'async def'} {name}({arguments}): return None"
        lines = [line]
    else:
        [line] = re.findall(r"^Write ((?:async )?def \w+\([^)]*\))", said)
        lines = [f"{line}: ..."]
        if said.endswith(", or def."):
            lines.append(f"{line.removeprefix('async ')}: ...")
    for line in lines:
        write_again(handler(line))
        assert check(Case("right", routes=handler(line), settings={"ROOT_WS_URLCONF": NEW})) == []


NEW = "ws_urls_of_followed_advice"


def write_again(text: str) -> None:
    """The module of a case is imported once: what follows stands in another."""
    module = ModuleType(NEW)
    exec(f"{HEADER}{text}", module.__dict__)
    sys.modules[NEW] = module
    clear_url_caches()


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    yield
    sys.modules.pop(NEW, None)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_the_example_in_the_cure_of_an_attribute_can_be_used(name: str) -> None:
    fault_of, cure = ATTRIBUTES[name]
    examples: dict[str, list[Any]] = {
        "codec": [JSONCodec()],
        "subprotocols": [["chat.v1"]],
        "accept_headers": [[("X-Version", "2")]],
        "max_message_size": [64 * 1024, None],
        "rate_limit": ["20/s", "600/m", "10000/h", None, False],
        "idle_timeout": [300, None],
        "send_overflow": ["close", "drop_oldest", "drop_newest"],
        "reject_with": ["http", "close"],
    }
    for example in examples[name]:
        assert fault_of(example) == ""
        shown = {"codec": "JSONCodec()", "max_message_size": "64 * 1024"}.get(name)
        if isinstance(example, str):
            assert example in cure
        assert shown is None or shown in cure


# Checks: each mistake, and the same project after its hint was followed

CHAT = "class Chat(WebSocketHandler): ...\n"
TO_CHAT = f"{CHAT}urlpatterns = [path('ws/', Chat)]"
ROUTED = "urlpatterns = [path('ws/<room>/', {})]"
TICKETS = {"WS_MIDDLEWARE": ["django_ws.middleware.TicketAuthMiddleware"]}
LOCMEM = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
DATABASE = {"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "c"}}
APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
MIXED = (
    "from django_ws.auth import LoginRequiredMixin\n"
    "class Chat(LoginRequiredMixin, WebSocketHandler):\n"
)

# id: what the hint says, the wrong project, the right one
FOLLOWED: list[tuple[str, str, Case, Case]] = [
    (
        "E001",
        "List dotted paths",
        Case("", settings={"WS_MIDDLEWARE": f"{MINE}.Middleware"}),
        Case("", settings={"WS_MIDDLEWARE": [f"{MINE}.Middleware"]}),
    ),
    (
        "E002",
        "Check the dotted path",
        Case("", settings={"WS_MIDDLEWARE": ["tests.test_check.Middleware"]}),
        Case("", settings={"WS_MIDDLEWARE": [f"{MINE}.Middleware"]}),
    ),
    (
        "E003",
        "Remove it from WS_MIDDLEWARE",
        Case(
            "",
            settings={"WS_MIDDLEWARE": ["django.contrib.sessions.middleware.SessionMiddleware"]},
        ),
        Case("", settings={"WS_MIDDLEWARE": []}),
    ),
    (
        "E003",
        "__init__(self, func) and async def __call__(self, ws)",
        Case("", settings={"WS_MIDDLEWARE": [f"{MINE}.SyncMiddleware"]}),
        Case("", settings={"WS_MIDDLEWARE": [f"{MINE}.Middleware"]}),
    ),
    (
        "E004",
        "Add django.contrib.auth and django.contrib.sessions to INSTALLED_APPS",
        Case(
            "",
            settings={
                "WS_MIDDLEWARE": ["django_ws.middleware.AuthMiddleware"],
                "INSTALLED_APPS": ["django_ws", "django.contrib.contenttypes"],
            },
        ),
        Case(
            "",
            settings={
                "WS_MIDDLEWARE": ["django_ws.middleware.AuthMiddleware"],
                "INSTALLED_APPS": ["django_ws", *APPS, "django.contrib.sessions"],
            },
        ),
    ),
    (
        "E005",
        'urlpatterns = [path("ws/chat/", ChatHandler, name="chat")]',
        Case("", settings={"ROOT_WS_URLCONF": "nowhere.ws_urls"}),
        Case("", routes=f"{CHAT}urlpatterns = [path('ws/chat/', Chat, name='chat')]"),
    ),
    (
        "W002",
        'urlpatterns = [path("ws/chat/", ChatHandler, name="chat")]',
        Case("", settings={"ROOT_WS_URLCONF": ABSENT, "ROOT_URLCONF": "nowhere.urls"}),
        Case("", routes=f"{CHAT}urlpatterns = [path('ws/chat/', Chat, name='chat')]"),
    ),
    (
        "E006",
        "Name the handler class itself, without calling it",
        Case("", routes=f"{CHAT}urlpatterns = [path('ws/', Chat.as_view())]"),
        Case("", routes=TO_CHAT),
    ),
    ("E007", "Write urlpatterns = [path(...), ...]", Case("", routes=""), Case("", routes=TO_CHAT)),
    (
        "E008",
        "Write AsyncWebsocketConsumer.as_asgi().",
        Case("", routes=ROUTED.format("AsyncWebsocketConsumer")),
        Case("", routes=ROUTED.format("AsyncWebsocketConsumer.as_asgi()")),
    ),
    (
        "E008",
        "a coroutine function app(scope, receive, send)",
        Case("", routes="async def app(scope): ...\n" + ROUTED.format("app")),
        Case("", routes="async def app(scope, receive, send): ...\n" + ROUTED.format("app")),
    ),
    (
        "E009",
        "Name the handler class itself",
        Case("", routes=CHAT + ROUTED.format("login_required(Chat)")),
        Case("", routes=CHAT + ROUTED.format("Chat")),
    ),
    (
        "E010",
        "Write async def on_close(self), or def.",
        Case("", routes=handler("async def on_close(self, code): ...")),
        Case("", routes=handler("async def on_close(self): ...")),
    ),
    (
        "E011",
        "Send with await self.send(message) instead of yield",
        Case("", routes=handler("async def on_open(self): yield 1")),
        Case("", routes=handler("async def on_open(self): await self.send(1)")),
    ),
    (
        "E012",
        "codec = JSONCodec()",
        Case("", routes=handler("codec = JSONCodec")),
        Case("", routes=handler("codec = JSONCodec()")),
    ),
    (
        "E013",
        "__init__(self, *args, **kwargs) and call super().__init__(*args, **kwargs)",
        Case("", routes=handler("def __init__(self): ...")),
        Case(
            "",
            routes=handler(
                "def __init__(self, *args, **kwargs): super().__init__(*args, **kwargs)"
            ),
        ),
    ),
    (
        "E014",
        "Correct the object that raises this",
        Case("", settings={"WS_SEND_BUFFER": type("U", (), {"__repr__": lambda self: 1 / 0})()}),
        Case("", settings={"WS_SEND_BUFFER": 1024}),
    ),
    (
        "E015",
        "docs/broadcasts.md lists the backends",
        Case("", settings={"WS_BROADCAST": {"default": {"BACKEND": "no.Such"}}}),
        Case(
            "",
            settings={
                "WS_BROADCAST": {
                    "default": {
                        "BACKEND": "django_ws.pubsub.backends.redis.RedisBackend",
                        "LOCATION": "redis://127.0.0.1:6379/0",
                    }
                }
            },
        ),
    ),
    (
        "E020",
        "Give it another name.",
        Case("", routes=handler("async def on_connect(self):\n    self.tasks = {}")),
        Case("", routes=handler("async def on_connect(self):\n    self.todo = {}")),
    ),
    (
        "E021",
        "connect: on_connect(self) before the accept, which may raise Reject",
        Case("", routes=handler("groups = ['a']\nasync def connect(self): ...")),
        Case("", routes=handler("topics = ['a']\nasync def on_connect(self): ...")),
    ),
    (
        "E022",
        "Correct it",
        Case("", settings={"WS_ALLOWED_ORIGINS": ["wss://a.b"]}),
        Case("", settings={"WS_ALLOWED_ORIGINS": ["https://a.b"]}),
    ),
    (
        "E023",
        'Write ("HTTP_X_FORWARDED_PROTO", "https")',
        Case("", settings={"SECURE_PROXY_SSL_HEADER": "HTTP_X_FORWARDED_PROTO"}),
        Case("", settings={"SECURE_PROXY_SSL_HEADER": ("HTTP_X_FORWARDED_PROTO", "https")}),
    ),
    (
        "W001",
        "Rename it to WS_MAX_CONNECTIONS.",
        Case("", settings={"WS_MAX_CONNECTION": 5}),
        Case("", settings={"WS_MAX_CONNECTION": ABSENT, "WS_MAX_CONNECTIONS": 5}),
    ),
    (
        "W003",
        "Rename it to on_close.",
        Case("", routes=handler("async def on_disconnect(self): ...")),
        Case("", routes=handler("async def on_close(self): ...")),
    ),
    (
        "W004",
        "Set ASGI_APPLICATION = 'tests.asgi.application'.",
        Case("", settings={"ASGI_APPLICATION": ABSENT}),
        Case("", settings={"ASGI_APPLICATION": "tests.asgi.application"}),
    ),
    (
        "W005",
        "application = get_websocket_application()",
        Case("", settings={"ASGI_APPLICATION": f"{__name__}.absent"}),
        Case("", settings={"ASGI_APPLICATION": f"{__name__}.application"}),
    ),
    (
        "W006",
        "application = get_websocket_application()",
        Case("", settings={"ASGI_APPLICATION": f"{MINE}.django_application"}),
        Case("", settings={"ASGI_APPLICATION": f"{__name__}.application"}),
    ),
    (
        "W007",
        'pip install "django-ws[server]"',
        Case("", without=("websockets", "wsproto")),
        Case(""),
    ),
    (
        "W008",
        "List the origins of your pages",
        Case("", settings={"WS_ALLOWED_ORIGINS": ["*"]}, deploy=True),
        Case("", settings={"WS_ALLOWED_ORIGINS": ["https://a.b"]}, deploy=True),
    ),
    (
        "W009",
        "Serve the pages with https and list them so",
        Case("", settings={"WS_ALLOWED_ORIGINS": ["http://a.b"]}, deploy=True),
        Case("", settings={"WS_ALLOWED_ORIGINS": ["https://a.b"]}, deploy=True),
    ),
    (
        "W010",
        "for example 'redis://127.0.0.1:6379/0'",
        Case("", settings={"WS_BROADCAST": ABSENT}, deploy=True),
        Case("", settings={"WS_BROADCAST": "redis://127.0.0.1:6379/0"}, deploy=True),
    ),
    (
        "W011",
        "Redis, Memcached or the database",
        Case("", settings={**TICKETS, "CACHES": LOCMEM}, deploy=True),
        Case("", settings={**TICKETS, "CACHES": DATABASE}, deploy=True),
    ),
    (
        "W012",
        'Move "django_ws" to the top of INSTALLED_APPS.',
        Case("", settings={"INSTALLED_APPS": ["django.contrib.staticfiles", "django_ws", *APPS]}),
        Case("", settings={"INSTALLED_APPS": ["django_ws", "django.contrib.staticfiles", *APPS]}),
    ),
    (
        "W020",
        "Give it another name.",
        Case("", routes=handler("def send(self): ...")),
        Case("", routes=handler("def deliver(self): ...")),
    ),
    (
        "W021",
        "on_broadcast(topic, message)",
        Case("", routes=handler("async def chat_message(self, event): ...")),
        Case("", routes=handler("async def on_broadcast(self, topic, message): ...")),
    ),
    (
        "W022",
        "Remove the entry",
        Case("", settings={"WS_ALLOWED_ORIGINS": ["null", "https://a.b"]}, deploy=True),
        Case("", settings={"WS_ALLOWED_ORIGINS": ["https://a.b"]}, deploy=True),
    ),
    (
        "W023",
        "Correct it",
        Case("", settings={"CSRF_TRUSTED_ORIGINS": ["https://a.b/"]}),
        Case("", settings={"CSRF_TRUSTED_ORIGINS": ["https://a.b"]}),
    ),
    (
        "W024",
        "Name the proxy in WS_TRUSTED_PROXIES",
        Case("", settings={"WS_MAX_CONNECTIONS_PER_ADDRESS": 5}, deploy=True),
        Case(
            "",
            settings={"WS_MAX_CONNECTIONS_PER_ADDRESS": 5, "WS_TRUSTED_PROXIES": ["10.0.0.5"]},
            deploy=True,
        ),
    ),
    (
        "W025",
        "Write return await super().authorize() in it",
        Case(
            "",
            routes=f"{MIXED}    async def authorize(self): ...\nurlpatterns = [path('ws/', Chat)]",
        ),
        Case(
            "",
            routes=f"{MIXED}    async def authorize(self):\n"
            "        return await super().authorize()\nurlpatterns = [path('ws/', Chat)]",
        ),
    ),
]

application = get_websocket_application()


each = pytest.mark.parametrize(
    ("number", "says", "wrong", "right"),
    FOLLOWED,
    ids=[f"{row[0]} {row[1][:30]}" for row in FOLLOWED],
)


@each
def test_the_hint_of_a_check_says_what_to_do(
    number: str,
    says: str,
    wrong: Case,
    right: Case,
    check: Check,  # noqa: F811
) -> None:
    [message] = check(wrong)
    assert message.id == f"django_ws.{number}"
    assert says in str(message.hint)


@each
def test_a_check_is_silent_when_its_hint_was_followed(
    number: str,
    says: str,
    wrong: Case,
    right: Case,
    check: Check,  # noqa: F811
) -> None:
    assert check(right) == []


def test_the_hint_of_every_check_is_followed_here() -> None:
    docs = (ROOT / "docs" / "checks.md").read_text()
    ids = set(re.findall(r"^\| `django_ws\.([EW]\d+)` \|", docs, re.MULTILINE))
    assert ids - {row[0] for row in FOLLOWED} == set()
