"""What the responses to a handshake mean, and what to do about each."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from django_ws.logs.printable import printable

STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
LOCATION = re.compile(rb"^location:[ \t]*(\S+)", re.IGNORECASE | re.MULTILINE)
RETRY_AFTER = re.compile(rb"^retry-after:[ \t]*(\d{1,9})\s*$", re.IGNORECASE | re.MULTILINE)

UPGRADE = "Does the proxy pass Upgrade and Connection on, and does an ASGI server stand behind it?"
CURES = {
    400: f"Is the host in ALLOWED_HOSTS, and does the proxy pass Host on? {UPGRADE}",
    401: "Log in: --header 'Cookie: sessionid=...' or --header 'Authorization: Bearer ...'.",
    403: "The origin is not allowed (--origin, CSRF_TRUSTED_ORIGINS, WS_ALLOWED_ORIGINS), or the "
    "user is not (--header): the server's log says which.",
    404: f"Is the path in ws_urls.py? {UPGRADE}",
    426: UPGRADE,
    429: "Too many connections or attempts: see WS_MAX_CONNECTIONS_PER_USER and _PER_ADDRESS.",
    502: "The proxy does not reach its server: is that running, and where the proxy thinks it is?",
    503: "Full (WS_MAX_CONNECTIONS), draining, or too slow (WS_CONNECT_TIMEOUT): the server's log "
    "says which.",
    504: "The proxy's server does not answer it in time.",
}
CLOSE_CURES = {
    1006: "The log of the server, or of the proxy, says why.",
    1011: "An exception in a hook: the server's log has it.",
    1012: "The server restarts: try again.",
    1013: "The server is full: try again later.",
    4429: CURES[429],
    4503: CURES[503],
}


class Refused(Exception):
    """Why no socket can be used, and what to do about it. One line each."""

    def __init__(self, cause: str, cure: str) -> None:
        super().__init__(f"{cause}. {cure}")
        self.cause = cause
        self.cure = cure


def refusal(head: bytes, secure: bool) -> Refused | None:
    """What the head of an answer says, as it came; None where it is the expected 101."""
    if not head:
        return Refused(
            "the connection was closed without an answer",
            "Does the port speak TLS (wss://)? Otherwise the server's log says why.",
        )
    found = STATUS.match(head)
    if found is None:
        start = printable(head[:20].decode("latin-1"))
        return Refused(f"what answers speaks no HTTP ({start!r})", "Correct the port, or wss://.")
    status = int(found[1])
    if status == 101:
        return None
    if status in (301, 302, 303, 307, 308):
        return _redirect(status, head)
    cause = f"refused with {status}"
    if status < 300:
        return Refused(f"answered with {status}, as for a page", UPGRADE)
    if wait := RETRY_AFTER.search(head):
        cause += f", to be tried again in {int(wait[1])} s"
    return Refused(cause, CURES.get(status, "The log of the server, or of the proxy, says why."))


def _redirect(status: int, head: bytes) -> Refused:
    found = LOCATION.search(head)
    cure = "Clients follow no redirect: use the URL that it leads to"
    try:
        target = urlsplit(found[1].decode("latin-1") if found else "")
    except ValueError:
        return Refused(f"redirected with {status} to what is no URL", f"{cure}.")
    # Without the query string: a redirect to a log-in may have a token in it. Nor a password.
    host = target.netloc.rpartition("@")[2]
    place = printable(f"{target.scheme}://{host}" if host else "") + printable(target.path)
    if target.scheme == "https":
        cure += ", with wss:// (SECURE_SSL_REDIRECT, or a proxy, wants TLS)"
    return Refused(f"redirected with {status} to {place or 'nowhere'}", f"{cure}.")


def close_cure(code: int) -> str:
    """What to do about a socket that was closed as soon as it was open."""
    if code in CLOSE_CURES:
        return CLOSE_CURES[code]
    return CURES.get(code - 4000, "The handler closes it: its code says why.")
