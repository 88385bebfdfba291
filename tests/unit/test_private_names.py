"""Private names of other packages that the library uses: few, listed, and each still as it is.

A newer release may change them without a word. Each has a test here that fails then.
"""

from __future__ import annotations

import ast
import asyncio
import sys
from asyncio import selector_events
from asyncio.sslproto import _SSLProtocolTransport
from collections.abc import Iterator
from contextvars import copy_context
from pathlib import Path
from threading import get_ident
from typing import Any

import pytest
import redis
import redis.asyncio
from asgiref.local import Local
from django.contrib.sessions.backends import cache, cached_db, signed_cookies
from django.core.cache.backends.base import BaseCache
from django.http import HttpRequest
from django.test import RequestFactory
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

import django_ws
from tests import ROOT

# In the order of docs/architecture.md, which says why.
NAMES = {
    "_asyncio_future_blocking",
    "_callbacks",
    "_current_tasks",
    "_SSLProtocolTransport",
    "_read_ready_cb",
    "_cache",
    "_get_session",
    "_aget_session",
    "_session",
    "_writer",
    "_reader",
    "_sock",
    "_available_connections",
    "_in_use_connections",
    "_should_upgrade",
    "_unset_keepalive_if_required",
    "_unsupported_upgrade_warning",
}
OVERRIDDEN = {"_get_scheme", "_upload_handlers"}
DOCUMENTED = {"_meta", "_default_manager", "_exit", "_current_frames"}  # in spite of their names
TYPES = {"_types"}  # of uvicorn: only a type checker imports it

PACKAGE = Path(django_ws.__file__).parent


def trees() -> Iterator[ast.Module]:
    for file in sorted(PACKAGE.rglob("*.py")):
        yield ast.parse(file.read_text())


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def defined_in(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                names.add(name)
            case ast.Assign(targets=[ast.Name(id="__slots__")], value=value):
                names |= {str(n.value) for n in ast.walk(value) if isinstance(n, ast.Constant)}
    return names


def used_in(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name):
                yield name
            case ast.ImportFrom(module=str(module), names=aliases):
                yield from module.split(".")
                yield from (alias.name for alias in aliases)
            case ast.Call(
                func=ast.Name(id="getattr" | "hasattr"), args=[_, ast.Constant(value=str(name)), *_]
            ):
                yield name


def test_no_other_private_name_is_used() -> None:
    """Those that the package defines itself, under the same name, cannot be told apart."""
    own = set().union(*(defined_in(tree) for tree in trees()))
    used = {name for tree in trees() for name in used_in(tree) if is_private(name)}
    assert used - own - NAMES - DOCUMENTED - TYPES == set()
    assert NAMES - used == set()


def test_the_documentation_lists_them() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert [name for name in sorted(NAMES | OVERRIDDEN) if f"`{name}`" not in page] == []


async def test_a_future_says_that_it_is_awaited() -> None:
    future = asyncio.get_running_loop().create_future()
    assert next(future.__await__()) is future
    assert future._asyncio_future_blocking is True
    future._asyncio_future_blocking = False


async def test_a_future_and_its_task_know_each_other() -> None:
    if sys.version_info >= (3, 12):  # which have a public way, and it is used
        [task] = asyncio.all_tasks()
        assert dict(task.get_context()) == dict(copy_context())
        return
    from asyncio.tasks import _current_tasks  # type: ignore[attr-defined]

    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    assert _current_tasks.get(loop) is task
    future = loop.create_future()
    seen: list[Any] = []

    def look() -> None:
        seen.extend(future._callbacks)
        future.set_result(None)

    loop.call_soon(look)
    await future
    [(_, context)] = seen
    assert dict(context) == dict(copy_context())


def test_a_transport_of_tls_is_of_this_class() -> None:
    """What a second ``close()`` does is in tests/integration/server/test_http_tls.py."""
    assert issubclass(_SSLProtocolTransport, asyncio.Transport)
    assert {"close", "is_closing"} <= set(dir(_SSLProtocolTransport))


def test_a_transport_keeps_its_own_method() -> None:
    transport: Any = getattr(selector_events, "_SelectorSocketTransport")  # noqa: B009
    assert "_read_ready_cb" in transport.set_protocol.__code__.co_names


@pytest.mark.parametrize("engine", [cache, cached_db])
def test_a_session_engine_with_a_cache_keeps_it_here(engine: Any) -> None:
    assert isinstance(engine.SessionStore()._cache, BaseCache)


async def test_a_session_loads_its_data_by_these() -> None:
    one, other = signed_cookies.SessionStore(), signed_cookies.SessionStore()
    one["a"] = 1
    assert one._get_session() == one._session == {"a": 1}  # type: ignore[attr-defined]
    assert await other._aget_session() == {}  # type: ignore[attr-defined]


def test_a_request_asks_this_for_its_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    request = RequestFactory().get("/")
    monkeypatch.setattr(HttpRequest, "_get_scheme", lambda self: "other", raising=True)
    monkeypatch.setattr(type(request), "_get_scheme", lambda self: "other", raising=True)
    assert request.scheme == "other"


def test_a_request_keeps_its_upload_handlers_here() -> None:
    request = HttpRequest()
    request.upload_handlers = []
    assert vars(request)["_upload_handlers"] == []


def test_a_connection_to_redis_has_its_socket_here() -> None:
    connect: Any = redis.Connection
    assert connect()._sock is None
    connection = redis.asyncio.Connection()
    assert (connection._writer, connection._reader) == (None, None)


def test_a_pool_of_redis_has_its_connections_here() -> None:
    pool = redis.asyncio.ConnectionPool()
    assert not pool._available_connections
    assert not pool._in_use_connections
    used = redis.ConnectionPool()
    assert not used._available_connections


def test_uvicorns_protocol_has_these_methods() -> None:
    names = {"_should_upgrade", "_unset_keepalive_if_required", "_unsupported_upgrade_warning"}
    assert names <= set(vars(HttpToolsProtocol))


def test_asgiref_hides_what_it_keeps_from_other_threads() -> None:
    """``lifecycle/background_tasks.py`` asks for ``thread_id`` of what asgiref keeps."""
    local = Local()
    local.name = "here"
    kept = [value for value in copy_context().values() if type(value).__module__ == "asgiref.local"]
    assert kept
    assert all(value.thread_id == get_ident() for value in kept)
