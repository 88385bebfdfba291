"""The interface of an authenticator: it turns a token into a log-in, or refuses it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any, Protocol

from django.core.exceptions import ImproperlyConfigured

from django_ws.logs.traceback_text import without_frames
from django_ws.types import Login

MAX_TOKEN_SIZE = 8192  # characters; servers take no longer header lines


class Authenticator(Protocol):
    """Looks at one kind of token. Build it once: it may be used for any number of tokens.

    ``name`` is what the kind is called where a client names it: the parameter of a URL
    (``?token=``) and the key in a first message (``{"token": ...}``).
    """

    name: str

    async def authenticate(self, token: str) -> Login | None:
        """The log-in that the token stands for; None where it is not valid, whatever it is.

        Raises only where it cannot be found out: the database is down, for example.
        """


class Secret:
    """A token that shows itself in no ``repr``, and so in no report of an exception's frames."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "<Secret>"


async def authenticate(authenticators: Iterable[Authenticator], token: Secret) -> Login | None:
    """The log-in by the first authenticator that takes the token; None where none does."""
    value = token.value
    if not 0 < len(value) <= MAX_TOKEN_SIZE or not (value.isascii() and value.isprintable()):
        return None
    del value
    for authenticator in authenticators:
        try:
            login = await authenticator.authenticate(token.value)
        except Exception as error:
            failure = error
            break
        if login is not None:
            return login
    else:
        return None
    raise without_frames(failure)


def library(module: str, package: str) -> Any:
    """A module of a library that is only needed for one kind of token."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"These tokens need {package}, which cannot be imported ({error}): "
            f"pip install {package}."
        ) from error
