"""Log-in by the first message, for clients that cannot, or should not, do it in the handshake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.dispatch import receiver

from django_ws.auth.tokens.authenticator import Authenticator, Secret, authenticate
from django_ws.handler import WebSocketHandler
from django_ws.types import Login

_built: dict[type[Authenticator], Authenticator] = {}


class FirstMessageAuthMixin(WebSocketHandler):
    """The handshake is accepted; before anything else the client must send a token.

    ``first_message_authenticators`` says which kinds are taken: classes of
    ``django_ws.auth.tokens``, or instances where they need arguments. The message is
    ``{"token": "..."}``, ``{"ticket": "..."}`` or the token itself, a string. Until a valid one
    came no hook runs, no topic is joined and no broadcast arrives; after
    ``first_message_seconds``, or with another message, the connection is closed with 4401.
    """

    first_message_authenticators: Sequence[type[Authenticator] | Authenticator] = ()
    first_message_seconds: float = 10.0

    async def authenticate_first(self, message: Any) -> Login | None:
        """The log-in that the decoded first message stands for; None where it is not valid.

        Raises ``ImproperlyConfigured`` where no authenticator is named, or one cannot be built.
        """
        takers, secret = _authenticators_of(self), None
        if isinstance(message, str):
            secret = Secret(message)
        elif isinstance(message, Mapping) and message.get("type", "auth") == "auth":
            given = [taker for taker in takers if isinstance(message.get(taker.name), str)]
            if given:
                secret = Secret(message[given[0].name])
                takers = [taker for taker in given if taker.name == given[0].name]
        del message  # what an exception's frames show must not have the token in it
        return None if secret is None else await authenticate(takers, secret)


# A function, not a method: a handler may have a method of this name itself.
def _authenticators_of(handler: FirstMessageAuthMixin) -> list[Authenticator]:
    if not handler.first_message_authenticators:
        raise ImproperlyConfigured(
            f"{type(handler).__qualname__} has FirstMessageAuthMixin and takes no token. Write, "
            "for example, first_message_authenticators = [TicketAuthenticator], from "
            "django_ws.auth.tokens."
        )
    return [
        _instance(entry) if isinstance(entry, type) else entry
        for entry in handler.first_message_authenticators
    ]


def _instance(kind: type[Authenticator]) -> Authenticator:
    """One for all connections: to build it may mean to import a library and to read a key."""
    if kind not in _built:
        _built[kind] = kind()
    return _built[kind]


@receiver(setting_changed)
def _forget(**kwargs: Any) -> None:
    _built.clear()
