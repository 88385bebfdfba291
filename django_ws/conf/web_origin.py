"""Origins of web pages and apps, as browsers send them and as settings list them.

An origin is a scheme, a host and a port (RFC 6454): ``https://example.com:8443``. Apps and
extensions have schemes of their own, some without a host. ``null`` and ``file://`` name nobody:
a frame in a sandbox and a file on disk send them, whosever they are.
"""

from __future__ import annotations

import re

from django.utils.http import is_same_domain

ORIGIN = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://"
    r"((?P<host>[a-z0-9_.-]+|\[[0-9a-f:.]+\])(:(?P<port>[0-9]{1,5}))?)?",
    re.IGNORECASE | re.ASCII,
)
DEFAULT_PORTS = {"http": "80", "https": "443"}
NULL = "null"
OF_SOCKETS = {"ws": "http", "wss": "https"}  # what is meant by them
FORM = "write scheme, host and, unless it is the scheme's default, port: 'https://example.com:8443'"


def parsed(origin: str) -> re.Match[str] | None:
    """Its ``scheme``, ``host`` (or None) and ``port`` (or None); None where it is no origin."""
    match = ORIGIN.fullmatch(origin)
    if match is None or (match["host"] is None and match["scheme"].lower() in DEFAULT_PORTS):
        return None
    return match


def canonical(origin: str) -> str:
    """Lower case, without the scheme's default port."""
    origin = origin.lower()
    scheme, _, _ = origin.partition("://")
    return origin.removesuffix(f":{DEFAULT_PORTS.get(scheme, 'none')}")


def names_nobody(origin: str) -> bool:
    """Whether any page on the web, or any file, may have this origin."""
    return origin.lower() == NULL or origin.lower().startswith("file:")


def is_listed(origin: str, listed: str) -> bool:
    """Django's rule for CSRF_TRUSTED_ORIGINS: ``https://*.`` allows the domain and all below it.

    In upper or lower case, and with or without the default port.
    """
    origin, listed = canonical(origin), canonical(listed)
    if "*" not in listed:
        return origin == listed
    scheme, _, domain = listed.partition("://")
    origin_scheme, _, host = origin.partition("://")
    return origin_scheme == scheme and is_same_domain(host, domain.lstrip("*"))


def listing_fault(listed: str) -> str:
    """Why no page can have what a setting lists, and what to write; "" where one can."""
    scheme, separator, host = listed.partition("://")
    if listed.lower() == NULL:
        return ""
    if not separator:
        return f"it has no scheme: {FORM}"
    if scheme.lower() in OF_SOCKETS:
        page = f"{OF_SOCKETS[scheme.lower()]}://{host}"
        return f"an origin is that of the page, not of the socket: write {page!r}"
    if "/" in host:
        page = f"{scheme}://{host.partition('/')[0]}"
        return f"an origin has no path, and no slash at its end: write {page!r}"
    if not host.isascii():
        return f"browsers send such a host in its ASCII form{_ascii_form(scheme, host)}"
    if "*" in host:
        if parsed(f"{scheme}://{host.removeprefix('*.')}") is None or not host.startswith("*."):
            return "a * stands at the beginning, with a dot behind it: 'https://*.example.com'"
        return ""
    return f"it is no origin: {FORM}" if parsed(listed) is None else ""


def _ascii_form(scheme: str, host: str) -> str:
    name, colon, port = host.partition(":")
    try:
        ascii_name = name.encode("idna").decode()
    except UnicodeError:
        return ""
    return f": write {f'{scheme}://{ascii_name}{colon}{port}'!r}"
