"""Tickets: a log-in that is good for one handshake within 30 s, for pages on other domains.

A ticket names its user, is signed with Django's signer and bound to the session hash, so that a
new password voids it. That it counts once is the work of Django's cache: the first who adds the
ticket's random part to it gets in. The key of the session that it was made in waits there as
well. The cache must be one that all processes share and that adds atomically: Redis, Memcached or
the database; not local memory, not files.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from importlib import import_module
from typing import Any

from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user_model
from django.contrib.sessions.backends.base import SessionBase
from django.core.exceptions import ObjectDoesNotExist, ValidationError
from django.core.signing import BadSignature, TimestampSigner, b62_decode
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare, salted_hmac

from django_ws.auth.joint_login import JointLogin
from django_ws.auth.login import Login
from django_ws.auth.session import SessionLogin, key_in_session
from django_ws.auth.session_user import user_in
from django_ws.auth.tokens.once import is_first, is_sharp
from django_ws.auth.tokens.ticket_session import keep_session, session_key_of
from django_ws.threads.caches import share_cache
from django_ws.types import Login as AnyLogin

logger = logging.getLogger("django.ws")

TICKET_SECONDS = 30
CLOCK_SECONDS = 5  # how far the clock of another server may be ahead
KEPT_SECONDS = TICKET_SECONDS + 2 * CLOCK_SECONDS  # longer than any ticket lives, on any clock
OWN, OTHER = "own", "other"  # whose session it is
_SALT = "django_ws.auth.ticket"


def make_ticket(request: HttpRequest) -> str:
    """A ticket for the user of this request, good for one connection within 30 s.

    Hand it to the page, which connects with ``?ticket=`` (``TicketAuthMiddleware``) or sends it
    first (``FirstMessageAuthMixin``). The connection ends with the session of this request. In
    async views use ``amake_ticket``. Raises ``ValueError`` where nobody is logged in, and what
    ``CACHES["default"]`` raises where its server is away.
    """
    session = _session_of(request)
    whose = _whose(request.user, session.get(SESSION_KEY) if session is not None else None)
    return _ticket_for(request.user, session, whose)


async def amake_ticket(request: HttpRequest) -> str:
    """As ``make_ticket``, in async views."""
    user, session = await request.auser(), _session_of(request)
    whose = _whose(user, await session.aget(SESSION_KEY) if session is not None else None)
    return await sync_to_async(_ticket_for)(user, session, whose)


def _session_of(request: HttpRequest) -> SessionBase | None:
    """None where the log-in is by something else."""
    session: SessionBase | None = getattr(request, "session", None)
    return session if session is not None and session.session_key else None


def _whose(user: Any, user_of_session: str | None) -> str | None:
    """Who is logged in by the session of the request: its user, somebody else, or nobody."""
    if user_of_session is None:
        return None
    return OWN if user_of_session == key_in_session(user) else OTHER


def _signer() -> TimestampSigner:
    # No ":" in it: a subprotocol could not carry that.
    return TimestampSigner(sep=".", salt=_SALT)


def _ticket_for(user: Any, session: SessionBase | None, whose: str | None) -> str:
    if not user.is_authenticated or user.pk is None:
        raise ValueError(
            "make_ticket(request): nobody is logged in. Let only logged-in users ask, for "
            "example with login_required."
        )
    nonce = secrets.token_urlsafe(16)
    contents = {"user": str(user.pk), "binding": _binding(user), "once": nonce}
    if session is not None and whose is not None:
        keep_session(nonce, session.session_key or "", KEPT_SECONDS)
        contents["session"] = whose
    return _signer().sign_object(contents)


def _binding(user: Any) -> str:
    """What changes with the password, and tells nothing about it."""
    get_hash = getattr(user, "get_session_auth_hash", str)
    return salted_hmac(_SALT, get_hash(), algorithm="sha256").hexdigest()[:32]


class TicketAuthenticator:
    """The tickets of ``make_ticket``. Each is taken once; to look at one is to use it up.

    The connection rests on the session in which the ticket was made, as if it had come with its
    cookie, and does not end after 30 s. Where that session was somebody else's (a middleware
    has made another user of its user) it rests on both.
    """

    name = "ticket"

    def __init__(self) -> None:
        self._users = get_user_model()._default_manager
        if not is_sharp() and not settings.DEBUG:
            logger.warning(
                "CACHES['default']: two processes may take the same ticket. Use a cache that all "
                "processes share: Redis, Memcached or the database."
            )

    async def authenticate(self, token: str) -> AnyLogin | None:
        contents = _contents(token)
        if contents is None:
            return None
        if not await sync_to_async(is_first)(
            f"django_ws:ticket:{_digest(contents['once'])}", KEPT_SECONDS
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
        return await sync_to_async(_login_by_session)(user, contents)


def _login_by_session(user: Any, contents: dict[str, Any]) -> AnyLogin | None:
    key = session_key_of(contents["once"])
    if key is None:
        return None
    session = import_module(settings.SESSION_ENGINE).SessionStore(key)
    share_cache(session)
    if contents["session"] == OWN:
        return SessionLogin(user, session)  # which is looked at before anything else
    user_of_session = user_in(session)
    if not user_of_session.is_authenticated:
        return None
    return JointLogin(SessionLogin(user_of_session, session), Login(user))


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
