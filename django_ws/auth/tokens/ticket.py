"""Tickets: a log-in that is good for one handshake within 30 s, for pages on other domains.

A ticket names its user, is signed with Django's signer and bound to the session hash, so that a
new password voids it. That it counts once is the work of Django's cache: the first who adds the
ticket's random part to it gets in. The cache must be one that all processes share and that adds
atomically: Redis, Memcached or the database; not local memory, not files.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.core.signing import BadSignature, TimestampSigner, b62_decode
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare, salted_hmac

from django_ws.auth.login import Login
from django_ws.auth.session import session_owner
from django_ws.auth.tokens.once import is_first, is_sharp

logger = logging.getLogger("django.ws")

TICKET_SECONDS = 30
CLOCK_SECONDS = 5  # how far the clock of another server may be ahead
_SALT = "django_ws.auth.ticket"


def make_ticket(request: HttpRequest) -> str:
    """A ticket for the user of this request, good for one connection within 30 s.

    Hand it to the page, which connects with ``?ticket=`` (``TicketAuthMiddleware``) or sends it
    first (``FirstMessageAuthMixin``). In async views use ``amake_ticket``. Raises ``ValueError``
    where nobody is logged in.
    """
    return _ticket_for(request, request.user)


async def amake_ticket(request: HttpRequest) -> str:
    """As ``make_ticket``, in async views."""
    return _ticket_for(request, await request.auser())


def _signer() -> TimestampSigner:
    # No ":" in it: a subprotocol could not carry that.
    return TimestampSigner(sep=".", salt=_SALT)


def _ticket_for(request: HttpRequest, user: Any) -> str:
    if not user.is_authenticated or user.pk is None:
        raise ValueError(
            "make_ticket(request): nobody is logged in. Let only logged-in users ask, for "
            "example with login_required."
        )
    session_key = getattr(getattr(request, "session", None), "session_key", None)
    owner = session_owner(session_key) if session_key else ""
    contents = [str(user.pk), _binding(user), owner, secrets.token_urlsafe(16)]
    return _signer().sign_object(contents)


def _binding(user: Any) -> str:
    """What changes with the password, and tells nothing about it."""
    get_hash = getattr(user, "get_session_auth_hash", str)
    return salted_hmac(_SALT, get_hash(), algorithm="sha256").hexdigest()[:32]


class TicketAuthenticator:
    """The tickets of ``make_ticket``. Each is taken once; to look at one is to use it up.

    The connection ends with the session in which the ticket was made, and not after 30 s.
    """

    name = "ticket"

    def __init__(self) -> None:
        self._users = get_user_model()._default_manager
        if not is_sharp() and not settings.DEBUG:
            logger.warning(
                "CACHES['default']: two processes may take the same ticket. Use a cache that all "
                "processes share: Redis, Memcached or the database."
            )

    async def authenticate(self, token: str) -> Login | None:
        contents = _contents(token)
        if contents is None:
            return None
        pk, binding, owner, nonce = contents
        # Longer than any ticket lives, on whichever server's clock.
        seconds = TICKET_SECONDS + 2 * CLOCK_SECONDS
        if not await sync_to_async(is_first)(f"django_ws:ticket:{_digest(nonce)}", seconds):
            return None
        try:
            user = await self._users.aget(pk=pk)
        except (ObjectDoesNotExist, ValueError, ValidationError):
            return None
        if not user.is_active or not constant_time_compare(binding, _binding(user)):
            return None
        return Login(user, owners=(owner,) if owner else ())


def _contents(ticket: str) -> list[str] | None:
    try:
        contents: list[str] = _signer().unsign_object(ticket, max_age=TICKET_SECONDS)
    except BadSignature:
        return None
    made_at = b62_decode(ticket.rsplit(".", 2)[1])
    # One from the future would outlive its place in the cache.
    return contents if made_at <= time.time() + CLOCK_SECONDS else None


def _digest(nonce: str) -> str:
    return hashlib.sha256(nonce.encode()).hexdigest()
