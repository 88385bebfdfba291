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
from datetime import datetime
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.sessions.backends.base import SessionBase
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
    session = _session_of(request)
    expires_at = session.get_expiry_date() if session is not None else None
    return _ticket_for(request.user, session, expires_at)


async def amake_ticket(request: HttpRequest) -> str:
    """As ``make_ticket``, in async views."""
    user, session = await request.auser(), _session_of(request)
    expires_at = await session.aget_expiry_date() if session is not None else None
    return _ticket_for(user, session, expires_at)


def _session_of(request: HttpRequest) -> SessionBase | None:
    """None where the log-in is by something else."""
    session: SessionBase | None = getattr(request, "session", None)
    return session if session is not None and session.session_key else None


def _signer() -> TimestampSigner:
    # No ":" in it: a subprotocol could not carry that.
    return TimestampSigner(sep=".", salt=_SALT)


def _ticket_for(user: Any, session: SessionBase | None, expires_at: datetime | None) -> str:
    if not user.is_authenticated or user.pk is None:
        raise ValueError(
            "make_ticket(request): nobody is logged in. Let only logged-in users ask, for "
            "example with login_required."
        )
    contents = {"user": str(user.pk), "binding": _binding(user), "once": secrets.token_urlsafe(16)}
    of_session = {}
    if session is not None and expires_at is not None:
        owner = session_owner(session.session_key or "")
        of_session = {"session": owner, "until": round(expires_at.timestamp())}
    return _signer().sign_object(contents | of_session)


def _binding(user: Any) -> str:
    """What changes with the password, and tells nothing about it."""
    get_hash = getattr(user, "get_session_auth_hash", str)
    return salted_hmac(_SALT, get_hash(), algorithm="sha256").hexdigest()[:32]


class TicketAuthenticator:
    """The tickets of ``make_ticket``. Each is taken once; to look at one is to use it up.

    The connection ends with the session in which the ticket was made, by a log-out or when it
    would have expired as it was then, and not after 30 s.
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
        # Longer than any ticket lives, on whichever server's clock.
        seconds = TICKET_SECONDS + 2 * CLOCK_SECONDS
        if not await sync_to_async(is_first)(
            f"django_ws:ticket:{_digest(contents['once'])}", seconds
        ):
            return None
        try:
            user = await self._users.aget(pk=contents["user"])
        except (ObjectDoesNotExist, ValueError, ValidationError):
            return None
        if not user.is_active or not constant_time_compare(contents["binding"], _binding(user)):
            return None
        if "session" not in contents:
            return Login(user)
        return Login(user, owners=[contents["session"]], expires_at=contents["until"])


def _contents(ticket: str) -> dict[str, Any] | None:
    try:
        contents: dict[str, Any] = _signer().unsign_object(ticket, max_age=TICKET_SECONDS)
    except BadSignature:
        return None
    made_at = b62_decode(ticket.rsplit(".", 2)[1])
    # One from the future would outlive its place in the cache.
    return contents if made_at <= time.time() + CLOCK_SECONDS else None


def _digest(nonce: str) -> str:
    return hashlib.sha256(nonce.encode()).hexdigest()
