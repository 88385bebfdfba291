"""Permission to connect: Django's access mixins, for handlers.

They are evaluated before ``on_connect``, so before the accept, and whatever ``on_connect`` does.
Several on one class must all agree. A client without a user is refused with 401, one without the
right with 403. ``login_url``, ``redirect_field_name`` and ``raise_exception`` have no meaning
here, since a handshake cannot be redirected: they are not looked at.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.core.exceptions import ImproperlyConfigured

from django_ws.exceptions import Reject
from django_ws.handler import WebSocketHandler
from django_ws.pubsub.topics import user_topic


class AccessMixin(WebSocketHandler):
    """What the mixins share. List mixins before the handler class: Python refuses it otherwise."""

    permission_denied_message: str = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # In a thread super().authorize() would give a coroutine that nobody awaits: no check.
        if "authorize" in cls._hooks.sync:
            raise TypeError(
                f"{cls.__qualname__}.authorize is not async def. Write async def authorize(self) "
                "and return await super().authorize() in it."
            )

    def get_permission_denied_message(self) -> str:
        """What the refused client is told: nothing but the name of the status where empty."""
        return self.permission_denied_message

    def refusal(self) -> Reject:
        """401 for who is not logged in, 403 for who is."""
        status = 403 if _user_of(self).is_authenticated else 401
        reason = self.get_permission_denied_message() or HTTPStatus(status).phrase
        return Reject(status, reason)

    def _refusal(self) -> Reject:
        return self.refusal()


# Functions, not methods: a handler may have methods of these names itself.


def _user_of(handler: WebSocketHandler) -> Any:
    try:
        return handler.request.user
    except AttributeError:
        raise ImproperlyConfigured(
            f"{type(handler).__qualname__}: no middleware has set request.user. List "
            "'django_ws.middleware.AuthMiddleware', or one for tokens, in WS_MIDDLEWARE."
        ) from None


async def _result(function: Callable[[], Any]) -> Any:
    """The result of a function of the user's, which runs in a thread unless it is async."""
    if iscoroutinefunction(function):
        return await function()
    result = await sync_to_async(function)()
    return await result if inspect.isawaitable(result) else result


async def _passes(handler: WebSocketHandler, name: str, test: Callable[[], Any]) -> bool:
    """Whether a test of the user's gives true, as Django understands it.

    A coroutine, or a method that was not called, would be true whatever it stands for: raises
    ``TypeError`` for these.
    """
    result = await _result(test)
    if inspect.iscoroutine(result):
        result.close()
    elif not inspect.isroutine(result):
        return bool(result)
    raise TypeError(
        f"{type(handler).__qualname__}.{name}() gave {result!r} instead of True or False. Call "
        "it, and write await in front of what is async."
    )


async def _next_authorize(authorize: Callable[[], Any]) -> Any:
    """What the next class says. It may be a plain function, which belongs into a thread."""
    if getattr(authorize, "__func__", None) is WebSocketHandler.authorize:
        return None
    return await _result(authorize)


class LoginRequiredMixin(AccessMixin):
    """Only users who are logged in."""

    async def authorize(self) -> Any:
        if not _user_of(self).is_authenticated:
            raise self.refusal()
        return await _next_authorize(super().authorize)


class UserPassesTestMixin(AccessMixin):
    """Only users for whom ``test_func()``, sync or async, gives true."""

    def test_func(self) -> Any:
        raise NotImplementedError(
            f"{type(self).__qualname__} has UserPassesTestMixin and no test_func(). Write "
            "def test_func(self), or async def."
        )

    def get_test_func(self) -> Callable[[], Any]:
        """The test, ``test_func`` by default."""
        return self.test_func

    async def authorize(self) -> Any:
        _user_of(self)
        if not await _passes(self, "test_func", self.get_test_func()):
            raise self.refusal()
        return await _next_authorize(super().authorize)


class PermissionRequiredMixin(AccessMixin):
    """Only users with all of ``permission_required``: "app.codename", or several of them.

    ``topic_permissions`` says which topics may be joined, with which permissions, as in
    ``{"orders:*": "shop.view_order", "news": ()}``: a topic, or its beginning with ``*`` behind
    it, and one permission, several, or none at all. Where it is given, topics that no entry
    fits cannot be joined; where several fit, all of them count. The permissions are read once,
    before ``on_connect``; when they have changed, ``disconnect(user_topic(user), code=4403)``
    lets the user's clients connect again. The user's own ``user_topic`` needs none.
    """

    permission_required: str | Iterable[str] | None = None
    topic_permissions: Mapping[str, str | Iterable[str]] | None = None

    _open_topics: Mapping[str, bool] = {}

    def get_permission_required(self) -> Iterable[str]:
        """The permissions that the handshake asks for."""
        required = self.permission_required
        if required is not None:
            return (required,) if isinstance(required, str) else required
        if self.topic_permissions is not None:
            return ()
        raise ImproperlyConfigured(
            f"{type(self).__qualname__} has PermissionRequiredMixin and no permission_required. "
            'Write, for example, permission_required = "shop.view_order", or '
            "get_permission_required(), or topic_permissions."
        )

    def has_permission(self) -> Any:
        """Whether the user may connect. Override it as ``def`` or ``async def``."""
        # Not ahas_perms(): it passes over authentication backends that are not async.
        return _user_of(self).has_perms(self.get_permission_required())

    async def authorize(self) -> Any:
        _user_of(self)
        if not await _passes(self, "has_permission", self.has_permission):
            raise self.refusal()
        if self.topic_permissions is not None:
            self._open_topics = await sync_to_async(_open_topics)(self, self.topic_permissions)
        return await _next_authorize(super().authorize)

    def may_subscribe(self, topic: str) -> bool:
        if self.topic_permissions is None:
            return super().may_subscribe(topic)
        user = _user_of(self)
        if user.is_authenticated and topic == user_topic(user):
            return super().may_subscribe(topic)
        found = [is_open for pattern, is_open in self._open_topics.items() if fits(pattern, topic)]
        return bool(found) and all(found) and super().may_subscribe(topic)


def _open_topics(
    handler: WebSocketHandler, permissions: Mapping[str, str | Iterable[str]]
) -> dict[str, bool]:
    user = _user_of(handler)
    return {
        pattern: user.has_perms((needed,) if isinstance(needed, str) else needed)
        for pattern, needed in permissions.items()
    }


def fits(pattern: str, topic: str) -> bool:
    """Whether the pattern is this topic, or ends with ``*`` and the topic begins with the rest."""
    return topic.startswith(pattern[:-1]) if pattern.endswith("*") else topic == pattern
